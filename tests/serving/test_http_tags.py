"""Items that come to a running service and are known by their tags: over HTTP, in the store, and in the log."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next.agent import Agent
from what_next.data import Dataset, Options, import_files, save
from what_next.environment import Environment
from what_next.models.linear import LinearTerm
from what_next.serving.store import AddItems, NewItem
from what_next.serving.store.export import exported
from what_next.settings import Setup
from what_next.state import State

from .endpoint import Service, process
from .models import served

ARTISTS, EACH, USERS = 40, 8, 160
NEW: dict[str, Any] = {"item_id": "new", "title": "New", "tags": {"artist": "Artist 3"}}


def trained(setup: Setup) -> LinearTerm:
    state = State.from_setup(setup)
    agent = Agent(setup, state.space)
    Environment(agent, state, setup, quiet=True).train_agent()
    linear = agent.nets["encoder"].ridge
    assert isinstance(linear, LinearTerm)
    return linear


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs without attributes, by artist and label; everyone hears one artist, in any order; one is of artist 99."""
    folder, rng = tmp_path_factory.mktemp("tagged"), np.random.default_rng(0)
    songs = [f"{artist}-{song}" for artist in range(ARTISTS) for song in range(EACH)]
    rows = [
        (f"u{user}", f"{user % ARTISTS}-{song}", 1000 * user + place)
        for user in range(USERS)
        for place, song in enumerate(rng.permutation(EACH)[:5])
    ]
    rows += [("u0", "single", 10**6), ("u1", "single", 10**6)]
    pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row").write_csv(folder / "raw.csv")
    artists = [f"Artist {song.split('-')[0]}" for song in songs] + ["Artist 99"]
    labels = [f"Label {number % 3}" for number in range(len(songs) + 1)]
    items = pl.DataFrame({"item_id": [*songs, "single"], "artist": artists, "label": labels})
    items.write_csv(folder / "items.csv")
    save(import_files([folder / "raw.csv"], folder / "items.csv", Options()), folder / "songs.parquet")
    (folder / "setup.txt").write_text(
        "train, yes, data, songs.parquet, algorithm, next_item, passes, 4, dim, 8, batch_size, 16, threads, 1, "
        "device, cpu, precision, fp32, model_agent_path, agent.safetensors, server.deadline, 60000, server.rate, 0\n"
    )
    linear = trained(Setup.read(folder / "setup.txt"))
    assert linear.transition
    assert linear.tag_steps
    return folder


@pytest.fixture
def setup(made: Path, tmp_path: Path) -> Setup:
    for path in made.iterdir():
        shutil.copy(path, tmp_path / path.name)
    return Setup.read(tmp_path / "setup.txt", ["train=no"])


@pytest.fixture
def one(setup: Setup) -> Iterator[Service]:
    with process(setup) as started:
        yield started


def shown(one: Service, *history: str, **more: Any) -> list[str]:
    return [item["item_id"] for item in one.recommend(history=history, **more)["items"]]


def refusal(one: Service, **item: Any) -> tuple[str, str]:
    answer = one.ask("POST", "/v1/items", {**NEW, **item})
    assert answer.status_code == 422
    (found,) = answer.json()["error"]["fields"]
    return found["field"], found["reason"]


def test_a_song_of_an_artist_is_recommended_at_once_to_who_hears_the_artist(one: Service) -> None:
    assert one.post("/v1/items", NEW) == {"accepted": 1, "replaced": 0}
    assert "new" in shown(one, "3-1", "3-2")[:7]
    assert "new" not in shown(one, "4-1", "4-2", k=200)[:100]
    assert set(shown(one, "new", k=5)) <= {f"3-{song}" for song in range(EACH)}
    assert {item["item_id"] for item in one.get("/v1/items/new/similar?k=3")["items"]} <= {
        f"3-{n}" for n in range(EACH)
    }
    one.post("/v1/items", {**NEW, "item_id": "b-side", "tags": {"artist": ["Artist 99"]}})  # of whom one song is known
    assert "b-side" in shown(one, "single")[:3]


def test_its_tags_are_told_and_outlive_a_restart(one: Service, setup: Setup) -> None:
    one.post("/v1/items", {**NEW, "tags": {"artist": " Artist 3 ", "label": ["Label 1", "Label 2"]}})
    told = one.get("/v1/items/new")
    assert told["tags"] == {"artist": ["Artist 3"], "label": ["Label 1", "Label 2"]}
    assert one.get("/v1/items/3-1")["tags"] == {"artist": ["Artist 3"], "label": ["Label 1"]}
    assert one.get("/v1/model")["tags"] == ["artist", "label"]
    with process(setup) as other:
        assert other.get("/v1/items/new") == told
        assert shown(other, "3-1", "3-2") == shown(one, "3-1", "3-2")


def test_an_item_that_is_put_again_keeps_its_tags_or_gets_others(one: Service, setup: Setup) -> None:
    one.post("/v1/items", NEW)
    again = {"item_id": "new", "title": "Newer"}
    assert one.post("/v1/items", again) == {"accepted": 1, "replaced": 1}
    one.post("/v1/items", {"item_id": "3-1", "title": "An old one"})
    one.post("/v1/items", {"item_id": "3-2", "title": "Another", "tags": {"artist": "Artist 5"}})
    one.post("/v1/items", {"item_id": "3-3", "title": "A third", "tags": {}})
    wanted = {"new": ["Artist 3"], "3-1": ["Artist 3"], "3-2": ["Artist 5"], "3-3": None}
    with process(setup) as other:
        for service in (one, other):
            found = {name: service.get(f"/v1/items/{name}") for name in wanted}
            assert {name: item["tags"].get("artist") for name, item in found.items()} == wanted
            assert found["new"]["title"] == "Newer"


def test_a_new_item_that_gets_other_tags_answers_as_after_a_restart(one: Service, setup: Setup) -> None:
    one.post("/v1/items", NEW)
    one.recommend(user_id="u3")  # of artist 3, and of whom there is a session now
    one.post("/v1/items", {**NEW, "tags": {"artist": "Artist 7"}})
    assert "new" not in shown(one, "3-1", "3-2", k=200)[:100]
    assert "new" in shown(one, "7-1", "7-2")[:7]
    assert set(shown(one, "new", k=5)) <= {f"7-{song}" for song in range(EACH)}
    for tags in ({}, {"artist": "Nobody"}):
        assert refusal(one, tags=tags)[0] == "tags"
    with process(setup) as other:
        assert other.get("/v1/model")["left_out"] == 0
        for history in (("3-1", "3-2"), ("7-1", "7-2"), ("new",)):
            assert shown(other, *history) == shown(one, *history)


@pytest.mark.parametrize(
    ("tags", "field", "reason"),
    [
        ({"mood": "x", "tempo": "y"}, "tags", "'mood', 'tempo': not known; an item has artist, label"),
        ({"artist": "Nobody"}, "tags", "are those of no item that the model was trained with, and the catalogue has"),
        ({}, "tags", "are those of no item that the model was trained with"),
        (None, "tags", "are those of no item that the model was trained with"),
        ({"artist": ""}, "tags.artist.0", "at least 1 character"),
        ({"artist": ["Queen", " "]}, "tags.artist.1", "not be blank"),
        ({"artist": "\x00"}, "tags.artist.0", "no control characters"),
        ({"artist": "x" * 257}, "tags.artist.0", "at most 256 characters"),
        ({"artist": []}, "tags.artist", "at least 1 item"),
        ({"artist": [str(number) for number in range(101)]}, "tags.artist", "at most 100 items"),
        ({str(number): "x" for number in range(101)}, "tags", "at most 100 items"),
        ({"artist": 3}, "tags.artist", "valid array"),
        ({"artist": [None]}, "tags.artist.0", "valid string"),
        ({"artist": {"x": "y"}}, "tags.artist", "valid array"),
        (["artist: Queen"], "tags", "an object"),
        ({"": "x"}, "tags.", "at least 1 character"),
    ],
)
def test_other_tags_are_refused(one: Service, tags: Any, field: str, reason: str) -> None:
    found = refusal(one, tags=tags)
    assert (found[0], reason in found[1]) == (field, True), found
    answer = one.ask("POST", "/v1/items/batch", {"items": [NEW, {**NEW, "item_id": "x", "tags": tags}]})
    assert answer.status_code == 422
    assert f"items.1.{field}" in answer.json()["error"]["message"]
    assert one.ask("GET", "/v1/items/new").status_code == 404


def test_who_shares_a_tag_with_a_new_item_alone_is_refused_before_and_after_a_restart(
    one: Service, setup: Setup
) -> None:
    one.post("/v1/items", {**NEW, "tags": {"artist": "Nobody", "label": "Label 1"}})
    assert refusal(one, item_id="second", tags={"artist": "Nobody"})[0] == "tags"
    with process(setup) as other:
        assert other.get("/v1/model")["left_out"] == 0
        assert refusal(other, item_id="second", tags={"artist": "Nobody"})[0] == "tags"


def test_tags_that_a_batch_gives_to_an_item_of_the_training_are_known_in_it(one: Service, setup: Setup) -> None:
    batch = [{"item_id": "3-1", "title": "Moved", "tags": {"artist": "Nobody"}}, {**NEW, "tags": {"artist": "Nobody"}}]
    assert one.post("/v1/items/batch", {"items": batch}) == {"accepted": 2, "replaced": 1}
    assert shown(one, "3-1", k=1) == ["new"]
    with process(setup) as other:
        assert other.get("/v1/model")["left_out"] == 0


def test_a_catalogue_without_tags_takes_none(tmp_path: Path) -> None:
    with process(served(tmp_path)) as one:
        item = {**NEW, "attributes": one.get("/v1/items/i1")["attributes"]}
        assert refusal(one, **item) == ("tags", "'artist': not known; an item has none")
        one.store.commit([AddItems((NewItem("new", "New", item["attributes"], {"artist": ["Queen"]}),))])
        one.engine.models.grow()  # it came while a model was served that knew them
        assert one.get("/v1/items/new")["tags"] == {}
        assert one.get("/v1/model")["left_out"] == 0


@pytest.mark.medium
def test_the_log_brings_them_to_the_next_training(one: Service, tmp_path: Path) -> None:
    one.post("/v1/items", NEW)
    one.post("/v1/items", {"item_id": "3-1", "title": "An old one"})
    one.post("/v1/items", {"item_id": "3-2", "title": "Another", "tags": {"artist": "Artist 5"}})
    heard = (
        {"event_id": f"{user}:{item}", "user_id": f"x{user}", "item_id": item}
        for user in range(40)
        for item in (*(f"{user % 4}-{song}" for song in (user % 3, 3, 5, 6)), "new" if user % 4 == 3 else "0-4", "4-1")
    )
    one.post("/v1/events/batch", {"events": list(heard)})
    one.recommend(user_id="x3", explore={"temperature": 1.0}, seed=1)
    log = tmp_path / "log.parquet"
    exported(one.store, one.engine.served.catalogue).write(log)
    dataset = Dataset.read(log)
    assert dataset.catalogue.tags is not None
    found = dict(zip(dataset.catalogue.ids, dataset.catalogue.tags.to_list(), strict=True))
    assert found["new"] == ["artist: Artist 3"]
    assert found["3-1"] == ["artist: Artist 3", "label: Label 1"]
    assert found["3-2"] == ["artist: Artist 5"]
    values = {"data": log, "model_agent_path": tmp_path / "second.safetensors", "train": True}
    trained(one.setup.model_copy(update=values))
    with process(one.setup.model_copy(update={**values, "train": False})) as other:
        told = other.get("/v1/items/new")
        assert (told["title"], told["tags"]) == ("New", {"artist": ["Artist 3"]})


def test_only_items_with_certain_tags_are_recommended_where_a_request_says_so(one: Service, tmp_path: Path) -> None:
    one.post("/v1/items", {**NEW, "tags": {"artist": "Artist 3", "label": "Label 1"}})
    found = shown(one, "7-1", k=30, tags={"artist": ["Artist 3", " Artist 4 ", "Nobody"]}, exclude_seen=False)
    assert set(found) == {"new", *(f"{artist}-{song}" for artist in (3, 4) for song in range(EACH))}
    found = shown(one, "7-1", k=30, tags={"artist": "Artist 3", "label": "Label 1"}, blocked=["3-1"])
    assert set(found) == {"new", *(f"3-{song}" for song in range(EACH) if (3 * EACH + song) % 3 == 1)} - {"3-1"}
    for policy in ("popular", "random"):
        assert set(shown(one, "7-1", policy=policy, tags={"artist": "Artist 99"})) == {"single"}
    for tags, reason in (
        ({"city": "Rome"}, "'city' is no kind of tags; there are artist, label"),
        ({"artist": "Nobody"}, "no item that is allowed has one of each kind; name others"),
        ({"artist": "Artist 99", "label": "Label 0"}, "no item that is allowed has one of each kind; name others"),
    ):
        answer = one.ask("POST", "/v1/recommendations", {"history": ["7-1"], "tags": tags})
        assert answer.status_code == 422
        assert answer.json()["error"]["fields"] == [{"field": "tags", "reason": reason}]
    path = tmp_path / "exported.parquet"
    exported(one.store, one.engine.models.live.current.served.catalogue).write(path)
    kept = pl.read_parquet(path)["permitted"].drop_nulls().unique(maintain_order=True)
    assert [json.loads(one)["tags"] for one in kept[:2]] == [
        {"artist": ["Artist 3", "Artist 4", "Nobody"]}, {"artist": ["Artist 3"], "label": ["Label 1"]},
    ]  # fmt: skip
