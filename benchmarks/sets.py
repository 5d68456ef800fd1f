"""The data sets of the tables and benchmarks, read from a folder that holds them: see `SETS`."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from what_next import Dataset

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where they are looked for, unless a benchmark is told another place."""
DIRECTIONS = 16
"""Attributes of items that are known by lists of tags: as many leading singular directions of the 0/1 matrix."""


def ml_100k(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    log = pl.read_csv(folder / "ml-100k.inter", separator="\t")
    log = log.rename({name: name.partition(":")[0] for name in log.columns}).rename({"rating": "reward"})
    items = pl.read_csv(folder / "ml-100k.item", separator="\t", quote_char=None, infer_schema_length=None)
    items = items.rename({name: name.partition(":")[0] for name in items.columns})
    return log, _genres(items.select("item_id", title="movie_title", words=pl.col("class").str.split(" ")))


def ml_1m_part(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    with gzip.open(folder / "ratings.dat.gz", "rt") as lines:
        rows = [[int(value) for value in line.split("::")] for line in lines]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "reward", "timestamp"], orient="row")
    text = (folder / "movies.dat").read_text(encoding="latin-1").splitlines()
    items = pl.DataFrame([line.split("::") for line in text], schema=["item_id", "title", "words"], orient="row")
    items = items.with_columns(pl.col("item_id").cast(pl.Int64), pl.col("words").str.split("|"))
    return log, _genres(items.filter(pl.col("item_id").is_in(log["item_id"].unique().implode())))


def sequences(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """S3-Rec's format: a line for each user, with the items in order; and the tags of each item as JSON."""
    lines = [line.split() for line in next(folder.glob("*.txt")).read_text().splitlines()]
    pairs = [(int(user), int(item)) for user, *items in lines for item in items]
    log = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    tags = {int(item): found for item, found in json.loads(next(folder.glob("*.json")).read_text()).items()}
    known = sorted(log["item_id"].unique())
    columns = {tag: place for place, tag in enumerate(sorted({tag for item in known for tag in tags.get(item, ())}))}
    matrix = np.zeros((len(known), len(columns)), np.float32)
    for row, item in enumerate(known):
        matrix[row, [columns[tag] for tag in tags.get(item, ())]] = 1
    left, values, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    found = {f"direction_{place}": left[:, place] * values[place] for place in range(DIRECTIONS)}
    return log, pl.DataFrame({"item_id": known, "title": [str(item) for item in known], **found})


def yoochoose(folder: Path) -> tuple[pl.DataFrame, None]:
    """Sessions as users: the training file, then that of the day after."""
    parts = [
        pl.read_csv(folder / f"yoochoose-clicks-100k_{part}.txt", separator="\t") for part in ("train_full", "test")
    ]
    log = pl.concat(parts)
    return log.select(user_id="SessionId", item_id="ItemId", timestamp=pl.col("Time").cast(pl.Float64)), None


def playlists(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Playlists as users, songs with their 12 audio features, and the names of artist and album."""
    log = pl.read_csv(folder / "spotify_songs.csv.gz", infer_schema_length=None)
    features = log.columns[log.columns.index("danceability") :]
    items = log.unique("track_id", keep="first", maintain_order=True)
    words = ("track_name", "track_artist", "track_album_id")
    items = items.select(*words, *(pl.col(name).cast(pl.Float32) for name in features), item_id="track_id")
    return log.select(user_id="playlist_id", item_id="track_id"), items.rename({"track_name": "title"})


SETS: dict[str, Callable[[Path], tuple[pl.DataFrame, pl.DataFrame | None]]] = {
    "ml-100k": ml_100k,
    "lastfm-s3rec": sequences,
    "ml-1m-part": ml_1m_part,
    "amazon-beauty-s3rec": sequences,
    "yoochoose-100k": yoochoose,
    "spotify-playlists": playlists,
}


TAGGED = ("spotify-playlists",)
"""Those whose items have tags."""


def read(name: str, folder: Path = FOLDER) -> Dataset:
    """Read one of `SETS`; ends the program with a message if its folder is missing."""
    if not (folder / name).is_dir():
        raise SystemExit(f"{folder / name}: not there; name the folder that holds the data sets with --folder")
    return Dataset.from_frame(*SETS[name](folder / name), name=name)


def _genres(items: pl.DataFrame) -> pl.DataFrame:
    """The words of each item as 0/1 columns, without words that no item or every item has."""
    words = sorted(items["words"].explode().drop_nulls().unique())
    marks = (pl.col("words").list.contains(word).cast(pl.Float32).alias(f"is {word}") for word in words)
    found = items.select("item_id", "title", *marks)
    constant = [name for name in found.columns[2:] if found[name].n_unique() == 1]
    return found.drop(constant)
