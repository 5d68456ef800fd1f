"""Does the loop pay? A simulated shop uses the real service over HTTP, day by day, and the loop runs every night.

Users of a world request recommendations, answer them and come back. The first model was trained on a log of popular
items. Each arm has the same users and random numbers, so that users differ only by what they are shown. Prints a JSON
line for each arm and seed, and a table; `--out` appends the lines to a file, `--draw` draws the days.

    python benchmarks/loop.py                                         # 200 users, 6 days: minutes
    python benchmarks/loop.py --users 2000 --days 30 --seeds 0 1 2    # hours
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from what_next import Environment, Setup
from what_next.data import Options, import_files, save
from what_next.serving.loop.journal import Journal, journal_path
from what_next.serving.loop.loop import Loop
from what_next.serving.store import Store, store_of
from what_next.worlds import Boredom, Sessions, Streams, World

DAY, MINUTE = 86_400 * 10**6, 60 * 10**6
STEPS = {"boredom": 5, "sessions": 12}
"""Maximum number of slates in a visit; in `sessions` the user leaves earlier."""
WORLDS: dict[str, World] = {
    "boredom": Boredom(items=300, slots=10, steps=None),
    "sessions": Sessions(items=300, reward="visits", month=10_000, steps=None),
}
ITEMS = 300
ARMS = ("loop rl", "loop next_item", "no loop", "popular", "random", "greedy", "aware")
RULES = ("popular", "random", "greedy", "aware")
TOGETHER = 100
"""Recommendations in one batch request."""
SETUP = """train, yes
data, first.parquet
inputs.items, learned
dim, 32
skip, no
threads, 1
device, cpu
batch_size, 64
passes, {passes}
learning_rate, 0.005
max_length, 50
model_agent_path, agent.safetensors
model_critic_path, critic.safetensors
server.import_data, yes
server.rate, 0
server.deadline, 10000
server.temperature, {temperature}
server.popular_every, 5
evaluation.seen, yes
loop.every, 80000
loop.fresh, 3
loop.shadow, 50
loop.canary, 0.5
loop.answers, {answers}
loop.exploration, 0.001
loop.patience, 216000
"""
RL = {"boredom": "algorithm, reinforce\n", "sessions": "algorithm, reinforce\n"}


@dataclass(eq=False)
class People:
    """The users of a world, each with their own random stream.

    Attributes:
        world: their world; `state`: their state; `draws`: their random streams; `visits`: their number of visits.
    """

    world: World
    state: Any
    draws: Streams
    visits: int = 0

    @classmethod
    def of(cls, world: World, users: int, seed: int) -> "People":
        keys = np.random.default_rng(seed).integers(2**63, size=users).astype(np.uint64)
        draws = Streams(keys)
        return cls(world, world.reset(users, draws), draws)

    def present(self, day: int) -> np.ndarray:
        """The users who visit today."""
        days = getattr(self.state, "day", None)
        here = np.arange(len(self.state.age)) if days is None else np.flatnonzero(days == day)
        self.visits += len(here)
        return here

    def see(self, users: np.ndarray, slates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Show each of some users a slate; returns the reward of each item (0 if it was skipped), and who stays."""
        after, feedback = self.world.step(self.state.rows(users), slates, self.draws.of(users))
        self.state = self.state.put(users, after)
        if not isinstance(self.world, Sessions):
            return feedback.clicks.astype(np.float64), np.ones(len(users), np.bool_)
        responses = feedback.responses  # type: ignore[attr-defined]
        worth = np.where(responses == 2, 1.0, np.where(responses == 1, -self.world.regret, 0.0))
        return worth, ~feedback.left  # type: ignore[attr-defined]

    def change_tastes(self) -> None:
        """Change the tastes of all users to other topics."""
        self.state = replace(self.state, tastes=np.roll(self.state.tastes, 3, axis=1))


@dataclass
class Days:
    """The results, a number for each day or for each user.

    Attributes:
        reward: mean of an answer; `answers`, `visits`: their numbers. `coverage`, `gini`: of the items of all answers.
        change_error: standard error of the change of `reward` since the day before, with users as units; the first is
            0. A user who came on only one of the two days counts only in that day's mean.
        late_reward, late_answers: of each user, in the last third of the days. `visits_of_user`: on all days.
    """

    reward: list[float] = field(default_factory=list)
    change_error: list[float] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    gini: list[float] = field(default_factory=list)
    late_reward: list[float] = field(default_factory=list)
    late_answers: list[float] = field(default_factory=list)
    visits_of_user: list[int] = field(default_factory=list)
    moved: Any = None
    """By how much each user moved the mean of the latest day (the delta method of a ratio); it is not kept."""

    def add(self, day: "Day", late: bool) -> None:
        """Add a day; `late`: it is in the last third."""
        earned, answers = day.earned, day.answers
        value = earned.sum() / max(answers.sum(), 1)
        moved = (earned - value * answers) / max(answers.mean(), 1e-9)
        before = moved if self.moved is None else self.moved
        self.change_error.append(float((moved - before).std(ddof=1) / np.sqrt(len(moved))))
        self.moved = moved
        for kept, new in (
            ("late_reward", earned * late),
            ("late_answers", answers * late),
            ("visits_of_user", day.here),
        ):
            setattr(self, kept, (np.array(getattr(self, kept) or np.zeros(len(new))) + new).tolist())
        counts = np.sort(day.shown)
        places = np.arange(1, len(counts) + 1)
        self.reward.append(float(value))
        self.answers.append(int(answers.sum()))
        self.visits.append(int(day.here.sum()))
        self.coverage.append(float((counts > 0).mean()))
        total = max(counts.sum(), 1)
        self.gini.append(float(((2 * places - len(counts) - 1) * counts).sum() / (len(counts) * total)))

    def kept(self) -> dict[str, Any]:
        """The content of a JSON line."""
        return {name: value for name, value in vars(self).items() if name != "moved"}


class Day:
    """Counts of a day, for each user: whether they came, their rewards, and their number of answers."""

    def __init__(self, users: int, here: np.ndarray) -> None:
        self.here, self.earned, self.answers = np.zeros(users, np.int64), np.zeros(users), np.zeros(users)
        self.shown = np.zeros(ITEMS)
        self.here[here] = 1

    def note(self, users: np.ndarray, slates: np.ndarray, worth: np.ndarray) -> None:
        """Add one answer for each of some users."""
        self.earned[users] += worth.sum(axis=1)
        self.answers[users] += 1
        np.add.at(self.shown, slates, 1)


class Shop:
    """A client of the service with one HTTP connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.events = 0

    def ask(self, path: str, body: Any) -> Any:
        for _ in range(100):
            try:
                self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
                answer = self.connection.getresponse()
            except (http.client.HTTPException, OSError):  # the service closed the idle connection
                self.connection.close()
                continue
            told = answer.read()
            if answer.status not in (503, 504, 429):
                break
            time.sleep(0.1)
        if answer.status >= 300:
            raise SystemExit(f"{path}: {answer.status} {told[:500]!r}")
        return json.loads(told)

    def slates(self, users: np.ndarray, slots: int) -> tuple[np.ndarray, list[str]]:
        """The slate of each user, and the id of the recommendation."""
        items, names = np.zeros((len(users), slots), np.int64), list[str]()
        for start in range(0, len(users), TOGETHER):
            some = users[start : start + TOGETHER].tolist()
            asked = [{"user_id": f"u{user}", "k": slots, "exclude_seen": False} for user in some]
            while asked:
                found = self.ask("/v1/recommendations/batch", {"requests": asked})["answers"]
                if all("items" in one for one in found):
                    break
                time.sleep(0.05)
            for row, one in enumerate(found, start):
                items[row] = [int(item["item_id"][1:]) for item in one["items"]]
                names.append(one["recommendation_id"])
        return items, names

    def tell(self, users: np.ndarray, slates: np.ndarray, names: Sequence[str], worth: np.ndarray, when: int) -> None:
        """Send the plays and their rewards."""
        rows, slots = np.nonzero(worth)
        told = []
        for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            self.events += 1
            told.append(
                {
                    "event_id": f"e{self.events}", "user_id": f"u{users[row]}", "item_id": f"i{slates[row, slot]}",
                    "event": "play", "timestamp": when + slot, "reward": float(worth[row, slot]),
                    "recommendation_id": names[row],
                }
            )  # fmt: skip
        for start in range(0, len(told), 1000):
            self.ask("/v1/events/batch", {"events": told[start : start + 1000]})


def first_log(people: People, folder: Path, days: int = 3) -> None:
    """Write the log of some days on which items were drawn in proportion to their plays so far."""
    world, rng, rows = people.world, np.random.default_rng(1), list[tuple[str, str, int, float]]()
    start = time.time_ns() // 1000 - 60 * DAY
    counts, everyone = np.ones(ITEMS), np.arange(len(people.state.age))
    if hasattr(people.state, "day"):  # first visits are spread over several days
        people.state = replace(people.state, day=(everyone % days).astype(np.int32))
    for day in range(days):
        users = people.present(day)
        for step in range(STEPS[world.name]):
            if not len(users):
                break
            scores = np.log(counts / counts.sum()) + rng.gumbel(size=(len(users), ITEMS))
            slates = np.argsort(-scores, axis=1)[:, : world.slots]
            worth, stay = people.see(users, slates)
            for row, slot in zip(*np.nonzero(worth), strict=True):
                when = start + day * DAY + step * MINUTE + int(slot)
                rows.append((f"u{users[row]}", f"i{slates[row, slot]}", when, float(worth[row, slot])))
            np.add.at(counts, slates[worth > 0], 1)
            users = users[stay]
    names = ["user_id", "item_id", "timestamp", "reward"]
    frame = pl.DataFrame(rows, names, orient="row").with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
    frame.write_parquet(folder / "raw.parquet")
    items = pl.DataFrame(
        {"item_id": [f"i{one}" for one in range(ITEMS)], "title": [f"Item {one}" for one in range(ITEMS)]}
    )
    items.write_parquet(folder / "raw.items.parquet")
    save(import_files([folder / "raw.parquet"], folder / "raw.items.parquet", Options()), folder / "first.parquet")


@contextmanager
def serving(setup: Path) -> Iterator[int]:
    """Run `what-next serve` as a process of its own; yields its port."""
    words = [sys.executable, "-m", "what_next", "serve", str(setup), "server.port=0", "--json"]
    with (setup.parent / "service.log").open("w") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit((setup.parent / "service.log").read_text())
        yield int(json.loads(line)["address"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(60)


@dataclass(frozen=True)
class Case:
    """The conditions that all arms of a comparison share."""

    world: str
    users: int
    days: int
    seed: int
    shift: int | None
    temperature: float
    answers: int
    rl: str
    passes: int

    def late(self, day: int) -> bool:
        """Whether a day is in the last third; the first three days are those of the log."""
        return day - 3 >= self.days - self.days // 3

    def people(self) -> People:
        return People.of(WORLDS[self.world], self.users, self.seed)


def by_rule(case: Case, arm: str, folder: Path) -> Days:
    """Run an arm with a policy that needs no service."""
    people, days = case.people(), Days()
    first_log(people, folder)
    rule = people.world.references()[arm]
    for day in range(3, 3 + case.days):
        if case.shift is not None and day - 3 == case.shift:
            people.change_tastes()
        users = people.present(day)
        today = Day(case.users, users)
        for _ in range(STEPS[case.world]):
            if not len(users):
                break
            slates = np.asarray(rule(people.state.rows(users), people.draws.of(users)))
            worth, stay = people.see(users, slates)
            today.note(users, slates, worth)
            users = users[stay]
        days.add(today, case.late(day))
    return days


def by_service(case: Case, arm: str, folder: Path) -> tuple[Days, dict[str, Any]]:
    """Run an arm with a model in the service, which the loop changes, if the arm has one."""
    people, days = case.people(), Days()
    first_log(people, folder)
    first = SETUP.format(temperature=case.temperature, passes=case.passes, answers=case.answers)
    (folder / "first.txt").write_text(first + "algorithm, next_item\n")
    (folder / "setup.txt").write_text(first + (case.rl if arm == "loop rl" else "algorithm, next_item\n"))
    Environment.from_setup(Setup.read(folder / "first.txt")).run_sim()
    virtual, spent = time.time_ns() // 1000 - 50 * DAY, 0.0
    with serving(folder / "first.txt") as port:
        shop, setup = Shop(port), Setup.read(folder / "setup.txt", ["train=no"])
        store = Store.open(store_of(setup))
        now = [virtual]
        journal = Journal.open(journal_path(setup), clock=lambda: now[0])
        loop = Loop(setup, store, journal) if arm.startswith("loop") else None

        def learn() -> float:
            before = time.process_time()
            if loop is not None:
                loop.run()
                wait_for(store, port)
            return time.process_time() - before

        for day in range(3, 3 + case.days):
            if case.shift is not None and day - 3 == case.shift:
                people.change_tastes()
            users = people.present(day)
            today = Day(case.users, users)
            for step in range(STEPS[case.world]):
                if not len(users):
                    break
                now[0] = virtual + day * DAY + step * 10 * MINUTE
                slates, names = shop.slates(users, people.world.slots)
                worth, stay = people.see(users, slates)
                shop.tell(users, slates, names, worth, now[0])
                today.note(users, slates, worth)
                users = users[stay]
                if step in (0, 1):
                    spent += learn()
            days.add(today, case.late(day))
            now[0] = virtual + day * DAY + DAY - MINUTE
            spent += learn()
            print(
                f"{arm}, day {day - 2}: {days.reward[-1]:.3f} for each of {days.answers[-1]:,} answers", file=sys.stderr
            )
        status = journal.status(10_000)
        kinds = [one.kind for one in store.deployments()]
        told = {"deployments": kinds, "lines": [f"{(one['time'] - virtual) // DAY - 2}: {one['step']}: {one['told']}"
                for one in reversed(status["lines"])], "processor_seconds": round(spent, 1)}  # fmt: skip
        journal.close()
        store.close()
    return days, told


def wait_for(store: Store, port: int) -> None:
    """Wait until the service has loaded the versions that the store names."""
    wanted, newest = store.second(), store.deployments()[-1].version
    for _ in range(600):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/v1/model")
        model = json.loads(connection.getresponse().read())
        connection.close()
        beside = (model["canary"] or model["shadow"] or {}).get("version")
        if model["version"] == newest and beside == (wanted.version if wanted else None):
            return
        time.sleep(0.05)
    raise SystemExit(f"the service did not take up {newest} and {wanted}: {model}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=list(WORLDS), nargs="+", default=["sessions"])
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--shift", type=int, help="days until tastes change")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--answers", type=int, default=20_000, help="answers of a canary, at most")
    parser.add_argument("--rl", nargs="+", default=["algorithm, reinforce"], help="lines of the setup of `loop rl`")
    parser.add_argument("--out", type=Path, help="file to add the lines to")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for world in asked.world:
        for seed in asked.seeds:
            for arm in asked.arms:
                case = Case(world, asked.users, asked.days, seed, asked.shift, asked.temperature, asked.answers,
                            "\n".join(asked.rl) + "\n", asked.passes)  # fmt: skip
                began = time.perf_counter()
                with tempfile.TemporaryDirectory() as scratch:
                    if arm in RULES:
                        days, told = by_rule(case, arm, Path(scratch)), {}
                    else:
                        days, told = by_service(case, arm, Path(scratch))
                seconds = round(time.perf_counter() - began, 1)
                line = {"arm": arm, **vars(case), **days.kept(), **told, "seconds": seconds}
                if asked.out:
                    with asked.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                summary = {
                    "reward": sum(np.multiply(days.reward, days.answers)) / sum(days.answers),
                    "last": days.reward[-1],
                }
                visits = sum(days.visits) / case.users
                print(
                    json.dumps(
                        {"world": world, "seed": seed, "arm": arm, **summary, "visits": visits, "seconds": seconds}
                    )
                )


if __name__ == "__main__":
    main()
