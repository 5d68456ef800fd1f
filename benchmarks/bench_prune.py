"""Savings of pruning: the best score on the validation users against processor seconds, with and without pruning.

Prints a JSON line for each search: when each trial ended, and the best score until then. A search with pruning gets the
same processor time, and so has more trials; its line gives the share of that time after which it reached the best score
of the search without pruning.

    python benchmarks/bench_prune.py                    # ml-100k, 12 trials of 5 passes, two seeds: ten minutes
    python benchmarks/bench_prune.py --seeds 0 --trials 4 --passes 2
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sets

from what_next import Setup, State
from what_next.experiments.tuning import Trial, tune

KINDS = (None, "halving", "hyperband")


class OverError(Exception):
    """The time of a search is used up."""


def search(state: State, setup: Setup, trials: int, prune: str | None, most: float = math.inf) -> dict[str, Any]:
    """One search of `trials` or `most` seconds: processor seconds at the end of each trial, score, best so far."""
    ends, start = list[list[float]](), time.process_time()

    def tell(trial: Trial, best: Trial) -> None:
        ends.append([round(time.process_time() - start, 1), round(trial.score, 5), round(best.score, 5)])
        if ends[-1][0] >= most:
            raise OverError

    with tempfile.TemporaryDirectory() as folder, suppress(OverError):
        tune(setup, trials, seconds=1e6, study=Path(folder) / "study.jsonl", prune=prune, state=state, tell=tell)
    return {"benchmark": "prune", "prune": prune, "seed": setup.seed, "passes": setup.passes, "ends": ends}


def until(found: dict[str, Any], score: float) -> float:
    """Processor seconds until a search reached a score; infinite if it never did."""
    return next((seconds for seconds, _, best in found["ends"] if best >= score), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="ml-100k", choices=sets.SETS)
    parser.add_argument("--folder", type=Path, default=sets.FOLDER)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", type=lambda kind: None if kind == "none" else kind, default=KINDS)
    parser.add_argument("--seconds", type=float, default=math.inf, help="processor seconds of each search, at most")
    asked = parser.parse_args()
    dataset, found = sets.read(asked.set, asked.folder), {}
    for seed in asked.seeds:
        setup = Setup(
            train=True, data=Path(f"{asked.set}.parquet"), algorithm="next_item", split="leave_last_out", dim=asked.dim,
            passes=asked.passes, patience=100, linear="no", seed=seed, threads=1, device="cpu",
            model_agent_path=Path("agent.safetensors"), model_critic_path=Path("critic.safetensors"),
        )  # fmt: skip
        state = State(dataset, setup)
        for prune in asked.kinds:
            most = asked.seconds if prune is None or (seed, None) not in found else found[seed, None]["ends"][-1][0]
            trials = asked.trials if prune is None else 100 * asked.trials
            found[seed, prune] = search(state, setup, trials, prune, most)
            print(json.dumps({"set": asked.set, **found[seed, prune]}), flush=True)
    for prune in asked.kinds if None in asked.kinds else ():
        whole = [found[seed, prune]["ends"][-1] for seed in asked.seeds]
        to = [(found[seed, None]["ends"][-1][2]) for seed in asked.seeds]
        shares = [
            until(found[seed, prune], score) / until(found[seed, None], score)
            for seed, score in zip(asked.seeds, to, strict=True)
        ]
        told = {
            "prune": prune,
            "processor_s": round(statistics.mean(one[0] for one in whole), 1),
            "best": [one[2] for one in whole],
            "of_the_time_to_the_best_without": [round(one, 2) for one in shares],
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main()
