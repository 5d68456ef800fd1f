"""What a service logged, weighed: the model that wrote a log, served the same, would have done the very same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next.agent import Agent
from what_next.data import Tables, save
from what_next.data.decisions.log import DecisionLog
from what_next.data.decisions.reader import read_log
from what_next.data.decisions.rule import Rule
from what_next.data.files import beside
from what_next.environment import Environment
from what_next.errors import DataError, SetupError
from what_next.off_policy.learned import Learned
from what_next.off_policy.targets import PolicyOnLog, decisions_of, vectors_of
from what_next.serving.store import AddEvents, AddItems, EventRow, NewItem
from what_next.serving.store.export import exported
from what_next.settings import Setup
from what_next.state import State

from .engines import Service, asking, running
from .models import served

ROUNDING = 1e-4
"""Of a weight: the service multiplies matrices in single precision, in blocks and batches of its own."""


PATIENT = {"deadline": 60_000}
"""Milliseconds: a busy machine must not make popular items of the answers."""
CONTEXT = ("mood", "kind", "time", "user", "known")
"""Numbers of events; some are called as the log calls something else."""


def live(service: Service, context: tuple[str, ...] = ()) -> None:
    """A few people hear, ask and hear on; events come late, without rewards, on unknown items."""
    rng, items = np.random.default_rng(0), [f"i{place}" for place in range(80)]

    def told() -> dict[str, float] | None:
        return {name: float(rng.random()) for name in context if rng.random() < 0.7} or None

    for step in range(6):
        asks = []
        for person in range(12):
            user = f"p{person}"
            rows = tuple(
                EventRow(
                    f"{user}-{step}-{place}",
                    user,
                    str(rng.choice([*items, "nowhere"])),
                    str(rng.choice(["play", "skip"])),
                    int(rng.integers(1, 2 * 24 * 3600 * 10**6)),  # in any order
                    float(rng.integers(1, 6)) if rng.random() < 0.5 else None,
                    told(),
                )
                for place in range(int(rng.integers(3)))
            )
            service.store.commit([AddEvents(rows)])
            asks.append(asking(user=user, k=4, exclude_seen=person % 3 > 0, context=told()))
            asks.append(asking(user=user, k=3, history=tuple(map(str, rng.choice([*items, "nowhere"], 5)))))
        asks.append(asking(k=3, history=("i1", "i2", "i1"), context=told()))
        asks.append(asking(user="stranger"))
        asks.append(asking(user="p1", blocked=("i1", "i2", "nowhere"), k=3))
        asks.append(asking(user="p2", allowed=tuple(items[step::7]), k=20))
        asks.append(asking(user="p3", ranges={"energy": (-0.5, 1.0), "tempo": (-1.0, 2.0)}, blocked=("i3",)))
        asks.append(asking(user="p2", temperature=0.0))
        service.ask_all(asks)


def judged(service: Service, setup: Path) -> tuple[DecisionLog, PolicyOnLog]:
    """What the service has logged, and what the model of a setup would have done."""
    path = setup.with_name("exported.parquet")
    exported(service.store, service.engine.models.live.current.served.catalogue).write(path)
    log = read_log(path)
    return log, Learned(str(setup), Setup.read(setup, ["train=no"])).on_log(log, decisions_of(log, vectors_of(log)))


def same(log: DecisionLog, found: PolicyOnLog, least: int = 150) -> None:
    """The chances are the propensities, wherever the model could be asked."""
    assert log.propensities is not None
    assert found.target.full is not None
    assert found.covered.sum() > least
    weights = found.target.chances[found.covered] / log.propensities[found.covered]
    assert weights == pytest.approx(np.ones(len(weights)), rel=ROUNDING)
    assert found.target.full[found.covered].sum(1) == pytest.approx(np.ones(len(weights)))


@pytest.mark.medium
@pytest.mark.parametrize("algorithm", ["next_item", "whatnext", "dqn"])
@pytest.mark.parametrize("how", [{"temperature": 0.5}, {"epsilon": 0.3}], ids=str)
def test_the_model_that_wrote_the_log_has_weights_of_1(tmp_path: Path, algorithm: str, how: dict[str, Any]) -> None:
    with running(served(tmp_path, algorithm, **how, **PATIENT)) as service:
        live(service)
        same(*judged(service, tmp_path / "setup.txt"))


@pytest.mark.parametrize("algorithm", ["next_item", "dqn"])
@pytest.mark.parametrize("how", [{"temperature": 0.5}, {"epsilon": 0.3}], ids=str)
def test_a_replay_comes_to_the_logged_chances_to_a_millionth(
    tmp_path: Path, algorithm: str, how: dict[str, Any]
) -> None:
    with running(served(tmp_path, algorithm, **how, **PATIENT)) as service:
        live(service)
        log, found = judged(service, tmp_path / "setup.txt")
    assert log.propensities is not None
    apart = np.abs(found.target.chances - log.propensities)[found.covered]
    assert apart.max() < 1e-6
    rules = log.source.frame.select("permitted").collect().to_series().gather(log.order)
    masked = rules.is_not_null().to_numpy() & found.covered
    assert len(rules.filter(pl.Series(masked)).unique()) >= 6  # blocked, ranges, and a list of each turn
    assert masked.sum() > 60
    assert found.target.full is not None
    banned = log.items.ids.cast(pl.String).is_in(["i1", "i2"]).to_numpy()
    blocked = rules.str.contains('"blocked":["i1"', literal=True).fill_null(False).to_numpy() & found.covered
    assert found.target.full[blocked][:, banned].max() == 0


def test_a_model_without_the_attribute_of_a_range_is_not_judged_by_it(tmp_path: Path) -> None:
    rule = Rule(None, (), {"loudness": (0.0, 1.0)})
    with running(served(tmp_path, temperature=0.5, **PATIENT)) as service:
        live(service)
        catalogue = service.engine.models.live.current.served.catalogue
        with pytest.raises(DataError, match="permitted items by their 'loudness'"):
            rule.mask(catalogue)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("algorithm", "reads", "context"),
    [("next_item", "inputs.rewards, yes, inputs.gaps, yes\n", ()), ("whatnext", "", CONTEXT)],
)
def test_so_has_one_that_reads_more_than_items(
    tmp_path: Path, algorithm: str, reads: str, context: tuple[str, ...]
) -> None:
    setup = served(tmp_path, algorithm, epsilon=0.3, **PATIENT)
    rng, told = np.random.default_rng(1), pl.read_parquet(setup.data)
    told = told.with_columns(pl.Series(name, rng.random(len(told)), dtype=pl.Float32) for name in context)
    tables = Tables(told, pl.read_parquet(beside(setup.data, "items")), pl.DataFrame(), len(told), {})
    save(tables, setup.data)
    with (tmp_path / "setup.txt").open("a") as file:
        file.write(reads)
    setup = Setup.read(tmp_path / "setup.txt")
    state = State.from_setup(setup)
    Environment(Agent(setup, state.space), state, setup).train_agent()
    with running(setup) as service:
        live(service, context)
        log, found = judged(service, tmp_path / "setup.txt")
        same(log, found)


def test_items_that_were_added_are_recommended_by_the_model_that_is_judged(tmp_path: Path) -> None:
    with running(served(tmp_path, temperature=0.5, **PATIENT)) as service:
        names = service.engine.models.live.current.served.catalogue.names
        new = tuple(NewItem(name, f"New {name}", dict.fromkeys(names, 0.5)) for name in ("x1", "x2", "i3"))
        service.store.commit([AddItems(new)])
        service.engine.models.grow()
        live(service)
        log, found = judged(service, tmp_path / "setup.txt")
        same(log, found)
        added = log.items.ids.is_in(["x1", "x2"]).to_numpy()
        assert (found.target.full[found.covered][:, added] > 0).any(0).tolist() == [True, True]


@pytest.mark.parametrize(
    ("algorithm", "how"),
    [("next_item", {"temperature": 0.5}), ("next_item", {"epsilon": 0.3}), ("whatnext", {"epsilon": 0.3})],
)
def test_items_that_were_withdrawn_are_not_permitted_to_the_model_that_is_judged(
    tmp_path: Path, algorithm: str, how: dict[str, Any]
) -> None:
    with running(served(tmp_path, algorithm, **how, **PATIENT)) as service:
        live(service)
        best = [name for name, _ in service.store.event_counts().most_common(30) if name != "nowhere"]
        for name in best[:20]:
            service.engine.withdraw(name)
        answers = [service.ask(user=f"p{person}", k=4, exclude_seen=person % 2 > 0) for person in range(12)]
        items = [service.engine.served.item(name) for name in best[:5]]
        again = tuple(NewItem(one.item_id, one.title, one.attributes) for one in items if one is not None)
        service.store.commit([AddItems(again)])
        service.engine.models.grow()
        service.engine.withdraw(best[25])
        answers += [service.ask(user=f"p{person}", k=4) for person in range(12)]
        log, found = judged(service, tmp_path / "setup.txt")
    assert log.source.frame.select(pl.col("withdrawn").unique().sort()).collect().to_series().to_list() == [0, 20, 26]
    slates = log.source.frame.select("slate").collect().to_series().gather(log.order)
    later = slates.is_in([answer.recommendation_id for answer in answers[:12]]).to_numpy() & found.covered
    assert later.sum() == 48
    weights = found.target.chances[later] / log.propensities[later]  # type: ignore[index]
    assert weights == pytest.approx(np.ones(48), rel=ROUNDING)
    assert found.target.full is not None
    gone = log.items.ids.cast(pl.String).is_in(best[:20]).to_numpy()
    assert found.target.full[later][:, gone].max() == 0


def test_what_cannot_be_weighed_is_left_out_and_counted(tmp_path: Path) -> None:
    with running(served(tmp_path, temperature=0.5, **PATIENT)) as service:
        live(service)
        log, found = judged(service, tmp_path / "setup.txt")
    # Popular items, for a stranger and two who had heard nothing yet, and what was asked for without exploration.
    assert log.notes == (
        "14 answers left out: given without exploration (server.temperature and server.epsilon were 0, or popular "
        "items were the answer), which shows nothing of other choices",
    )
    assert found.covered.all()


def test_whether_seen_items_may_be_shown_is_told_by_the_log(tmp_path: Path) -> None:
    with running(served(tmp_path, epsilon=0.3, **PATIENT)) as service:
        live(service)
        log, _ = judged(service, tmp_path / "setup.txt")
    with pytest.raises(SetupError, match="--seen"):
        Learned("new", Setup.read(tmp_path / "setup.txt", ["train=no"]), seen=True).on_log(
            log, decisions_of(log, vectors_of(log))
        )


def test_a_greedy_service_has_logged_nothing_that_can_be_weighed(tmp_path: Path) -> None:
    with running(served(tmp_path)) as service:
        service.played("p1", "i1")
        service.ask(user="p1")
        with pytest.raises(DataError, match=r"1 answers left out.*serve with server.temperature or server.epsilon"):
            judged(service, tmp_path / "setup.txt")


def test_a_history_that_no_request_can_bring_is_refused() -> None:
    """Each decision would read all of it: a few hundred of them took two minutes."""
    from what_next.off_policy.served import _given

    assert len(_given(json.dumps(["i1"] * 1000))) == 1000
    with pytest.raises(DataError, match="holds 20,000 items, and the service takes 1,000 at most"):
        _given(json.dumps(["i1"] * 20_000))
