"""The founding tables of docs/results.md: trains three seeds on each data set and judges them on the test users.

The playlists are imported from the file given with --playlists; without it, that table is not changed.
"""

import argparse
import json
import time
from pathlib import Path

from tables_page import put

import what_next as wn
from what_next.data import Options, import_files, save
from what_next.experiments import evaluate_windows
from what_next.reporting.terminal import markdown

ROOT = Path(__file__).resolve().parents[1]
FEATURES = (
    "danceability energy key loudness mode speechiness acousticness instrumentalness liveness valence tempo duration_ms"
)


def import_playlists(file: Path, to: Path) -> None:
    """A playlist is a user, the order of its rows the order of events; 12 audio features."""
    columns = Options(user="playlist_id", item="track_id", titles="track_name", attributes=FEATURES.split(), context=[])
    save(import_files([file], None, columns), to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--playlists", type=Path, default=ROOT.parent / "shared/data/spotify-playlists/spotify_songs.csv.gz"
    )
    parser.add_argument("--only", choices=("ml-100k", "spotify-playlists"))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for name in ("ml-100k", "spotify-playlists"):
        data = ROOT / "data" / f"{name}.parquet"
        if arguments.only not in (None, name):
            continue
        if name == "spotify-playlists" and not data.exists():
            if not arguments.playlists.exists():
                print(f"{name}: not measured, {arguments.playlists} is missing")
                continue
            import_playlists(arguments.playlists, data)
        start = time.perf_counter()
        models = [f"model_{role}_path=../models/results/{name}/{role}.safetensors" for role in ("agent", "critic")]
        setup = wn.Setup.read(ROOT / "src/setup.txt", [f"data=../data/{name}.parquet", *models])
        result = evaluate_windows(setup, "test", seeds)
        (ROOT / "models/results" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        put(name, markdown(result))
        print(markdown(result))
        print(f"{name}: {time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
