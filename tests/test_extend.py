"""New items in a running service: they can be recommended at once, and nothing old moves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Agent, Dataset, LearnedPolicy, Recommender, State, load
from what_next.environment import Environment
from what_next.errors import CatalogueError
from what_next.inference.extend import NewItem, extend, extended_catalogue
from what_next.inference.session import Event, Sessions
from what_next.types import History, Permitted, Request

from .conftest import SetupOf, Trained, listening

NAMES = ("danceability", "energy", "tempo", "valence")


def recommender(log: Dataset, setup_of: SetupOf, folder: Path, **changes: object) -> Recommender:
    state = State(log, setup_of(folder, **changes))
    return Recommender(LearnedPolicy(Agent(state.setup, state.space).wake_agent().eval(), state))


def like(old: Recommender, place: int, name: str = "new", by: float = 0.0) -> NewItem:
    """A new item with the attributes of one that is there."""
    values = (old.catalogue.attributes[place] + by).tolist()
    return NewItem(name, f"Title of {name}", dict(zip(NAMES, values, strict=True)))


def some(one: Recommender) -> History:
    return one.state.get_user_history(np.arange(6, dtype=np.int32))


def slates(one: Recommender, slots: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """What it recommends."""
    return one.policy.act(one.policy.states(some(one)), Request(slots, permitted=Permitted.of(allowed))).items


def alone(one: Recommender) -> np.ndarray:
    """The mask of the last item."""
    return np.arange(len(one.catalogue)) == len(one.catalogue) - 1


@pytest.mark.parametrize("changes", [{}, {"algorithm": "next_item", "inputs": {"items": "attributes"}}], ids=str)
def test_a_new_item_is_recommended_by_its_attributes(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path, changes: dict[str, object]
) -> None:
    old = recommender(dataset, setup_of, tmp_path, **changes)
    best = int(slates(old, 1)[0, 0])
    new = extend(old, [like(old, best)])
    nothing = np.full((6, 1), -1, np.int32)
    chances = next(new.policy.chances(new.policy.states(some(new)), Request(sampler=new.policy.sampler), nothing))
    assert chances.shape == (6, 81)
    assert chances[0, 80] == pytest.approx(chances[0, best], rel=1e-5)
    mask = np.isin(np.arange(81), [best]) ^ True
    assert slates(new, 1, mask)[0, 0] == 80
    found = new.recommend(history=["i1", "new"], allowed=["new"], seen=True)
    assert [(item.item_id, item.title) for item in found.items] == [("new", "Title of new")]


def test_all_that_was_there_is_as_it_was(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    for algorithm, items in [("next_item", "learned"), ("td3_bc", "both"), ("whatnext", "learned")]:
        inputs = {} if algorithm == "whatnext" else {"inputs": {"items": items}}
        old = recommender(dataset, setup_of, tmp_path, algorithm=algorithm, **inputs)
        before = slates(old, 5)
        new = extend(old, [like(old, 3, by=9.0)])
        assert np.array_equal(slates(new, 5, ~alone(new)), before)
        assert np.array_equal(slates(old, 5), before)
        assert (len(old.catalogue), len(new.catalogue), len(old.state.space.catalogue)) == (80, 81, 80)
        for name, net in new.policy.agent.nets.items():
            shared = {weight.data_ptr() for weight in old.policy.agent.nets[name].state_dict().values()}
            shared -= {0}  # of what is empty
            assert not shared & {weight.data_ptr() for weight in net.state_dict().values()}
            assert not net.training


def test_a_learned_vector_is_guessed_from_the_ten_nearest(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    old = recommender(dataset, setup_of, tmp_path, algorithm="next_item")
    item = like(old, 7, by=0.1)
    new = extend(old, [item, like(old, 7, "second", by=0.1)])
    vectors = old.policy.agent.nets["encoder"].items()
    point = (old.catalogue.attributes[7] + 0.1 - old.catalogue.center) / old.catalogue.scale
    near = np.argsort(np.square(old.catalogue.vectors - point).sum(1))[:10]
    guessed = new.policy.agent.nets["encoder"].items()
    torch.testing.assert_close(guessed[80], vectors[torch.from_numpy(near)].mean(0))
    assert torch.equal(guessed[81], guessed[80])  # the second is no neighbour's neighbour
    assert torch.equal(guessed[:80], vectors)


def test_items_that_nobody_heard_in_training_are_no_neighbours(setup_of: SetupOf, tmp_path: Path) -> None:
    """Their own vectors are what they started with."""
    log, items = listening()
    log = log.filter(pl.col("item_id") != "i7")
    old = recommender(Dataset.from_frame(log, items), setup_of, tmp_path, algorithm="next_item")
    vectors = old.policy.agent.nets["encoder"].items
    with torch.no_grad():
        vectors.learned[7] = torch.nan
    assert torch.isfinite(extend(old, [like(old, 7)]).policy.agent.nets["encoder"].items()[80]).all()


def test_beside_attributes_nothing_is_learned_of_a_new_item(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path
) -> None:
    old = recommender(dataset, setup_of, tmp_path, algorithm="next_item", inputs={"items": "both"})
    vectors = old.policy.agent.nets["encoder"].items
    with torch.no_grad():
        vectors.learned.add_(1)
    new = extend(old, [like(old, 7)]).policy.agent.nets["encoder"].items()
    torch.testing.assert_close(new[80], (vectors() - vectors.learned)[7])
    torch.testing.assert_close(new[:80], vectors())


def test_a_known_item_gets_its_new_title_and_attributes(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    old = recommender(dataset, setup_of, tmp_path)
    titles = old.catalogue.titles.to_list()
    new = extend(old, [like(old, 4, "i9"), like(old, 5, "new"), replace(like(old, 6, "i9"), title="the last counts")])
    catalogue = new.catalogue
    assert len(catalogue) == 81
    assert catalogue.titles.to_list() == [*titles[:9], "the last counts", *titles[10:], "Title of new"]
    assert catalogue.ids.to_list() == [*old.catalogue.ids.to_list(), "new"]
    assert np.array_equal(catalogue.vectors[9], old.catalogue.vectors[6])
    assert np.array_equal(catalogue.vectors[80], old.catalogue.vectors[5])
    assert np.array_equal(np.delete(catalogue.vectors, [9, 80], 0), np.delete(old.catalogue.vectors, 9, 0))
    assert not np.array_equal(old.catalogue.vectors[9], old.catalogue.vectors[6])


def test_whole_numbers_stay_ids_of_their_kind_until_a_text_comes() -> None:
    log, items = listening()
    number = pl.col("item_id").str.slice(1).cast(pl.Int64)
    catalogue = Dataset.from_frame(log.with_columns(number), items.with_columns(number)).catalogue
    values = dict.fromkeys(NAMES, 0.5)
    assert extended_catalogue(catalogue, [NewItem("900", "", values)]).ids.to_list()[79:] == [79, 900]
    assert extended_catalogue(catalogue, [NewItem("007", "", values)]).ids.to_list()[79:] == ["79", "007"]
    assert extended_catalogue(catalogue, [NewItem("7", "other", values)]).titles[7] == "other"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"energy": 1.0, "tempo": 1.0},
            "item 'x' does not fit the catalogue: attributes 'danceability', 'valence': missing; an item has dan",
        ),
        (
            dict.fromkeys([*NAMES, "mood", "key"], 1.0),
            "attributes 'mood', 'key': not known; an item has danceability, energy, tempo, valence",
        ),
        (
            dict.fromkeys(NAMES, 1.0) | {"tempo": np.nan, "energy": 1e39},
            "item 'x' .* attributes 'energy', 'tempo': no finite number of single precision",
        ),
    ],
)
def test_attributes_that_do_not_fit_are_named(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path, attributes: dict[str, float], message: str
) -> None:
    old = recommender(dataset, setup_of, tmp_path)
    with pytest.raises(CatalogueError, match=message):
        extend(old, [like(old, 0), NewItem("x", "X", attributes)])


def test_without_attributes_only_titles_can_change(setup_of: SetupOf, tmp_path: Path) -> None:
    log, items = listening()
    bare = Dataset.from_frame(log, items.select("item_id", "title"))
    old = recommender(bare, setup_of, tmp_path, algorithm="next_item", split="users")
    assert extend(old, [NewItem("i3", "Renamed")]).catalogue.titles[3] == "Renamed"
    with pytest.raises(CatalogueError, match="item 'x' is new, and the catalogue has no attributes by which"):
        extend(old, [NewItem("x", "X")])


def test_by_its_tags_a_new_item_is_the_mean_of_those_that_share_them(setup_of: SetupOf, tmp_path: Path) -> None:
    log, items = listening()
    tagged = items.select("item_id", "title", artist="item_id").with_columns(artist=pl.int_range(pl.len()) // 4)
    dataset = Dataset.from_frame(log, tagged, tags=["artist"])
    old = recommender(dataset, setup_of, tmp_path, algorithm="next_item", split="users")
    assert old.catalogue.names == ()
    new = extend(old, [NewItem("new", "New", tags={"artist": ["1"]}), NewItem("both", "", tags={"artist": ["2", "3"]})])
    net = new.policy.agent.nets["encoder"]
    vectors = old.policy.agent.nets["encoder"].items()
    torch.testing.assert_close(net.items()[80:], torch.stack([vectors[4:8].mean(0), vectors[8:16].mean(0)]))
    directions = net.ridge.directions
    torch.testing.assert_close(directions[80:], torch.stack([directions[4:8].mean(0), directions[8:16].mean(0)]))
    assert torch.equal(net.items()[:80], vectors)
    for tags in (None, {}, {"artist": ["nobody"]}, {"mood": ["1"]}):
        with pytest.raises(
            CatalogueError,
            match="item 'x' does not fit the catalogue: tags are those of no item that the model was trained",
        ):
            extend(new, [NewItem("x", "X", tags=tags)])
    moved = [NewItem("i3", "", tags={"artist": ["of its own"]}), NewItem("x", "", tags={"artist": ["of its own"]})]
    assert len(extend(old, moved).catalogue) == 81
    other = extend(new, [NewItem("new", "New", tags={"artist": ["5"]})])
    for found, before in (
        (other.policy.agent.nets["encoder"].items(), vectors),
        (other.policy.agent.nets["encoder"].ridge.directions, directions),
    ):
        torch.testing.assert_close(found[80], before[20:24].mean(0))
        assert torch.equal(found[:80], before[:80])
    assert torch.equal(net.items()[80], vectors[4:8].mean(0))  # the former recommender stays as it was
    unlike = [NewItem("p", "", tags={"artist": ["nobody", "1"]}), NewItem("q", "", tags={"artist": ["nobody", "2"]})]
    both = extend(old, unlike).policy.agent.nets["encoder"].items()[80:]
    torch.testing.assert_close(both, torch.stack([vectors[4:8].mean(0), vectors[8:12].mean(0)]))


def test_tags_tell_more_of_a_new_item_than_attributes_which_count_where_it_shares_none(
    setup_of: SetupOf, tmp_path: Path
) -> None:
    """A price alone would say what it is like: a coffee beside candles of its price, whatever its brand."""
    log, items = listening()
    artists = items.with_columns(artist=(pl.int_range(pl.len()) // 4).cast(pl.String))
    dataset = Dataset.from_frame(log, artists, tags=["artist"])
    old = recommender(dataset, setup_of, tmp_path, algorithm="next_item", split="users", inputs={"items": "learned"})
    assert old.catalogue.names
    vectors = old.policy.agent.nets["encoder"].items()
    plain = like(old, 40, "plain")
    tagged = NewItem("tagged", "", plain.attributes, {"artist": ["1"]})
    other = NewItem("other", "", plain.attributes, {"artist": ["nobody"]})
    found = extend(old, [tagged, other, plain]).policy.agent.nets["encoder"].items()[80:]
    torch.testing.assert_close(found[0], vectors[4:8].mean(0))
    torch.testing.assert_close(found[1], found[2])
    assert not torch.allclose(found[0], found[2])


def test_nothing_new_changes_nothing(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    old = recommender(dataset, setup_of, tmp_path)
    assert extend(old, []) is old


@pytest.mark.parametrize("algorithm", ["next_item", "whatnext"])
def test_sessions_go_on_in_a_grown_catalogue(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path, algorithm: str
) -> None:
    old = recommender(dataset, setup_of, tmp_path, algorithm=algorithm)
    new = extend(extend(old, [like(old, 12, "first")]), [like(old, 12)])
    before, after = (Sessions.of(one.policy.agent) for one in (old, new))
    session = before.replay([Event(3), Event(9), Event(27)])
    points = [one.states([session]).points for one in (before, after)]
    np.testing.assert_allclose(points[1], points[0], atol=1e-6)
    [longer] = after.fold([session], [Event(81)])
    expected = after.states([after.replay([Event(3), Event(9), Event(27), Event(81)])])
    np.testing.assert_allclose(after.states([longer]).points, expected.points, atol=1e-5)


def test_a_saved_model_grows_without_its_log(trained: Trained) -> None:
    old = load(trained.setup.model_agent_path)
    found = extend(old, [like(old, 3)]).recommend(history=["i1", "new"], allowed=["new"], seen=True)
    assert [item.item_id for item in found.items] == ["new"]


def test_a_model_that_reads_rewards_and_gaps_is_loaded_without_its_log(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path
) -> None:
    reads = {"rewards": True, "gaps": True}
    setup = setup_of(tmp_path, algorithm="next_item", inputs=reads, seconds=1.0, passes=1)
    state = State(dataset, setup)
    Environment(Agent(setup, state.space), state, setup).run_sim()
    old = load(setup.model_agent_path)
    assert len(extend(old, [like(old, 3)]).recommend(history=["i1", "new"], k=4).items) == 4
