"""What is logged is what is judged: over every backend, sampler and mask, over HTTP, by a real service and model."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from what_next import LearnedPolicy
from what_next.data.decisions.reader import read_log
from what_next.off_policy.learned import Learned
from what_next.off_policy.targets import decisions_of, vectors_of
from what_next.serving.store.export import exported
from what_next.settings import Setup
from what_next.types import EpsilonGreedy, Greedy, Permitted, Request, Sampler, Softmax

from .endpoint import Service, service

CLOSE = 1e-6
SEARCH = {"search": "approximate", "candidates": 20}
BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("next_item", {}),
    "approximate": ("next_item", SEARCH),
    "values": ("dqn", {}),
    "values of candidates": ("dqn", SEARCH),
    "repeats": ("next_item", {"repeat": 6.0}),
    "repeats, approximate": ("next_item", {"repeat": 6.0, **SEARCH}),
    "rescored": ("bcq", {}),
    "box": ("whatnext", {}),
    "context": ("next_item", {"context": True}),
}
SAMPLERS: dict[str, Sampler] = {
    "greedy": Greedy(),
    "softmax": Softmax(0.5),
    "flat softmax": Softmax(5.0),
    "epsilon": EpsilonGreedy(0.4),
}
HISTORY = ["i3", "i14", "i15", "i9", "i26"]
MASKS: dict[str, dict[str, Any]] = {
    "unseen": {},
    "seen": {"exclude_seen": False},
    "few": {"allowed": ["i1", "i2", "i3", "i5", "i50", "i79"]},
    "many": {"allowed": [f"i{item}" for item in range(10, 80)]},
    "blocked": {"blocked": [f"i{item}" for item in range(20, 30)]},
    "all but four": {"blocked": [f"i{item}" for item in range(76)]},
}


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != "context"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Any]]:
    algorithm, how = BACKENDS[request.param]
    with service(tmp_path_factory.mktemp("served"), algorithm=algorithm, deadline=60_000, **how) as found:
        policy = LearnedPolicy.load(found.setup.model_agent_path)
        yield found, policy.indexed(20) if how.items() >= SEARCH.items() else policy


def mask_of(policy: LearnedPolicy, allowed: list[str] | None = None, blocked: list[str] | None = None, **_: Any) -> Any:
    catalogue = policy.state.space.catalogue
    return catalogue.mask(allowed, blocked or ()) if allowed or blocked else None


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_logged_propensity_is_the_judged_one(served: tuple[Service, LearnedPolicy], name: str, mask: str) -> None:
    asked, policy = served
    sampler, how = SAMPLERS[name], MASKS[mask]
    draw = {} if isinstance(sampler, Greedy) else {"explore": asdict(sampler)}
    answers = [asked.recommend(history=HISTORY, k=6, seed=seed, **draw, **how) for seed in range(2)]
    assert {answer["fallback"] for answer in answers} == {None}
    history, _ = policy.state.history_of(HISTORY)
    index = policy.state.space.catalogue.index
    for answer in answers:
        items = index([item["item_id"] for item in answer["items"]])[None]
        seen = history.items if how.get("exclude_seen", True) else None
        request = Request(6, sampler, Permitted.of(mask_of(policy, **how), seen))
        judged = policy.propensities(policy.states(history), request, items)[0]
        told = [item["propensity"] for item in answer["items"]]
        np.testing.assert_allclose(judged, told, rtol=0, atol=CLOSE)
        again = policy.act(policy.states(history), request, np.random.default_rng(0))
        np.testing.assert_allclose(
            policy.propensities(policy.states(history), request, again.items), again.propensities, rtol=0, atol=CLOSE
        )


@pytest.mark.medium
@pytest.mark.parametrize("how", [{"temperature": 0.5}, {"epsilon": 0.3}], ids=str)
@pytest.mark.parametrize(
    "backend", ["exact", "approximate", "repeats, approximate", "values of candidates", "box", "context"]
)
def test_so_is_that_of_a_whole_log(tmp_path: Path, backend: str, how: dict[str, Any]) -> None:
    """The store's log, exported, and judged as `estimate`, `gate` and `promote` do."""
    algorithm, server = BACKENDS[backend]
    with service(tmp_path, algorithm=algorithm, deadline=60_000, **server, **how) as asked:
        for person in range(20):
            asked.recommend(user_id=f"u{person}", k=5)
            asked.recommend(user_id=f"u{person}", k=5, context={"time_of_day_sin": person / 20})
            asked.recommend(history=[f"i{person}", f"i{person + 7}"], k=3, exclude_seen=False)
        path = tmp_path / "exported.parquet"
        exported(asked.store, asked.engine.models.live.current.served.catalogue).write(path)
    log = read_log(path)
    found = Learned("setup", Setup.read(tmp_path / "setup.txt", ["train=no"])).on_log(
        log, decisions_of(log, vectors_of(log))
    )
    assert found.covered.sum() > 100
    assert log.propensities is not None
    np.testing.assert_allclose(found.target.chances[found.covered], log.propensities[found.covered], rtol=0, atol=CLOSE)


def test_the_index_is_that_of_the_model_and_always_the_same(tmp_path: Path) -> None:
    with service(tmp_path, **SEARCH) as asked:
        own = asked.engine.models.live.current.served.policy
        loaded = LearnedPolicy.load(asked.setup.model_agent_path).indexed(20)
        history, _ = loaded.state.history_of(HISTORY)
        request = Request(5, Softmax(1.0), Permitted.of(without=history.items))
        slates = [one.act(one.states(history), request, np.random.default_rng(0)) for one in (own, loaded)]
    own_candidates, others = (slate.candidates[0] for slate in slates)
    assert len(own_candidates) == 20
    assert np.array_equal(own_candidates, others)
    assert np.array_equal(slates[0].items, slates[1].items)
