"""Words that items share: from the files to what they foretell."""

import copy
import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Agent, Dataset, Environment, LearnedPolicy, Setup, State
from what_next.baselines.counts import Rows
from what_next.baselines.tags import PRIOR, Tagged, neighbours
from what_next.data import Catalogue, Options, import_files
from what_next.errors import DataError
from what_next.experiments.next_items import evaluator_of, rules
from what_next.inference.extend import NewItem, extended_catalogue
from what_next.models import linear

TAGS = pl.Series("tags", [["a: x"], ["a: x", "b: u"], ["a: x"], ["a: y", "b: u"], ["a: y", "c: alone"], None])


def items(tags: pl.Series) -> Catalogue:
    ids = pl.Series("item_id", range(len(tags)))
    return Catalogue.from_table(pl.DataFrame([ids, ids.cast(pl.String).alias("title"), tags]))


def steps(*pairs: tuple[int, int]) -> Rows:
    first, second = np.array(sorted(pairs), np.int32).T
    return Rows.counted(first, second, len(TAGS))


def row(rows: Rows, item: int) -> dict[int, float]:
    here = slice(rows.offsets[item], rows.offsets[item + 1])
    return dict(zip(rows.columns[here].tolist(), rows.values[here].tolist(), strict=True))


def test_how_often_a_tag_is_kept_is_drawn_to_what_its_kind_is() -> None:
    tagged = Tagged.of(items(TAGS))  # x, y, u; nobody shares "alone"
    kept = tagged.kept(steps((0, 1), (0, 2), (1, 3), (4, 0), (2, 2)))
    # An item that follows itself tells nothing. Artists: 2 of 4 steps stay, 2 of 3 from x, 0 of 1 from y. Of u: 1 of 1.
    artists = [(2 + PRIOR / 2) / (3 + PRIOR), (0 + PRIOR / 2) / (1 + PRIOR)]
    np.testing.assert_allclose(kept, [*artists, 1.0])


def test_what_tags_foretell_is_shared_by_the_other_items_that_have_them() -> None:
    tagged, followers = Tagged.of(items(TAGS)), steps((0, 1), (0, 2), (1, 3), (4, 0))
    x, y, u = tagged.kept(followers)
    found = tagged.foretold(tagged.kept(followers), np.arange(6), 5)
    assert row(found, 0) == pytest.approx({1: x / 2, 2: x / 2})
    both = x + u  # more than 1, so that they are made to be 1
    assert both > 1
    assert row(found, 1) == pytest.approx({0: x / 2 / both, 2: x / 2 / both, 3: u / both})
    assert row(found, 4) == pytest.approx({3: y})
    assert row(found, 5) == {}
    fewer = tagged.foretold(tagged.kept(followers), np.arange(6), 1)
    assert [list(row(fewer, item)) for item in range(6)] == [[2], [3], [1], [1], [3], []]  # of x the most popular two


def test_what_tags_foretell_is_added_to_what_was_counted() -> None:
    counted = steps((0, 1), (0, 1), (0, 3), (2, 0))
    others = Rows(np.array([0, 2, 3, 3, 3, 3, 3]), np.array([1, 2, 4], np.int32), np.array([0.5, 0.25, 1], np.float32))
    found = counted.plus(others, 10.0)
    assert [row(found, item) for item in range(6)] == [{1: 7.0, 2: 2.5, 3: 1.0}, {4: 10.0}, {0: 1.0}, {}, {}, {}]


def test_no_tag_is_shared() -> None:
    tagged = Tagged.of(items(pl.Series("tags", [["a: x"], ["a: y"], None, [], None, None], dtype=pl.List(pl.String))))
    assert len(tagged.foretold(tagged.kept(steps((0, 1))), np.arange(6), 5).values) == 0


def test_the_tags_of_a_new_item_foretell_what_they_would_in_training() -> None:
    chances, events, seen = np.array([0.6, 0.9, 0.5]), np.array([3.0, 1, 0, 2, 9]), np.arange(5, dtype=np.int32)
    for new in (["a: x", "b: u"], ["a: y"], ["c: alone", "a: z"], ["a: z"]):
        catalogue = items(pl.concat([TAGS.head(5), pl.Series("tags", [new])]))
        tagged, found = Tagged.of(catalogue), neighbours(catalogue, seen, np.array([5]), chances, events)
        wanted = tagged.foretold(chances[tagged.kinds], np.append(events, 0).astype(np.int64), 5)
        assert row(Rows(np.append([0] * 5, found.offsets), found.columns, found.values), 5) == pytest.approx(
            row(wanted, 5)
        )
        assert (np.diff(found.values) <= 0).all()  # the likely ones first


def test_only_items_that_training_saw_tell_of_a_new_one_each_of_which_stands_alone() -> None:
    new = pl.Series("tags", [["a: x", "d: v"], ["a: x", "d: v"], ["d: v"], None])
    catalogue, events = items(pl.concat([TAGS, new])), np.array([3.0, 1, 9, 2, 9, 0])
    found = neighbours(catalogue, np.array([0, 1, 3], np.int32), np.arange(6, 10), np.full(4, 0.4), events)
    assert found.offsets.tolist() == [0, 2, 4, 4, 4]
    assert found.columns.tolist() == [0, 1, 0, 1]
    assert found.values == pytest.approx(np.full(4, 0.2))


@pytest.mark.parametrize("cells", [1, 2**22])
def test_new_items_come_next_after_others_as_often_as_their_neighbours_do_on_average(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "CELLS", cells)  # one new item at a time, and all together
    rng, count, kept = np.random.default_rng(0), 40, 6
    after = np.array([rng.choice(count, kept, replace=False) for _ in range(count)], np.int32)
    shares = rng.random((count, kept)).astype(np.float32)
    after[3, 2:], shares[3, 2:] = -1, 0
    offsets, near = np.array([0, 3, 3, 5]), np.array([4, 7, 9, 7, 11], np.int32)
    weights = np.array([3, 2, 1, 1, 1], np.float32)
    wanted = np.zeros((3, count))
    for new, (start, stop) in enumerate(pairwise(offsets.tolist())):
        for neighbour, weight in zip(near[start:stop], weights[start:stop], strict=True):
            wanted[new] += (shares * (after == neighbour)).sum(1) * weight / weights[start:stop].sum()
    for chosen in ([0, 1, 2], [2, 0]):
        found = np.concatenate(list(linear._averages(after, shares, chosen, offsets, near, weights)))
        assert found.dtype == np.float32
        assert found == pytest.approx(wanted[chosen])


def test_new_items_with_the_same_neighbours_are_computed_together_and_end_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of new items may share one popular tag; each of them used to read a row for every item."""
    rng, count, kept, more = np.random.default_rng(0), 30, 4, 8
    asked, averages = list[int](), linear._averages

    def counted(*given: Any) -> Any:
        for some in averages(*given):
            asked.append(len(some))
            yield some

    monkeypatch.setattr(linear, "_averages", counted)
    term = linear.LinearTerm(count)
    term.next_items = torch.from_numpy(rng.integers(0, count, (count, kept)).astype(np.int32))
    term.next_shares = torch.from_numpy(rng.random((count, kept)).astype(np.float32) / 4)
    term.next_totals, term.tag_steps = torch.ones(count, 1), torch.tensor(5.0)
    near, chances = np.array([1, 2, 3, 5, 6], np.int32), np.array([0.5, 0.3, 0.1, 0.4, 0.4], np.float32)
    first, second = slice(0, 3), slice(3, 5)
    groups = [first] * (more // 2) + [second] * (more // 2)
    new, sizes = np.arange(count, count + more), [one.stop - one.start for one in groups]
    term.grow(count + more)
    single = copy.deepcopy(term)
    columns, values = (np.concatenate([one[group] for group in groups]) for one in (near, chances))
    term.place(new, np.append(0, np.cumsum(sizes)), columns, values)
    assert sum(asked) == 2
    monkeypatch.setattr(linear, "_alike", lambda offsets, *_: [[one] for one in range(len(offsets) - 1)])
    single.place(new, np.append(0, np.cumsum(sizes)), columns, values)
    assert sum(asked) == 2 + more
    assert torch.isin(term.next_items[:count], torch.from_numpy(new)).any()
    assert torch.equal(term.next_items, single.next_items)
    assert torch.equal(term.next_shares, single.next_shares)


LOG = "user,item,artist,album,country,mood,label_id,maker_id\n"
ROWS = [
    (user, f"s{n}", f"Artist {n // 3}", f"Album {n}", land, f"{mood}{n}", f"L{n % 3}", str(n % 4))
    for user, land, mood in (("u", "se", "m"), ("v", "no", "w"))
    for n in range(9)
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(LOG + "".join(",".join(one) + "\n" for one in ROWS))
    return tmp_path / "log.csv"


def test_words_of_a_log_that_items_share_are_their_tags(log: Path) -> None:
    tables = import_files([log])  # albums are shared by none, countries are the users', moods vary
    assert tables.items["tags"].to_list() == [
        [f"artist: Artist {n // 3}", f"label_id: L{n % 3}", f"maker_id: {n % 4}"] for n in range(9)
    ]
    catalogue = Catalogue.from_table(tables.items)
    assert (catalogue.names, catalogue.kinds) == ((), ["artist", "label_id", "maker_id"])
    assert not any("looks like ids" in warning for warning in tables.warnings)
    assert "tags of the items: artist, label_id, maker_id" in tables.told(Dataset.from_tables(tables, "log"))
    assert "log columns left out: country, mood" in tables.notes
    assert "log columns left out, since few items share a word: album" in tables.notes
    named = import_files([log], options=Options(tags=["album"]))
    assert named.items["tags"][0].to_list() == ["album: Album 0"]
    for none in (Options(tags=[]), Options(attributes=[])):
        assert import_files([log], options=none).items.columns == ["item_id", "title"]


def test_a_tag_that_varies_or_is_not_there_is_refused(log: Path) -> None:
    with pytest.raises(DataError, match="'mood' is no tag of the item: it varies for item 's0'; leave it out"):
        import_files([log], options=Options(tags=["mood"]))
    with pytest.raises(DataError, match="no column 'moods' \\(from --tags\\); found 'user', 'item', 'artist'"):
        import_files([log], options=Options(tags=["moods"]))
    log.write_text(log.read_text().replace("artist", "item_id", 1))
    for options in (Options(item="item", tags=["item_id"]), Options(item="item", attributes=["item_id"])):
        with pytest.raises(DataError, match="column 'item_id' is called like ids, so it cannot describe items"):
            import_files([log], options=options)


def test_words_that_tell_who_had_an_item_are_no_tags_by_themselves() -> None:
    # Each item was had once, so that all columns are the same for it: the session, the order, a country that moved.
    rows = [
        {"user": f"u{n // 16}", "item": n, "visit": f"x{n // 4}", "order_id": n // 2, "land": "?" if n == 3 else "se"}
        for n in range(64)
    ]
    more = [{**rows[n], "user": "v", "visit": None} for n in range(0, 60, 2)]  # who has them, too, is in no session
    for log in (rows, rows + more):
        dataset = Dataset.from_frame(pl.DataFrame(log), tags=None)
        assert not {"visit", "land"} & set(dataset.catalogue.kinds)
    assert Dataset.from_frame(pl.DataFrame(rows)).catalogue.tags is None
    named = Dataset.from_frame(pl.DataFrame(rows), tags=["visit"])
    assert named.catalogue.kinds == ["visit"]


def test_a_log_says_why_a_column_of_words_is_left_out(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, 1, 2, 2], "item": range(4), "visit": ["a", "b", "c", "c"]}).write_csv(
        tmp_path / "log.csv"
    )
    notes = import_files([tmp_path / "log.csv"]).notes
    assert any("too few items have events of several users" in one and one.endswith("do: visit") for one in notes)
    jobs = {"user": [1, 1, 2, 2, 3], "item": [0, 1, 2, 3, 2], "field": ["care", "care", "law", "law", "law"]}
    pl.DataFrame(jobs).write_csv(tmp_path / "log.csv")
    notes = import_files([tmp_path / "log.csv"]).notes
    assert any("the same in all events of a user, too" in one and one.endswith("the item: field") for one in notes)


def test_the_items_that_several_users_had_tell_what_describes_the_item(tmp_path: Path) -> None:
    """Of 5 brands: 5 such items would differ 4 times, were the brand the users'; 7 would 5.7 times."""
    for several, expected in ((5, []), (7, ["brand"])):
        rows = [("u", n, f"b{n % 5}") for n in range(12)] + [("v", n, f"b{n % 5}") for n in range(several)]
        log = pl.DataFrame(rows, ["user", "item", "brand"], orient="row")
        assert Dataset.from_frame(log).catalogue.kinds == expected


def test_a_number_that_is_the_same_for_all_events_of_a_user_is_no_attribute_of_what_was_had_once() -> None:
    """Users had two items of their own each. Of 5 ages: 5 users would differ 4 times, were it the items'; 7, 5.4."""
    for users, expected in ((5, ("age", "price")), (7, ("price",))):
        rows = [(f"u{n}", f"i{n}{k}", 20 + n % 5, 9 * n + k) for n in range(users) for k in range(2)]
        log = pl.DataFrame(rows, ["user", "item", "age", "price"], orient="row")
        assert Dataset.from_frame(log).catalogue.names == expected
    assert Dataset.from_frame(log, attributes=["age"]).catalogue.names == ("age",)


def test_ids_with_gaps_as_pandas_has_them_are_tags(log: Path) -> None:
    maker = [None if n == 5 else float(n % 3) for n in range(9)]
    items = pl.DataFrame({"item": [f"s{n}" for n in range(9)], "maker_id": maker, "price": [n + 0.5 for n in range(9)]})
    for options in ({}, {"tags": ["maker_id"]}):
        tags = Dataset.from_frame(pl.read_csv(log), items, **options).catalogue.tags
        assert tags is not None
        assert tags.to_list()[4:6] == [["maker_id: 1"], []]
    logged = pl.read_csv(log).join(items.select("item", by_id="maker_id"), on="item")
    found = Dataset.from_frame(logged).catalogue
    assert found.tags is not None
    assert "by_id: 1" in found.tags[4].to_list()
    with pytest.raises(DataError, match="column 'price' cannot be tags: it holds Float64, not words or ids"):
        Dataset.from_frame(pl.read_csv(log), items, tags=["price"])


def test_names_and_words_that_could_be_confused_are_not(log: Path) -> None:
    ids = [f"s{n}" for n in range(9)]
    columns = {
        "item": ids, "tags": range(9), "tags 2": range(9), "a: b": [f"x{n % 2}" for n in range(9)],
        "a": [f"b: x{n % 2}" for n in range(9)], "title": range(9), "name": ids,
        "when": ["2020-01-01"] * 5 + ["2021-01-01"] * 4, "by": ["NULL"] * 4 + ["N/A"] * 3 + ["Queen"] * 2,
        "words": [["title", "item_id", "q\0r"]] * 3 + [["tags", "q"]] * 6,
    }  # fmt: skip
    dataset = Dataset.from_frame(pl.read_csv(log), pl.DataFrame(columns), titles="name")
    found = dataset.catalogue
    assert found.titles.to_list() == ids
    assert found.kinds == ["a", "a:b", "by", "words"]
    assert found.tags is not None
    assert found.tags[0].to_list() == ["a:b: x0", "a: b: x0", "words: title", "words: item_id", "words: q r"]
    assert found.tags[8].to_list() == ["a:b: x0", "a: b: x0", "by: Queen", "words: tags", "words: q"]
    assert {"tags", "tags 2", "title 2", "words:title", "words:item_id", "words:tags"} < set(found.names)
    assert Catalogue.from_table(found.to_table()).hash() == found.hash()


@pytest.mark.parametrize("name", ["*", "^.*$"])
def test_a_column_called_like_a_pattern_is_refused(log: Path, name: str) -> None:
    items = pl.DataFrame({"item": [f"s{n}" for n in range(9)], name: [f"x{n % 2}" for n in range(9)]})
    events = pl.read_csv(log)
    for frames in ((events, items), (events.rename({"artist": name}), None)):
        with pytest.raises(DataError, match="is called like a pattern of names; rename it"):
            Dataset.from_frame(*frames)


def test_a_column_called_items_may_be_attributes(log: Path) -> None:
    items = pl.DataFrame({"item": [f"s{n}" for n in range(9)], "items": [f"x{n % 2}" for n in range(9)]})
    assert Dataset.from_frame(pl.read_csv(log), items, attributes=["items"]).catalogue.names == ("x0", "x1")


def test_lists_of_words_in_a_log_are_tags_of_the_item(tmp_path: Path) -> None:
    rows = [
        {"user": user, "item": item, "moods": [f"m{item % 2}", "old"]} for user in (1, 2) for item in range(user, 13)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    for options in (Options(), Options(tags=["moods"])):
        found = import_files([tmp_path / "log.jsonl"], options=options).items["tags"]
        assert found[1].to_list() == ["moods: m0", "moods: old"]


def test_columns_of_other_types_are_no_tags(log: Path) -> None:
    columns = {
        "item": [f"s{n}" for n in range(9)], "when": [datetime(2020, 1, 1 + n % 2) for n in range(9)],
        "sizes": [[n % 2, 3] for n in range(9)], "made": [{"by": f"x{n % 2}"} for n in range(9)], "live": [True] * 9,
        "words": [["jazz", " soul "] if n % 2 else ["jazz"] for n in range(9)],
    }  # fmt: skip
    items = log.with_name("items.parquet")
    pl.DataFrame(columns).write_parquet(items)
    found = import_files([log], items).items["tags"]
    assert found[1].to_list() == ["made.by: x1", "words: jazz", "words: soul"]
    for name in ("when", "sizes"):
        with pytest.raises(DataError, match=f"column '{name}' cannot be tags: it holds"):
            import_files([log], items, Options(tags=[name]))


def test_an_item_table_has_words_ids_and_lists(log: Path) -> None:
    items = log.with_name("items.csv")
    lines = [f"s{n},{n},{n % 2 + 100},Jazz|{'Soul' if n % 3 else 'Funk'},words of {n}" for n in range(9)]
    items.write_text("item,year,brand_id,genres,text\n" + "\n".join(lines) + "\n")
    tables = import_files([log], items)
    found = Catalogue.from_table(tables.items)
    assert (found.names, found.kinds) == (("year",), ["brand_id", "genres"])
    assert found.tags is not None
    assert found.tags[0].to_list() == ["brand_id: 100", "genres: Jazz", "genres: Funk"]
    assert any("not numbers: text;" in note for note in tables.notes)
    assert not any("brand_id" in warning for warning in tables.warnings)


def test_a_table_with_tags_alone_may_lack_items(log: Path) -> None:
    items = log.with_name("items.csv")
    items.write_text("item,label\n" + "".join(f"s{n},L{n % 2}\n" for n in range(6)))
    tables = import_files([log], items)
    assert len(tables.rejected) == 0
    assert tables.items["tags"].to_list()[5:] == [["label: L1"], None, None, None]


def test_a_catalogue_keeps_tags_and_they_count_in_its_hash() -> None:
    table = pl.DataFrame({"item_id": [1, 2, 3], "title": ["a", "b", "c"], "year": [1.0, 2.0, 3.0]})
    tags = pl.Series("tags", [["a: x", "b: y"], ["a: x"], None])
    one = Catalogue.from_table(table.with_columns(tags))
    again = Catalogue.from_table(one.to_table())
    assert again.tags is not None
    assert again.tags.equals(tags, null_equal=True)
    others = (None, pl.Series("tags", [["a: x"], ["b: y", "a: x"], None]))
    hashes = {Catalogue.from_table(table if other is None else table.with_columns(other)).hash() for other in others}
    assert one.hash() == again.hash()
    assert len(hashes | {one.hash()}) == 3
    longer = extended_catalogue(one, [NewItem("2", "B", {"year": 9.0}), NewItem("4", "d", {"year": 4.0})])
    assert longer.tags is not None
    assert longer.tags.to_list() == [["a: x", "b: y"], ["a: x"], None, None]
    told = {"a": ["y", "z", "y"], "mood": ["m"]}  # of which the last is no kind of theirs
    longer = extended_catalogue(one, [NewItem(name, "", {"year": 9.0}, told) for name in ("2", "4")])
    assert longer.tags is not None
    assert longer.tags.to_list() == [["a: x", "b: y"], ["a: y", "a: z"], None, ["a: y", "a: z"]]
    assert Catalogue.from_table(longer.to_table()).hash() == longer.hash()


@pytest.mark.medium
def test_songs_of_the_same_artist_are_found_that_nobody_had_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, items = [], {}
    for user in range(120):
        for place, artist in enumerate(rng.integers(80) + rng.integers(2, size=8)):  # two artists for each
            song = f"{artist}-{user}-{place}"
            items[song] = f"Artist {artist}"
            rows.append((user, song))
    table = pl.DataFrame({"item_id": list(items), "artist": list(items.values())})
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    scores = {}
    for name, frame in (("with", table), ("without", None)):
        dataset = Dataset.from_frame(log, frame, name=name)
        setup = Setup(
            train=True, data=tmp_path / name / "data.parquet", algorithm="next_item",
            split="leave_last_out", passes=1, dim=8, threads=1,
            device="cpu", model_agent_path=tmp_path / name / "a.safetensors",
        )  # fmt: skip
        state = State(dataset, setup)
        agent, evaluator = Agent(setup, state.space), evaluator_of(state, "test")
        Environment(agent, state, setup, quiet=True).train_agent()
        judged = {name: evaluator.score([LearnedPolicy(agent.eval(), state)], name=name)}
        judged |= rules(evaluator, state, ["content", "item_knn"], False)[0]
        scores |= {(name, one): value["ndcg@10"]["mean"] for one, value in evaluator.means(judged)[0].items()}
    assert scores["with", "with"] > max(0.05, 0.8 * scores["with", "content"])
    assert scores["with", "with"] > 5 * max(scores["without", "without"], scores["with", "item_knn"])
