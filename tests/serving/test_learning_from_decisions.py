"""Serve with exploration, hear what people like, export, train: the policy then earns more than the one that served."""

from pathlib import Path

import polars as pl
import pytest

from what_next.data.decisions.reader import read_log
from what_next.off_policy.learned import Learned
from what_next.off_policy.targets import decisions_of, vectors_of
from what_next.policy import LearnedPolicy
from what_next.serving.store.export import appended
from what_next.settings import Setup

from .engines import running
from .shop import SHOWN, learned, logged, served, trained, worth


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with a shop's setup and the log of serving it, and what an answer brought."""
    folder = tmp_path_factory.mktemp("shop")
    _, earned = logged(folder, temperature=1.0)
    return folder, earned


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "words", "share"),
    [
        ("next_item", "", 0.5),
        ("reinforce", "", 0.5),
        ("dqn", "", 0.5),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sqn", "", 0.5),
                ("snqn", "", 0.5),
                ("sa2c", "algorithm.warm_up=50", 0.5),
                ("sac_rec", "algorithm.warm_up=300", 0.5),
                ("ddpg", "", 0.5),
                ("td3", "", 0.5),
                ("hac", "", 0.5),
                ("td3_bc", "", 0.5),
                # What stays near the choices of the log learns from what was tried where it imitates little.
                ("crr", "algorithm.beta=0.1 algorithm.tau=0.1 algorithm.weight=5", 1),
                ("iql", "algorithm.beta=10 algorithm.tau=0.1 algorithm.weight=5", 1),
                ("cql", "algorithm.alpha=0.03", 1),
                ("bcq", "algorithm.threshold=0.02", 1),
            )
        ),
    ],
)
def test_what_was_shown_teaches_what_events_cannot(
    shop: tuple[Path, float], name: str, words: str, share: float
) -> None:
    folder, earned = shop
    common = [f"algorithm={name}", "epochs=2000", "learning_rate=0.01", *words.split()]
    log = folder / "log.parquet"
    events = worth(learned(folder, log, [*common, "decisions.share=0"]))
    both = worth(learned(folder, log, [*common, f"decisions.share={share}"]))
    best = 3 * 0.8
    print(name, earned, events, both)
    assert both > earned + 0.2 * (best - earned)
    assert both > events + 0.2 * (best - events)


@pytest.mark.medium
def test_an_export_that_went_on_judges_by_what_came_after_training(tmp_path: Path) -> None:
    log, _ = logged(tmp_path, temperature=1.0)
    words = [f"data={log}", "algorithm=reinforce", "epochs=200", "passes=none"]
    trained(Setup.read(tmp_path / "setup.txt", words), force=True)
    before = set(pl.read_parquet(log)["slate"].drop_nulls())
    with running(Setup.read(tmp_path / "setup.txt", ["train=no"])) as service:
        served(service, rounds=1)
        appended(service.store, service.engine.models.live.current.served.catalogue, log).write(log)
    rows = read_log(log)
    policy = Learned("new", Setup.read(tmp_path / "setup.txt", [*words, "train=no"]))
    found = policy.on_log(rows, decisions_of(rows, vectors_of(rows)))
    slates = rows.source.frame.select("slate").collect().to_series().gather(rows.order)
    assert found.covered.tolist() == (~slates.is_in(list(before))).to_list()
    assert found.covered.sum() == SHOWN * 3


def test_the_policy_that_served_is_worth_what_its_answers_brought(shop: tuple[Path, float]) -> None:
    folder, earned = shop
    policy = LearnedPolicy.load(Setup.read(folder / "setup.txt", ["train=no"]))
    assert worth(policy) < earned + 0.2  # it took popular items, had it not explored
