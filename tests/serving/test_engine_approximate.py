"""Approximate search: who is drawn among what it finds has the chance of that draw, and a mask asks for all items."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from what_next.serving.store import AddItems, NewItem

from .engines import Service, ids, items, running
from .models import ATTRIBUTES, served

HISTORY = ("i3", "i14", "i15", "i9", "i26")
FOUND = 20
"""Items that the index finds."""


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(served(tmp_path_factory.mktemp("exact"))) as found:
        yield found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(served(tmp_path, search="approximate", candidates=FOUND)) as found:
        assert found.engine.models.live.current.served.policy.search is not None
        yield found


def ranking(exact: Service) -> list[str]:
    """All items by their scores, those of the history among them."""
    return ids(exact.ask(history=HISTORY, k=80, exclude_seen=False))


def test_the_best_of_what_is_found_are_the_best(service: Service, exact: Service) -> None:
    found, wanted = service.ask(history=HISTORY, k=5), exact.ask(history=HISTORY, k=5)
    assert ids(found) == ids(wanted)
    assert [item.score for item in items(found)] == pytest.approx([item.score for item in items(wanted)], rel=1e-5)


def test_propensities_are_those_of_the_draw_among_what_is_found(service: Service, exact: Service) -> None:
    candidates = [item for item in ranking(exact)[:FOUND] if item not in HISTORY]
    scores = {item.item_id: item.score or 0.0 for item in items(exact.ask(history=HISTORY, k=80))}
    left = {item: math.exp(scores[item]) for item in candidates}
    for item in items(service.ask(history=HISTORY, k=5, temperature=1.0, seed=3)):
        assert item.propensity == pytest.approx(left[item.item_id] / sum(left.values()), rel=1e-4)
        left.pop(item.item_id)


def test_too_few_and_masks_and_chance_ask_for_all_items(service: Service, exact: Service) -> None:
    few = FOUND - len(set(HISTORY) & set(ranking(exact)[:FOUND])) + 1
    assert len(items(service.ask(history=HISTORY, k=few))) == few
    tail = tuple(ranking(exact)[40:])
    for question in ({"k": few}, {"allowed": tail}, {"blocked": tuple(ranking(exact)[:30])}, {"epsilon": 0.5}):
        values = {"history": HISTORY, "seed": 4, **question}
        one, other = service.ask(**values), exact.ask(**values)
        assert ids(one) == ids(other)
        assert [item.propensity for item in items(one)] == [item.propensity for item in items(other)]


def test_items_that_came_after_the_index_are_looked_at_and_the_index_stays_that_of_the_version(
    service: Service,
) -> None:
    service.played("anna", *HISTORY)
    service.ask(user="anna")
    before = service.engine.models.live.current
    rows = [NewItem(f"new {place}", "New", dict.fromkeys(ATTRIBUTES, 0.1 * place)) for place in range(FOUND + 1)]
    service.store.commit([AddItems(tuple(rows))])
    service.engine.models.grow()
    after = service.engine.models.live.current
    assert after.served.policy.search is before.served.policy.search
    assert after.sessions.remembered("anna") is not None
    assert after.served.lock is before.served.lock
    everything = [service.ask(history=HISTORY, k=5, temperature=5.0, seed=seed) for seed in range(60)]
    assert any(name.startswith("new") for answer in everything for name in ids(answer))


def test_what_a_history_holds_is_found_where_it_has_more_beside(tmp_path: Path, exact: Service) -> None:
    assert not set(HISTORY) <= set(ranking(exact)[:FOUND])
    with running(served(tmp_path, repeat=1000.0, search="approximate", candidates=FOUND)) as service:
        assert set(ids(service.ask(history=HISTORY, k=5, exclude_seen=False))) == set(HISTORY)
        assert not set(ids(service.ask(history=HISTORY, k=5))) & set(HISTORY)
