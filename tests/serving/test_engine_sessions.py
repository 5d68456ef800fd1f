"""Sessions in memory are what a batch pass over the store's events gives, whatever happened to them meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from what_next.inference.session import Event
from what_next.serving.engine import cache as cache_module
from what_next.serving.engine.cache import SessionCache
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import keep
from what_next.serving.metrics import Metrics
from what_next.serving.store import AddEvents, EraseUser, EventRow, Store

from .models import served

_examples = count()


@dataclass(eq=False)
class World:
    store: Store
    models: dict[str, Served]

    def add(self, user: str, item: str, time: int) -> None:
        self.store.commit([AddEvents((EventRow(f"e{next(_examples)}", user, item, time=time),))])

    def check(self, cache: SessionCache, users: list[str], model: Served) -> None:
        """The sessions of the cache are those of a batch pass over what the store holds, each on its own."""
        found = cache.of(users)
        for user in users:
            events = self.store.events_of(user)
            if not events:
                assert user not in found
                assert cache.remembered(user) is None
                continue
            played = [cache.event_of(one) for one in events if one.item_id in model.places]
            wanted, got = model.sessions.replay(played), found[user]
            assert (got.events, got.last) == (len(events), max(one.number for one in events))
            np.testing.assert_array_equal(got.session.items, wanted.items)
            assert got.session.time == wanted.time
            np.testing.assert_allclose(got.session.numbers, wanted.numbers, atol=1e-6)
            if played and wanted.output is not None and got.session.output is not None:
                np.testing.assert_allclose(got.session.output.numpy(), wanted.output.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    models = {}
    for algorithm in ("next_item", "whatnext"):
        folder = tmp_path_factory.mktemp(algorithm)
        setup = served(folder, algorithm)
        version = keep(folder / "versions", setup.model_agent_path)
        models[algorithm] = Served.load(folder / "versions", version)
    store = Store.open(tmp_path_factory.mktemp("store") / "store.sqlite")
    yield World(store, models)
    store.close()


PEOPLE = ("anna", "ben", "cleo")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from(PEOPLE), st.integers(0, 85), st.integers(-3, 5)),
        st.tuples(st.just("erase"), st.sampled_from(PEOPLE), st.just(0), st.just(0)),
        st.tuples(st.just("ask"), st.sampled_from(PEOPLE), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.parametrize("algorithm", ["next_item", "whatnext"])
@given(steps=STEPS)
@settings(max_examples=15)
def test_sessions_equal_the_batch_result_after_any_events(world: World, algorithm: str, steps: list[tuple]) -> None:
    """New and late events, unknown items, erasures, and a cache that holds two of the three people; two of them."""
    model, example = world.models[algorithm], next(_examples)
    caches = [SessionCache(model, world.store, size, Metrics()) for size in (2, 10)]
    time = 1_000_000_000
    for what, name, number, shift in steps:
        user = f"{name}-{example}"
        if what == "event":
            time += shift * 1000
            world.add(user, f"i{number}", time)  # the catalogue ends at i79
        elif what == "erase":
            world.store.commit([EraseUser(user)])
        else:
            world.check(caches[number], [user], model)
    for cache in caches:
        world.check(cache, [f"{name}-{example}" for name in PEOPLE], model)


def found_by(world: World, cache: SessionCache, *users: str) -> list[str]:
    def counted() -> dict[str, float]:
        return {found: child._value.get() for found, child in cache.metrics.sessions.items()}

    before = counted()
    world.check(cache, list(users), world.models["next_item"])
    return [found for found, now in counted().items() for _ in range(int(now - before[found]))]


def test_an_event_is_folded_in_and_a_late_one_rebuilds(world: World) -> None:
    cache = SessionCache(world.models["next_item"], world.store, 10, Metrics())
    for time in (1000, 2000):
        world.add("dora", "i1", time)
        world.add("emil", "i2", time)
    assert found_by(world, cache, "dora", "emil") == ["rebuild", "rebuild"]
    assert found_by(world, cache, "dora") == ["hit"]
    world.add("dora", "i3", 2000)  # at the same time: it came later
    assert found_by(world, cache, "dora", "emil") == ["hit", "fold"]
    world.add("dora", "i4", 1999)
    assert found_by(world, cache, "dora") == ["rebuild"]
    world.add("dora", "unknown", 1)  # no item of the catalogue: the session is as it was
    assert found_by(world, cache, "dora") == ["fold"]


def test_one_step_folds_for_everybody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = world.models["next_item"]
    cache = SessionCache(model, world.store, 10, Metrics())
    users = ["fay", "gil", "hal"]
    for user in users:
        world.add(user, "i5", 1000)
    world.check(cache, users, model)
    world.add("fay", "i6", 2000)
    world.add("gil", "i7", 2000)
    world.add("gil", "i8", 3000)
    widths, fold = [], model.sessions.fold
    monkeypatch.setattr(
        model.sessions, "fold", lambda sessions, events: widths.append(len(sessions)) or fold(sessions, events)
    )
    world.check(cache, users, model)
    assert widths == [2, 1]


@pytest.mark.parametrize("before", [0, 100])
def test_a_hundred_users_are_read_in_two_queries_and_encoded_in_one_pass(
    world: World, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """One query tells where their events end, the other reads them: of users nobody asked for, and long unseen ones."""
    model = world.models["next_item"]
    users = [f"many-{before}-{number}" for number in range(100)]
    rows = [
        EventRow(f"{user}-{place}", user, f"i{(number + place) % 80}", time=place)
        for number, user in enumerate(users)
        for place in range(1 + number % 7)
    ]
    world.store.commit([AddEvents(tuple(rows))])
    cache, queries, passes = SessionCache(model, world.store, 1000, Metrics()), [], []
    if before:  # each has one event more than is known
        cache.of(users)
        world.store.commit([AddEvents(tuple(EventRow(f"{user}-x", user, "i3", time=99) for user in users))])
    fetch, encoder = world.store.fetch, model.policy.agent.nets["encoder"]
    replay, advance = encoder.replay, encoder.advance
    monkeypatch.setattr(world.store, "fetch", lambda *of, **values: (queries.append(of[0]), fetch(*of, **values))[1])
    monkeypatch.setattr(encoder, "replay", lambda *args: (passes.append(len(args[0].items)), replay(*args))[1])
    monkeypatch.setattr(encoder, "advance", lambda *args: (passes.append(len(args[1])), advance(*args))[1])
    assert len(cache.of(users)) == 100
    assert (len(queries), passes) == (2, [100])
    monkeypatch.undo()
    world.check(cache, users, model)


def test_who_comes_back_after_an_erasure_is_somebody_new(world: World) -> None:
    model = world.models["next_item"]
    cache = SessionCache(model, world.store, 10, Metrics())
    for item in ("i1", "i2"):
        world.add("ida", item, 1000)
    world.check(cache, ["ida"], model)
    world.store.commit([EraseUser("ida")])
    for item in ("i3", "i4", "i5"):
        world.add("ida", item, 2000)
    world.check(cache, ["ida"], model)


def test_a_cache_holds_no_more_than_it_may(world: World) -> None:
    model = world.models["next_item"]
    cache = SessionCache(model, world.store, 2, Metrics())
    for user in ("jan", "kim", "lea"):
        world.add(user, "i1", 1000)
        cache.of([user])
    assert [cache.remembered(user) is not None for user in ("jan", "kim", "lea")] == [False, True, True]
    cache.drop("lea")
    assert cache.remembered("lea") is None


def test_long_histories_take_the_room_of_many_short_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def heard(user: str, events: int) -> None:
        rows = (EventRow(f"{user}-{events}-{place}", user, "i1", time=place) for place in range(events))
        world.store.commit([AddEvents(tuple(rows))])

    model = world.models["next_item"]
    for user, events in (("long", 2000), ("short", 1), ("other", 1), ("longer", 4000)):
        heard(user, events)
    room = model.sessions.replay([Event(1)] * 2000).bytes + 3000
    monkeypatch.setattr(cache_module, "BYTES", room)
    cache = SessionCache(model, world.store, 100, Metrics())
    world.check(cache, ["long", "short", "other"], model)
    assert sorted(cache._entries) == ["long", "other", "short"]
    world.check(cache, ["longer"], model)  # too large to be kept at all
    assert cache.remembered("longer") is None
    heard("short", 1000)
    world.check(cache, ["other", "short"], model)
    assert sorted(cache._entries) == ["other", "short"]
    assert cache._entries.currsize <= room
