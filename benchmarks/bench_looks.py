"""Gates repeated on a growing log: how often they promote a policy that is not better, and how soon a better one.

Prints JSON lines; two minutes. Two policies of known value are judged by SNIPS on the log of a third one. At each look
the fixed gate uses an interval for one look (here the normal one, the limit of the bootstrap), and the other gate the
confidence sequence of `what-next gate --looks any`. Rows are drawn as counts of their kinds (an item and its reward),
so that thousands of logs take seconds; a first check compares the bounds with those of the gate itself.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from what_next.off_policy.confidence_sequences import asymptotic, contrast, effect_of, normal_mixture
from what_next.off_policy.weighting import Terms, snips

NORMAL = 1.959964
FEW = 100
"""The least number of rewards with which a gate decides."""


@dataclass(frozen=True)
class Shop:
    """The expected reward of each item (the probability of a reward of 1), and how often each policy shows it."""

    name: str
    worth: np.ndarray
    logging: np.ndarray
    new: np.ndarray
    current: np.ndarray

    @property
    def kinds(self) -> np.ndarray:
        """For each kind of row: its probability, reward, and the weights of both policies. Shape [items * 2, 4]."""
        rows = []
        for reward in (0.0, 1.0):
            chance = self.logging * (self.worth if reward else 1 - self.worth)
            rewards = np.full(len(self.worth), reward)
            rows.append(np.stack([chance, rewards, self.new / self.logging, self.current / self.logging], axis=1))
        return np.concatenate(rows)

    def better(self, by: float) -> "Shop":
        """The same with a new policy that earns more by the share `by`, because its favourite item earns more."""
        worth = self.worth.copy()
        apart = self.new - self.current
        item = int(apart.argmax())
        # Before, all items have the same worth: worth * (1 + new * x) = (1 + by) * worth * (1 + current * x).
        worth[item] *= 1 + by / (self.new[item] - (1 + by) * self.current[item])
        assert np.isclose(self.new @ worth, (1 + by) * (self.current @ worth))
        return Shop(f"{self.name}, {by:.0%} better", worth, self.logging, self.new, self.current)


def shops() -> list[Shop]:
    """Shops of four items, and of fifty of which most are rare, where a few weights of 50 and more dominate the
    estimate."""
    four = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.15, 0.2, 0.25, 0.4]), np.array([0.35, 0.3, 0.2, 0.15])
    rare = np.arange(1, 51) ** -1.0
    rare /= rare.sum()
    mixed = 0.7 * rare + 0.3 / 50
    return [
        Shop("4 items", np.full(4, 0.4), *four),
        Shop("4 items, rare rewards", np.full(4, 0.05), *four),
        Shop("50 items, most of them rare", np.full(50, 0.1), mixed, np.full(50, 0.02), rare),
    ]


@dataclass(frozen=True)
class Looked:
    """Looks at many logs, each [runs, looks]: the difference, its standard error, the mean reward, rewards."""

    mean: np.ndarray
    error: np.ndarray
    earned: np.ndarray
    rewards: np.ndarray

    @property
    def one(self) -> np.ndarray:
        """Whether the fixed gate promotes."""
        return (self.mean - NORMAL * self.error > 0) & (self.rewards >= FEW)

    def any_(self, level: float = 95.0) -> np.ndarray:
        """Whether the gate for any number of looks promotes."""
        half = np.vectorize(normal_mixture)(self.error, 0.1 * self.earned, level)
        return (self.mean - half > 0) & (self.rewards >= FEW)


def looked(shop: Shop, runs: int, looks: int, rows: int, rng: np.random.Generator) -> Looked:
    """Looks at growing logs, each with `rows` rows more than the one before."""
    chance, reward, new, current = shop.kinds.T
    counts = rng.multinomial(rows, chance / chance.sum(), size=(runs, looks)).cumsum(axis=1).astype(float)
    parts = np.stack([new * reward, new, current * reward, current], axis=1)
    number, sums = counts.sum(axis=2), counts @ parts
    squares = counts @ (parts[:, :, None] * parts[:, None, :]).reshape(len(parts), -1)
    ours, theirs = sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]
    # The influence of each row: new (reward - ours) / mean weight - current (reward - theirs) / mean weight.
    line = np.stack(
        [number / sums[..., 1], -ours * number / sums[..., 1], -number / sums[..., 3], theirs * number / sums[..., 3]],
        axis=-1,
    )
    total = np.einsum("rli,rlij,rlj->rl", line, squares.reshape(*squares.shape[:2], 4, 4), line)
    earned = counts @ reward
    return Looked(ours - theirs, np.sqrt(total / (number - 1) / number), earned / number, earned)


def check(shop: Shop, rng: np.random.Generator) -> None:
    """The same bounds from rows, computed by the gate."""
    chance, reward, new, current = shop.kinds.T
    state = rng.bit_generator.state
    counts = rng.multinomial(3000, chance / chance.sum())
    rng.bit_generator.state = state
    seen = looked(shop, 1, 1, 3000, rng)
    kinds = np.repeat(np.arange(len(chance)), counts)
    terms = [snips(weights[kinds], reward[kinds]) for weights in (new, current)]
    bounds = asymptotic(*terms, effect_of(reward[kinds], 3000.0))
    half = normal_mixture(seen.error.item(), 0.1 * seen.earned.item())
    assert np.allclose(bounds, (seen.mean.item() - half, seen.mean.item() + half))


def equal(shop: Shop, runs: int, looks: int, rows: int, rng: np.random.Generator) -> dict[str, float]:
    """The share of logs in which one of two equal policies is promoted at some look."""
    seen = looked(shop, runs, looks, rows, rng)
    said = {"one": seen.one, "any": seen.any_(), "any, 90 %": seen.any_(90.0)}
    return {name: float(promoted.any(axis=1).mean()) for name, promoted in said.items()}


def sooner(shop: Shop, runs: int, rng: np.random.Generator, power: float) -> dict[str, float]:
    """Rows with which the fixed gate, used once, promotes in a share `power` of logs; and the share of logs in which
    one of 200 looks promotes within 1.5 and 2 times as many rows, with sequences of 95 % and of 90 %."""
    rough = looked(shop, 200, 1, 20_000, rng)
    need = (NORMAL + 1.2) ** 2 * 20_000 * float(np.square(rough.error / rough.mean.mean()).mean())
    step = max(1, round(2.4 * need / 200))
    seen = looked(shop, runs, 200, step, rng)
    place = int((seen.one.mean(axis=0) >= power).argmax())
    found: dict[str, float] = {"fixed_rows": float(step * (place + 1)), "fixed": float(seen.one[:, place].mean())}
    for level in (95.0, 90.0):
        ever = np.maximum.accumulate(seen.any_(level), axis=1)
        for times in (1.5, 2.0):
            last = min(200, round(times * (place + 1))) - 1
            found[f"within {times:g} times, {level:g} %"] = float(ever[:, last].mean())
    return found


def growing(runs: int, looks: int, rng: np.random.Generator) -> Iterator[tuple[Terms, Terms, float]]:
    """Logs of 500 returning users, each with their own taste and a row in a tenth of the looks.

    Yields, for each look of each log, both estimates by user and the mean reward.
    """
    users, (item, other) = 500, (0, 1)
    for _ in range(runs):
        rows = rng.random((looks, users)) < 0.2
        likes = rng.beta(1, 1, users)  # the rate of one item; the other has the rest, so both are equal on average
        shown = np.where(rng.random((looks, users)) < 0.5, item, other)
        chance = np.where(shown == item, likes, 1 - likes) * 0.6
        reward = rows * (rng.random((looks, users)) < chance)
        new = rows * np.where(shown == item, 1.8, 0.2)
        current = rows * np.where(shown == item, 0.2, 1.8)
        tables = [one.cumsum(axis=0) for one in (new * reward, new, current * reward, current)]
        for look in range(looks):
            a, b, c, d = (one[look] for one in tables)
            yield Terms(a, b), Terms(c, d), float(reward[: look + 1].sum() / max(1, rows[: look + 1].sum()))


def returning(runs: int, looks: int, rng: np.random.Generator) -> dict[str, float]:
    """The same for returning users, with users as units."""
    wrong = np.zeros((runs, looks), bool)
    for place, (ours, theirs, earned) in enumerate(growing(runs, looks, rng)):
        bounds = asymptotic(ours, theirs, 0.1 * earned)
        wrong.flat[place] = bounds is not None and bounds[0] > 0 and place % looks >= 5
    return {"any": float(wrong.any(axis=1).mean())}


def live(runs: int, looks: int, share: float, better: float, rng: np.random.Generator) -> dict[str, float]:
    """Two arms of users with live feedback, at a rate of .2: how often each is called the better one at some look."""
    users, rows = 2000, 20_000
    said = {"better": 0, "worse": 0}
    for _ in range(runs):
        ours = rng.random(users) < share
        rates = np.minimum(1, rng.beta(2, 8, users) * np.where(ours, 1 + better, 1.0))
        who = rng.integers(users, size=rows)
        rewards = (rng.random(rows) < rates[who]).astype(float)
        for row in range(rows // looks, rows + 1, rows // looks):
            verdict = contrast(who[:row], ours[who[:row]], rewards[:row]).verdict()
            if verdict != "undecided":
                said[verdict] += 1
                break
    return {name: count / runs for name, count in said.items()}


def tell(part: str, **values: object) -> None:
    print(json.dumps({"benchmark": "looks", "part": part, **values}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="logs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    for shop in shops():
        check(shop, rng)
        for looks in (1, 60, 200):
            found = equal(shop, asked.runs, looks, 100 if looks > 1 else 6000, rng)
            tell("equal", shop=shop.name, runs=asked.runs, looks=looks, promoted=found)
        for power in (0.8, 0.9):
            tell(
                "better",
                runs=asked.runs,
                shop=shop.better(0.1).name,
                power=power,
                **sooner(shop.better(0.1), asked.runs, rng, power),
            )
    tell("users who come back, equal", runs=asked.runs, looks=200, promoted=returning(asked.runs, 200, rng))
    for share in (0.1, 0.5):
        for better in (0.0, -0.3, 0.3):
            runs = max(1, asked.runs // (5 if better else 2))
            tell("live", share=share, better=better, runs=runs, looks=50, said=live(runs, 50, share, better, rng))


if __name__ == "__main__":
    main()
