"""Delay and false alarms of the loop's drift detector when rewards fall. Prints JSON lines; a minute.

A stream of rewards of answers, whose mean falls by a given share in the middle, or does not fall. As in the loop, the
detector reads the whole stream anew at each look, and an alarm at any look counts.
"""

import argparse
import json

import numpy as np

from what_next.serving.loop.evidence import change

ANSWERS, LOOK = 20_000, 1000
MEAN = 0.3


def rewards(kind: str, fall: float, rng: np.random.Generator) -> np.ndarray:
    """Rewards of answers: 0 or 1; or the likes of six items, of users who differ in how much they like."""
    means = np.where(np.arange(ANSWERS) < ANSWERS // 2, MEAN, MEAN * (1 - fall))
    if kind == "click":
        return (rng.random(ANSWERS) < means).astype(float)
    liking = rng.gamma(2.0, 0.5, 1000)[rng.integers(1000, size=ANSWERS)]
    return rng.binomial(6, np.clip(means * liking, 0, 1)).astype(float) / 6


def noticed(stream: np.ndarray, delta: float) -> int | None:
    """The number of answers at the look that raises an alarm; None: no alarm."""
    for look in range(LOOK, len(stream) + 1, LOOK):
        found = change(stream[:look].tolist(), delta)
        if found is not None and found[2] < found[1]:
            return look
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--delta", type=float, nargs="+", default=[0.002])
    asked = parser.parse_args()
    for delta in asked.delta:
        for kind in ("click", "likes of people who differ"):
            for fall in (0.0, 0.1, 0.2, 0.5):
                streams = (rewards(kind, fall, np.random.default_rng(seed)) for seed in range(asked.seeds))
                looks = [noticed(stream, delta) for stream in streams]
                early = sum(look is not None and look <= ANSWERS // 2 for look in looks)
                late = [look - ANSWERS // 2 for look in looks if look is not None and look > ANSWERS // 2]
                print(
                    json.dumps(
                        {
                            "delta": delta,
                            "reward": kind,
                            "fall": fall,
                            "streams": len(looks),
                            "alarms_before": early,
                            "alarms_after": len(late),
                            "delay_median": float(np.median(late)) if late and fall else None,
                            "delay_90": float(np.quantile(late, 0.9)) if late and fall else None,
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
