"""Public data sets: their sources, their terms, and how their files become a log and an item table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from what_next.data.importing.readers import open_source
from what_next.errors import DataError

HARPER = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. doi:10.1145/2827872"
)
GROUPLENS = "GroupLens: research use, with acknowledgement; no commercial use or redistribution without permission"


TITLE_AND_YEAR = r"^(.*?)\s*\((\d{4})\)\s*(?:\(V\))?\s*$"
"""MovieLens titles end with the year; `(V)` marks a video."""

NO_GENRE = ("unknown", "(no genres listed)", "")

ML_100K_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The order of the 0/1 columns in `u.item`."""

LASTFM_TAGS = 20
LASTFM_FOUNDED = 1_104_537_600_000
"""2005-01-01 in milliseconds: tagging did not exist before, so earlier dates are errors."""


@dataclass(frozen=True)
class Raw:
    """A log and its item table for the import, the attributes, and notes."""

    log: pl.DataFrame
    items: pl.DataFrame
    attributes: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PackageFiles:
    """Files that ship inside a published Python package.

    Attributes:
        requirement: the package and its version.
        folder: the files' folder in the wheel.
        sha256: the needed files, each with its checksum.
    """

    requirement: str
    folder: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class PublicSet:
    """The source of a data set, and how to read it.

    Attributes:
        name: its name in `data get`.
        what: a one-line description.
        url: the official address of its archive.
        sha256: checksum of that archive.
        megabytes: size of that archive.
        licence: its terms, in short.
        citation: what to cite.
        tables: makes log and item table from the unpacked files.
        package: a package that includes the files, if there is one.
    """

    name: str
    what: str
    url: str
    sha256: str
    megabytes: float
    licence: str
    citation: str
    tables: Callable[[Path], Raw]
    package: PackageFiles | None = None


def ml_100k(folder: Path) -> Raw:
    """MovieLens 100K: the official archive and RecBole's atomic files have the same rows in the same order."""
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
    """RecBole cut the year off each title by position, which damaged two titles."""
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
    log = possible.group_by("user_id", "item_id", maintain_order=True).agg(pl.col("timestamp").min())
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


PUBLIC_SETS: dict[str, PublicSet] = {
    one.name: one
    for one in (
        PublicSet(
            "ml-100k",
            "100,000 ratings of 1,682 films by 943 people, 1997-1998; genres and year",
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            4.9,
            GROUPLENS,
            HARPER,
            ml_100k,
            PackageFiles(
                "recbole==1.2.1",
                "recbole/dataset_example/ml-100k/",
                {
                    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                },
            ),
        ),
        PublicSet(
            "ml-1m",
            "1,000,209 ratings of 3,883 films by 6,040 people, 2000-2003; genres and year",
            "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            5.9,
            GROUPLENS,
            HARPER,
            ml_1m,
        ),
        PublicSet(
            "ml-latest-small",
            "100,836 ratings of 9,742 films by 610 people, 1996-2018; genres and year",
            "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
            "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            1.0,
            GROUPLENS,
            HARPER,
            ml_latest_small,
        ),
        PublicSet(
            "lastfm-2k",
            "71,000 artists first tagged by 1,892 listeners, 2005-2011; shares of the 20 most used tags",
            "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
            "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            2.6,
            "non-commercial use; for commercial use ask Last.fm",
            "Ivan Cantador, Peter Brusilovsky and Tsvi Kuflik. 2011. 2nd Workshop on Information Heterogeneity and "
            "Fusion in Recommender Systems (HetRec 2011). RecSys '11, ACM",
            lastfm_2k,
        ),
    )
}


def public_set(name: str) -> PublicSet:
    """The public set of that name; a `DataError` if there is none."""
    if name not in PUBLIC_SETS:
        names = ", ".join(PUBLIC_SETS)
        raise DataError(f"data set {name!r}: expected one of {names}; import others: what-next data import FILE")
    return PUBLIC_SETS[name]
