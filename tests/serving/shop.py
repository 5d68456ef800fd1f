"""A shop whose log shows what is popular, and whose users like something else: served in this process.

Half of the users heard `east` first, half `west`; then all of them heard popular items. Shown something, those of the
east like e0 to e2, those of the west w0 to w2; popular items they like seldom, and others hardly ever.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from what_next.agent import Agent
from what_next.data import Options, import_files, save
from what_next.environment import Environment, Report
from what_next.policy import LearnedPolicy
from what_next.serving.store import AddFeedback
from what_next.serving.store.export import exported
from what_next.settings import Setup
from what_next.state import State
from what_next.types import Permitted, Request

from .engines import Service, asking, running

POPULAR = [f"p{n}" for n in range(4)]
ITEMS = ["east", "west", *POPULAR, *(f"{side}{n}" for side in "ew" for n in range(3)), *(f"o{n}" for n in range(6))]
LIKED, SELDOM, HARDLY = 0.8, 0.2, 0.05
SHOWN = 60
"""Users who are shown something."""


def liking(side: str, item: str) -> float:
    """The chance that a user of a side likes an item."""
    if item[0] == side[0] and item[1:].isdigit():
        return LIKED
    return SELDOM if item in POPULAR else HARDLY


def heard(rng: np.random.Generator, side: str) -> list[str]:
    """What a user of a side heard."""
    return [side, *rng.choice(POPULAR, 3, replace=False, p=[0.4, 0.3, 0.2, 0.1])]


def setup_in(folder: Path, **server: object) -> Setup:
    """A shop's setup: a model of next items, trained on histories in which popular items came next."""
    rng = np.random.default_rng(0)
    rows = [
        (f"h{user}", item, 1000 * user + place)
        for user in range(200)
        for place, item in enumerate(heard(rng, ("east", "west")[user % 2]))
    ]
    pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row").write_csv(folder / "raw.csv")
    pl.DataFrame({"item_id": ITEMS, "title": ITEMS}).write_csv(folder / "items.csv")
    save(import_files([folder / "raw.csv"], folder / "items.csv", Options()), folder / "shop.parquet")
    values = {
        "data": "shop.parquet", "algorithm": "next_item", "passes": 4, "dim": 16, "batch_size": 16, "dropout": 0.0,
        "threads": 1, "device": "cpu", "precision": "fp32", "split": "users", "split.test": 0, "split.validation": 0,
        "model_agent_path": "agent.safetensors", "model_critic_path": "critic.safetensors", "server.deadline": 60_000,
        "train": "yes", **{f"server.{name}": value for name, value in server.items()},
    }  # fmt: skip
    (folder / "setup.txt").write_text("".join(f"{key}, {value}\n" for key, value in values.items()))
    setup = Setup.read(folder / "setup.txt")
    trained(setup)
    return setup


def trained(setup: Setup, *, force: bool = False) -> Report:
    """Train what a setup says."""
    state = State.from_setup(setup)
    return Environment(Agent(setup, state.space), state, setup, force=force).train_agent()


def served(service: Service, rounds: int = 5, slots: int = 3, seed: int = 1, likes: bool = True) -> float:
    """Serve the shop's users; returns what an answer brought on average."""
    rng, total = np.random.default_rng(seed), 0.0
    sides = [("east", "west")[user % 2] for user in range(SHOWN)]
    service.all_played({f"s{user}": heard(rng, side) for user, side in enumerate(sides)})
    for turn in range(rounds):
        asks = [asking(user=f"s{user}", k=slots, seed=turn * SHOWN + user) for user in range(SHOWN)]
        told = []
        for user, answer in enumerate(service.ask_all(asks)):
            liked = [item for item in answer.ids if likes and rng.random() < liking(sides[user], item)]
            total += len(liked)
            name = answer.recommendation_id
            told += [AddFeedback(f"{name}-{item}", name, item, 1.0) for item in liked]
        service.store.commit(told)
    return total / (rounds * SHOWN)


def logged(folder: Path, likes: bool = True, **server: object) -> tuple[Path, float]:
    """The exported log of a shop that was served for a while, and what an answer brought."""
    setup = setup_in(folder, **server)
    with running(Setup.read(folder / "setup.txt", ["train=no"])) as service:
        earned = served(service, likes=likes)
        sides = {user: ("east", "west")[user % 2] for user in range(40)}  # whom nobody was shown anything
        service.all_played({f"q{user}": heard(np.random.default_rng(user), side) for user, side in sides.items()})
        exported(service.store, service.engine.models.live.current.served.catalogue).write(folder / "log.parquet")
    assert setup.data.is_file()
    return folder / "log.parquet", earned


def worth(policy: LearnedPolicy, slots: int = 3) -> float:
    """What the best items of a policy bring on average, shown to new users: the truth."""
    rng, total, ids = np.random.default_rng(7), 0.0, policy.state.space.catalogue.ids
    for user in range(20):
        side = ("east", "west")[user % 2]
        history, _ = policy.state.history_of(heard(rng, side))
        slate = policy.act(policy.states(history), Request(slots, permitted=Permitted(without=history.items)))
        total += sum(liking(side, ids[int(item)]) for item in slate.items[0])
    return total / 20


def learned(folder: Path, log: Path, overrides: Sequence[str]) -> LearnedPolicy:
    """The policy that a shop's setup makes of a log."""
    name = folder / "-".join(one.rpartition("=")[2].replace("/", "") for one in overrides if "algorithm" in one)
    words = [f"data={log}", f"model_agent_path={name}.safetensors", f"model_critic_path={name}-critic.safetensors"]
    setup = Setup.read(folder / "setup.txt", [*words, "passes=none", *overrides])
    state = State.from_setup(setup)
    environment = Environment(Agent(setup, state.space), state, setup, force=True)
    environment.train_agent()
    return LearnedPolicy(environment.agent.eval(), state)
