"""Failures of two and four processes of the service behind the proxy of `deploy/`, on one PostgreSQL.

    PYTHONPATH=src python benchmarks/many_servers.py [--processes 2 4] [--only kill,routing]

The trials are those of the slow tests (`tests/serving/fleet.py`): small models and few requests, because the outcome of
each request is counted, not the speed. HAProxy must be on the PATH, and `far` needs root (network namespaces,
/dev/net/tun).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.serving import fleet as trials  # noqa: E402 (the path is known only now)
from tests.serving.postgres import Postgres, package, server, standby  # noqa: E402
from tests.serving.processes import Forks  # noqa: E402

ONLY = ("changes", "swap", "kill", "restart", "away", "take_over", "routing", "far")
DELAY, LOSS = 0.02, 0.01
"""Delay of the bad line in seconds each way, and its share of lost packets."""


def tell(name: str, processes: int, found: dict[str, Any]) -> None:
    """Print one row."""
    told = "; ".join(f"{key} {value}" for key, value in found.items() if value != {})
    print(f"| {name} | {processes} | {told} |", flush=True)


def run(name: str, forks: list[Forks], folder: Path, postgres: Postgres) -> None:
    """Run one trial on a new database."""
    words, users = (("server.sessions=60",), 45 * len(forks)) if name == "routing" else ((), 30)
    (service := folder / "service").mkdir()
    (more := folder / "more").mkdir()
    trial: Callable[..., Any] = getattr(trials, name)
    with trials.fleet(forks, service, postgres, *words, users=users) as made:
        tell(name, len(forks), trial(made, more) if name in ("swap", "routing") else trial(made))


def taken_over(forks: list[Forks], folder: Path) -> None:
    """Run the trial with a standby database."""
    wheel = package()
    assert wheel is not None
    with server(wheel) as primary, standby(primary) as second:
        both = f"postgresql://postgres@/trial?host={primary.folder},{second.folder}&target_session_attrs=read-write"
        with trials.fleet(forks, folder, primary, urls=[both] * len(forks)) as made:
            tell("take_over", len(forks), trials.take_over(made, second))


def far(forks: list[Forks], folder: Path) -> None:
    """Run the trial with a bad line between the last process and the database."""
    with trials.far_server(DELAY, LOSS) as (postgres, url, line):
        urls = [*[postgres.url("trial")] * (len(forks) - 1), url]
        with trials.fleet(forks, folder, postgres, urls=urls) as made:
            for part, found in trials.partition(made, line).items():
                tell(f"far, {part}", len(forks), found if isinstance(found, dict) else {"": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--only", default=",".join(ONLY), help=f"some of {', '.join(ONLY)}")
    arguments = parser.parse_args()
    wanted = [name for name in ONLY if name in arguments.only.split(",")]
    if (lacks := trials.missing("far" in wanted)) is not None:
        raise SystemExit(lacks)
    print("| trial | processes | what came of it |\n|---|---:|---|")
    with trials.forking(max(arguments.processes)) as forks:
        for count in arguments.processes:
            for name in wanted:
                with tempfile.TemporaryDirectory(prefix="servers-") as folder:
                    if name in ("take_over", "far"):
                        (taken_over if name == "take_over" else far)(forks[:count], Path(folder))
                        continue
                    wheel = package()
                    assert wheel is not None
                    with server(wheel) as postgres:
                        run(name, forks[:count], Path(folder), postgres)


if __name__ == "__main__":
    main()
