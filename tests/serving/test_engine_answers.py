"""What one question is answered: as the library would, without what is not permitted, and written down before."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from what_next import load
from what_next.data import Catalogue
from what_next.inference.extend import UNTOLD
from what_next.serving.engine.served import Served, similar, spreads
from what_next.serving.request import Refused
from what_next.serving.store import InvalidWrite, NewItem, Store, StoredItem

from .engines import Service, asking, ids, items, running
from .models import ATTRIBUTES, ITEMS, served
from .waiting import impressions_of

HISTORY = ("i3", "i14", "i15", "i9", "i26")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(served(tmp_path)) as found:
        yield found


@pytest.mark.medium
@pytest.mark.parametrize("algorithm", ["next_item", "whatnext", "dqn", "bcq", "ddpg", "hac", "sa2c"])
def test_an_answer_is_what_the_library_recommends(tmp_path: Path, algorithm: str) -> None:
    with running(served(tmp_path, algorithm)) as service:
        recommender = load(service.setup.model_agent_path)
        for seen in (False, True):
            wanted = recommender.recommend(list(HISTORY), 7, seen=seen, blocked=["i1", "i2"])
            found = service.ask(history=HISTORY, k=7, exclude_seen=not seen, blocked=("i1", "i2"))
            assert ids(found) == [item.item_id for item in wanted.items]
            assert [item.propensity for item in items(found)] == [1.0] * 7
            assert (found.policy, found.fallback) == ("trained", None)


def test_a_users_events_are_the_history(service: Service) -> None:
    service.played("anna", *HISTORY)
    answer = service.ask(user="anna")
    assert ids(answer) == ids(service.ask(history=HISTORY))
    assert answer.known_events == 5


def test_a_history_goes_before_what_the_store_knows_of_the_user(service: Service) -> None:
    service.played("anna", "i70", "i71")
    answer = service.ask(user="anna", history=HISTORY)
    assert ids(answer) == ids(service.ask(history=HISTORY))
    assert (answer.user, answer.known_events) == ("anna", 0)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_an_empty_history_is_that_of_somebody_new(service: Service, exclude_seen: bool) -> None:
    service.played("anna", *HISTORY)
    answer = service.ask(user="anna", history=(), exclude_seen=exclude_seen)
    assert ids(answer) == ids(service.ask(user="nobody"))
    assert (answer.user, answer.fallback, answer.known_events) == ("anna", "unknown_user", 0)


def test_who_is_not_known_gets_popular_items(service: Service) -> None:
    service.played("anna", "i7", "i7", "i7", "i5", "i5", "i9")
    service.engine.models.count()
    answer = service.ask(user="nobody", k=4)
    assert ids(answer) == ["i7", "i5", "i9", "i0"]
    assert (answer.policy, answer.fallback) == ("popular", "unknown_user")
    assert service.ask(k=1).fallback == "unknown_user"


def test_popular_items_are_the_most_popular_where_the_model_explores(tmp_path: Path) -> None:
    with running(served(tmp_path, temperature=1.0, experiment="popular:random", experiment_share=1e-9)) as service:
        service.played("anna", "i7", "i7", "i7", "i5", "i5", "i9")
        service.engine.models.count()
        for asked in ({"user": "nobody", "policy": "popular"}, {"user": "nobody"}):
            answer = service.ask(k=3, **asked)
            assert (answer.ids, answer.policy, answer.fallback) == (("i7", "i5", "i9"), "popular", None)
            assert (answer.scores, answer.propensities) == ([3.0, 2.0, 1.0], (1.0, 1.0, 1.0))
        assert max(service.ask(user="nobody", policy="popular", temperature=1.0).propensities) < 1
        assert ["temperature" in one.explore for one in impressions_of(service.store, "nobody")] == [False, False, True]


def test_a_history_of_unknown_items_is_no_history(service: Service) -> None:
    answer = service.ask(history=("x", "i3", "y"))
    assert (answer.fallback, answer.unknown) == (None, ("x", "y"))
    assert ids(answer) == ids(service.ask(history=("i3",)))
    assert service.ask(history=("x",)).fallback == "unknown_user"


@pytest.mark.parametrize("policy", ["trained", "popular", "random"])
def test_what_was_heard_or_is_not_permitted_is_not_recommended(service: Service, policy: str) -> None:
    service.played("anna", *HISTORY)
    allowed = tuple(f"i{place}" for place in range(30))
    found = set(ids(service.ask(user="anna", k=50, allowed=allowed, blocked=("i0", "x"), policy=policy)))
    assert found == set(allowed) - set(HISTORY) - {"i0"}
    assert set(ids(service.ask(user="anna", k=50, allowed=allowed, exclude_seen=False, policy=policy))) == set(allowed)


def test_bounds_of_ranges_are_inclusive_and_in_the_attributes_own_unit(service: Service) -> None:
    values = dict(zip(service.engine.served.ids, service.engine.served.catalogue.attributes[:, 2], strict=True))
    low, high = sorted((float(values["i10"]), float(values["i40"])))
    answer = service.ask(history=HISTORY, k=80, exclude_seen=False, ranges={"tempo": (low, high)})
    assert set(ids(answer)) == {name for name, value in values.items() if low <= value <= high}
    assert {"i10", "i40"} <= set(ids(answer))


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ({"ranges": {"colour": (0.0, 1.0)}}, "ranges"),
        ({"ranges": {"tempo": (1e9, 2e9)}}, "ranges"),
        ({"allowed": ("x",)}, "allowed"),
        ({"allowed": ()}, "allowed"),
        ({"allowed": ("i1",), "blocked": ("i1",)}, "blocked"),
        ({"context": {"weather": 1.0}}, "context"),
    ],
)
def test_a_question_that_permits_nothing_is_refused(service: Service, question: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as error:
        service.ask(history=HISTORY, **question)
    assert error.value.field == field


@pytest.mark.parametrize("size", [1, 3, 9, 10, 40])  # at most nine of 80 items are scored alone
def test_with_a_mask_answers_are_the_best_of_what_is_permitted(service: Service, size: int) -> None:
    everything = service.ask(history=HISTORY, k=ITEMS, exclude_seen=False)
    scores = {item.item_id: item.score or 0.0 for item in items(everything)}
    rng = np.random.default_rng(size)
    for _ in range(5):
        allowed = tuple(f"i{place}" for place in rng.choice(ITEMS, size, replace=False))
        best = [name for name in ids(everything) if name in allowed and name not in HISTORY]
        assert ids(service.ask(history=HISTORY, k=4, allowed=allowed)) == best[:4]
        blocked = tuple(scores.keys() - set(allowed))
        left = {name: math.exp(scores[name]) for name in best}
        for item in items(service.ask(history=HISTORY, k=3, blocked=blocked, temperature=1.0, seed=1)):
            assert item.propensity == pytest.approx(left[item.item_id] / sum(left.values()), rel=1e-4)
            del left[item.item_id]
        for item in items(service.ask(history=HISTORY, k=1, allowed=allowed, epsilon=0.5, seed=1)):
            assert item.propensity == pytest.approx(0.5 / len(best) + 0.5 * (item.item_id == best[0]))


@pytest.mark.parametrize("algorithm", ["bcq", "whatnext"])
def test_masks_of_some_leave_the_answers_of_others_alone(tmp_path: Path, algorithm: str) -> None:
    with running(served(tmp_path, algorithm)) as service:
        asks = [
            asking(history=HISTORY[:place], k=4, blocked=tuple(f"i{item}" for item in range(place * 10)))
            for place in range(1, 6)
        ]
        alone = [ids(service.ask_all([ask])[0]) for ask in asks]
        assert [ids(answer) for answer in service.ask_all(asks)] == alone


def test_an_item_needs_the_attributes_of_the_catalogue(service: Service) -> None:
    fitting = dict.fromkeys(ATTRIBUTES, 1.0)
    service.engine.check_items([NewItem("new", "", fitting)])
    for wrong in ({"tempo": 1.0}, fitting | {"colour": 1.0}, fitting | {"tempo": math.nan}, fitting | {"tempo": 1e39}):
        with pytest.raises(InvalidWrite):
            service.engine.check_items([NewItem("new", "", wrong)])
    odd = {"tempo": math.nan, "energy": 1.0, "colour": 1.0, "form": 1.0}
    with pytest.raises(InvalidWrite) as refused:
        service.engine.check_items([NewItem("new", "", odd)])
    assert refused.value.reason == (
        "'danceability', 'valence': missing; 'colour', 'form': not known; 'tempo': no finite number of single "
        "precision; an item has danceability, energy, tempo, valence"
    )


def test_a_catalogue_without_attributes_takes_no_new_item(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare = Catalogue.from_table(service.engine.served.catalogue.to_table().select("item_id", "title"))
    agent = service.engine.served.policy.agent
    monkeypatch.setattr(agent, "space", replace(agent.space, catalogue=bare))
    monkeypatch.setattr(Served, "catalogue", bare)
    service.engine.check_items([NewItem("i1", "", {})])  # another title
    with pytest.raises(InvalidWrite) as refused:
        service.engine.check_items([NewItem("i1", "", {})] * 3 + [NewItem("new", "", {})])
    assert (refused.value.place, refused.value.field, refused.value.reason) == (3, "item_id", UNTOLD)
    assert service.engine.served.extended([StoredItem("new", "New", {}, None, 1)]).left_out == {"new"}
    assert "1 items that were added: without attributes, it knows no new ones" in caplog.text


def test_the_same_seed_and_state_give_the_same_answer(service: Service) -> None:
    one = service.ask(history=HISTORY, temperature=1.0, seed=7)
    assert ids(one) == ids(service.ask(history=HISTORY, temperature=1.0, seed=7))
    others = {tuple(ids(service.ask(history=HISTORY, temperature=1.0, seed=seed))) for seed in range(5)}
    assert len(others) > 1


def test_propensities_are_those_of_the_softmax_without_replacement(service: Service) -> None:
    everything = service.ask(history=HISTORY, k=ITEMS)
    weights = {item.item_id: math.exp((item.score or 0) / 0.5) for item in items(everything)}
    assert len(weights) == ITEMS - len(HISTORY)
    left = sum(weights.values())
    for item in items(service.ask(history=HISTORY, k=4, temperature=0.5, seed=1)):
        assert item.propensity == pytest.approx(weights[item.item_id] / left, rel=1e-4)
        left -= weights[item.item_id]


def test_epsilon_mixes_the_best_with_any(service: Service) -> None:
    best = ids(service.ask(history=HISTORY, k=1))[0]
    for seed in range(20):
        item = items(service.ask(history=HISTORY, k=1, epsilon=0.5, seed=seed))[0]
        assert item.propensity == pytest.approx(0.5 / 75 + 0.5 * (item.item_id == best))


def test_random_items_have_one_chance_in_as_many_as_are_left(service: Service) -> None:
    answer = service.ask(history=HISTORY, k=3, policy="random", seed=3)
    assert [item.propensity for item in items(answer)] == pytest.approx([1 / 75, 1 / 74, 1 / 73])
    assert len(set(ids(answer))) == 3


def test_the_settings_temperature_holds_where_a_question_does_not_say(tmp_path: Path) -> None:
    with running(served(tmp_path, temperature=1.0)) as service:
        assert max(item.propensity for item in items(service.ask(history=HISTORY))) < 1
        assert [item.propensity for item in items(service.ask(history=HISTORY, epsilon=0.0))] == [1.0] * 10


def test_a_proposed_point_is_drawn_from_with_a_temperature(tmp_path: Path) -> None:
    with running(served(tmp_path, "whatnext")) as service:
        drawn = service.ask(history=HISTORY, k=2, temperature=1.0, seed=5)
        assert ids(drawn) == ids(service.ask(history=HISTORY, k=2, temperature=1.0, seed=5))
        assert [0 < item.propensity <= 1 and item.score is None for item in items(drawn)] == [True, True]
        mixed = service.ask(history=HISTORY, k=1, epsilon=1.0, seed=5)
        assert items(mixed)[0].propensity == pytest.approx(1 / 75)


def test_context_stands_for_that_of_the_last_event(tmp_path: Path) -> None:
    with running(served(tmp_path, "whatnext")) as service:
        recommender = load(service.setup.model_agent_path)
        context, history = {"time_of_day_sin": -50.0}, HISTORY[:1]  # one event has no spread that would go before
        wanted = recommender.recommend(list(history), 5, context=context)
        found = ids(service.ask(history=history, k=5, context=context))
        assert found == [item.item_id for item in wanted.items]
        assert found != ids(service.ask(history=history, k=5))


def test_an_answer_is_given_when_its_impression_is_durable(service: Service) -> None:
    service.played("anna", *HISTORY)
    answer = service.ask(user="anna", k=3, temperature=1.0, seed=2**60)
    other = Store.open(service.path)
    found = impressions_of(other, "anna")[0]
    other.close()
    assert found.recommendation_id == answer.recommendation_id
    assert found.items == tuple(ids(answer))
    assert found.propensities == tuple(item.propensity for item in items(answer))
    assert (found.version, found.policy, found.fallback, found.known) == (answer.version, "trained", None, 5)
    assert (found.explore, found.shown) == ({"temperature": 1.0, "seed": str(2**60)}, True)


def test_every_item_of_a_long_answer_has_its_own_reason(service: Service) -> None:
    units, places = service.engine.served.units, service.engine.served.places
    answer = service.ask(history=HISTORY, k=70, explain=True)
    assert len(items(answer)) == 70
    for item in items(answer):
        assert item.reason is not None
        assert item.reason.nearest is not None
        alike = max(float(units[places[name]] @ units[places[item.item_id]]) for name in HISTORY)
        assert item.reason.nearest.similarity == pytest.approx(alike, abs=1e-5)


def test_reasons_name_the_nearest_of_the_history_and_the_attributes(service: Service) -> None:
    item = items(service.ask(history=HISTORY, k=1, explain=True))[0]
    assert item.reason is not None
    assert item.reason.nearest is not None
    table, units = service.engine.served.item(item.item_id), service.engine.served.units
    assert table is not None
    assert dict(item.reason.attributes) == dict(table.attributes)
    assert tuple(table.attributes) == ATTRIBUTES
    places = service.engine.served.places
    alike = {name: float(units[places[name]] @ units[places[item.item_id]]) for name in HISTORY}
    assert item.reason.nearest.item_id == max(alike, key=lambda name: alike[name])
    assert item.reason.nearest.similarity == pytest.approx(max(alike.values()), abs=1e-5)


@pytest.mark.parametrize("algorithm", ["dqn", "ddpg", "whatnext"])
def test_the_critic_tells_what_it_expects(tmp_path: Path, algorithm: str) -> None:
    with running(served(tmp_path, algorithm)) as service:
        answer = service.ask(history=HISTORY, k=4, explain=True)
        values = [reason.critic for reason in answer.reasons if reason is not None]
        assert all(value is not None and math.isfinite(value) for value in values)
        assert len(set(values)) == 4
        if algorithm == "dqn":  # its scores are its values, but for the offset that all items share
            gaps = {
                round((value or 0) - (item.score or 0), 4) for value, item in zip(values, items(answer), strict=True)
            }
            assert len(gaps) == 1


def test_similar_items_are_the_nearest_by_cosine(service: Service) -> None:
    units, places = service.engine.served.units, service.engine.served.places
    found = similar(service.engine.served, "i3", 5, np.zeros(0, np.int32))
    alike = units @ units[places["i3"]]
    alike[places["i3"]] = -2
    assert [one.item_id for one in found] == [f"i{place}" for place in np.argsort(-alike)[:5]]
    assert [one.similarity for one in found] == pytest.approx(sorted(alike, reverse=True)[:5], abs=1e-5)
    assert "i3" not in {one.item_id for one in found}


def test_the_spread_is_that_of_the_last_twenty_events(service: Service) -> None:
    catalogue = service.engine.served.catalogue
    heard = [f"i{place}" for place in range(40, 65)]
    service.played("anna", *heard)
    vectors = catalogue.vectors[catalogue.index(heard[-20:])].astype(np.float64)
    rows, columns = np.triu_indices(20, 1)
    wanted = np.linalg.norm(vectors[rows] - vectors[columns], axis=1).std(ddof=1)
    assert service.ask(user="anna").spread == pytest.approx(wanted, rel=1e-5)
    series = spreads(service.engine.served, catalogue.index(heard))
    assert len(series) == 20
    assert series[-1] == pytest.approx(wanted, rel=1e-5)
    assert spreads(service.engine.served, catalogue.index(heard[:3]))[:2] == [None, None]
    assert service.ask(history=("i1", "i2")).spread is None


def test_titles_are_searched_whatever_their_case(service: Service) -> None:
    assert [item.item_id for item in service.engine.served.search("SONG 7", 3)] == ["i7", "i70", "i71"]
    assert [item.item_id for item in service.engine.served.search(" ", 3)] == ["i0", "i1", "i2"]
    assert len(service.engine.served.search("", 200)) == ITEMS
    assert service.engine.served.search("no such song", 3) == []
    assert service.engine.served.item("x") is None
