"""Log and item table out of the files of each known data set."""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from what_next.data.importing.readers import open_source

TITLE_AND_YEAR = r"^(.*?)\s*\((\d{4})\)\s*(?:\(V\))?\s*$"
"""MovieLens titles end in the year; `(V)` marks a video."""

NO_GENRE = ("unknown", "(no genres listed)", "")

ML_100K_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The order of the 0/1 columns in `u.item`."""

LASTFM_TAGS = 20
LASTFM_FOUNDED = 1_104_537_600_000
"""2005-01-01 in milliseconds: nobody tagged artists before, so earlier dates are mistakes."""


@dataclass(frozen=True)
class Raw:
    """A log and its item table as they are imported, the attributes, and what to say about them."""

    log: pl.DataFrame
    items: pl.DataFrame
    attributes: list[str]
    notes: list[str] = field(default_factory=list)


def ml_100k(folder: Path) -> Raw:
    """MovieLens 100K: the official archive and RecBole's atomic files hold the same rows in the same order."""
    atomic = folder / "ml-100k.inter"
    log = _read(atomic) if atomic.is_file() else _read(folder / "u.data", header=False)
    log.columns = ["user_id", "item_id", "rating", "timestamp"]
    items = _atomic_films(folder / "ml-100k.item") if atomic.is_file() else _official_films(folder / "u.item")
    return _films(log, items)


def _official_films(path: Path) -> pl.DataFrame:
    raw = _read(path, header=False)
    flags = raw.columns[5:]
    genres = pl.concat_list(
        pl.when(pl.col(flag) == "1").then(pl.lit(genre)) for flag, genre in zip(flags, ML_100K_GENRES, strict=True)
    )
    return raw.select(item_id=raw.columns[0], title=raw.columns[1], genres=genres.list.drop_nulls())


def _atomic_films(path: Path) -> pl.DataFrame:
    """RecBole cut the year off each title by position, which went wrong for two of them."""
    title, year = pl.col("movie_title").list.join(" "), pl.col("release_year")
    whole = pl.when(year.str.contains(r"^\d{4}$")).then(title + " (" + year + ")").otherwise(title)
    mended = whole.replace("unkonwn", "unknown")
    return _read(path).select("item_id", title=mended, genres=pl.col("class"))


def ml_1m(folder: Path) -> Raw:
    """MovieLens 1M."""
    films = _read(folder / "movies.dat").with_columns(pl.col("genres").str.split("|"))
    return _films(_read(folder / "ratings.dat"), films)


def ml_latest_small(folder: Path) -> Raw:
    """MovieLens latest, the small one."""
    films = _read(folder / "movies.csv").select(
        item_id="movieId", title="title", genres=pl.col("genres").str.split("|")
    )
    log = _read(folder / "ratings.csv").rename({"userId": "user_id", "movieId": "item_id"})
    return _films(log, films)


def _films(log: pl.DataFrame, films: pl.DataFrame) -> Raw:
    """Titles without the year, the year as a number, genres without the words for "none"."""
    spaced = pl.col("title").str.replace_all(r"\s+", " ").str.strip_chars()
    items = films.select(
        "item_id",
        title=pl.coalesce(spaced.str.extract(TITLE_AND_YEAR, 1), spaced),
        genres=pl.col("genres").list.filter(~pl.element().is_in(NO_GENRE)),
        year=spaced.str.extract(TITLE_AND_YEAR, 2).cast(pl.Float64),
    )
    return Raw(log, items, ["genres", "year"])


def lastfm_2k(folder: Path) -> Raw:
    """Last.fm: an event is the first time that a listener tagged an artist.

    The attributes of an artist are the shares of the 20 most used tags among all its tags.
    """
    numbers = pl.all().cast(pl.Int64)
    tagged = _read(folder / "user_taggedartists-timestamps.dat").select(numbers)
    tagged.columns = ["user_id", "item_id", "tag", "timestamp"]
    possible = tagged.filter(pl.col("timestamp") >= LASTFM_FOUNDED)
    log = (
        possible.group_by("user_id", "item_id", maintain_order=True)
        .agg(pl.col("timestamp").min())
        .select("user_id", "item_id", "timestamp")
    )
    names = _read(folder / "tags.dat").select(pl.col("tagID").cast(pl.Int64).alias("tag"), name="tagValue")
    common = possible["tag"].value_counts().sort("count", "tag", descending=[True, False]).head(LASTFM_TAGS)
    ranked = common.join(names, on="tag", how="left", maintain_order="left")
    shares = possible.group_by("item_id").agg(
        (pl.col("tag") == tag).mean().cast(pl.Float64).alias(name) for tag, name in ranked.select("tag", "name").rows()
    )
    artists = _read(folder / "artists.dat").select(pl.col("id").cast(pl.Int64).alias("item_id"), title="name")
    items = shares.sort("item_id").join(artists, on="item_id", how="left", maintain_order="left")
    dropped = len(tagged) - len(possible)
    notes = [f"{dropped} tag events with a date before 2005 left out"] if dropped else []
    return Raw(log, items, ranked["name"].to_list(), notes)


def _read(path: Path, *, header: bool | None = None) -> pl.DataFrame:
    return open_source(path, header=header).frame.collect()
