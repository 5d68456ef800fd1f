"""Several processes behind the proxy of `deploy/`: one answers for the other, and nothing acknowledged is ever lost.

Slow, and skipped where HAProxy (or what a bad line needs) is not there; `benchmarks/many_servers.py` prints the same
trials as a table.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import fleet as trials
from .fleet import Fleet, fleet, forking
from .postgres import Postgres, package, server, standby
from .processes import ROOT, Forks

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
CHART = ROOT / "deploy" / "helm" / "what-next"


@pytest.fixture(scope="module")
def forks() -> Iterator[list[Forks]]:
    if (lacks := trials.missing()) is not None:
        pytest.skip(lacks)
    with forking(4) as made:
        yield made


@pytest.fixture(params=[2, 4])
def made(
    request: pytest.FixtureRequest, forks: list[Forks], postgres_server: Postgres, tmp_path: Path
) -> Iterator[Fleet]:
    (folder := tmp_path / "fleet").mkdir()
    with fleet(forks[: request.param], folder, postgres_server) as started:
        yield started


@pytest.mark.slow
def test_processes_answer_for_one_another_through_swaps_kills_and_an_upgrade(made: Fleet, tmp_path: Path) -> None:
    pairs = len(made.processes) * (len(made.processes) - 1)
    assert trials.changes(made) == {"pairs": pairs, "next answer changed": pairs}
    (new := tmp_path / "new").mkdir()
    for found in (trials.swap(made, new), trials.kill(made), trials.restart(made)):
        assert (found["failed"], found["events lost"], found["fallbacks"]) == (0, 0, {}), found
        assert found["answers"] > 20
        assert found["events kept"] > 5
    assert found["sent again by the proxy"] > 0


@pytest.mark.slow
def test_a_database_that_goes_and_comes_back_is_waited_out(
    forks: list[Forks], postgres_server: Postgres, tmp_path: Path
) -> None:
    with fleet(forks[:2], tmp_path, postgres_server) as made:
        found = trials.away(made)
    # Refused in the service's own words, with Retry-After; nobody's connection breaks.
    assert set(found["statuses"]) == {"503"}
    assert found["refused meanwhile"] > 0
    assert (found["events lost"], found["all ready after_s"] < 15) == (0, True), found


@pytest.mark.slow
def test_a_standby_that_takes_over_has_all_that_was_acknowledged(forks: list[Forks], tmp_path: Path) -> None:
    wheel = package()
    assert wheel is not None
    with server(wheel) as primary, standby(primary) as second:
        both = f"postgresql://postgres@/trial?host={primary.folder},{second.folder}&target_session_attrs=read-write"
        with fleet(forks[:2], tmp_path, primary, urls=[both] * 2) as made:
            found = trials.take_over(made, second)
            assert set(found["statuses"]) <= {"503"}
            assert (found["events lost"], found["all ready after_s"] < 20) == (0, True), found


@pytest.mark.slow
def test_the_proxy_sends_people_where_their_sessions_are(
    forks: list[Forks], postgres_server: Postgres, tmp_path: Path
) -> None:
    with fleet(forks, tmp_path, postgres_server, "server.sessions=60", users=180) as made:
        found = trials.routing(made, tmp_path)
    assert found["by user"]["hit_rate"] > 0.85  # the hash does not share people out quite evenly
    assert found["in turn"]["hit_rate"] < 0.6


@pytest.mark.slow
def test_a_process_far_from_its_database_and_cut_off_for_half_a_minute(forks: list[Forks], tmp_path: Path) -> None:
    if (lacks := trials.missing(far=True)) is not None:
        pytest.skip(lacks)
    with (
        trials.far_server(0.02, 0.01) as (postgres, url, tell),
        fleet(forks[:2], tmp_path, postgres, urls=[postgres.url("trial"), url]) as made,
    ):
        found = trials.partition(made, tell)
    for part in ("on the bad line", "with the cut"):
        assert (found[part]["failed"], found[part]["events lost"]) == (0, 0), found
    assert found["ready again after_s"] < 20


def test_the_chart_is_what_kubernetes_takes(tmp_path: Path) -> None:
    if (helm := shutil.which("helm")) is None:
        pytest.skip("there is no helm on the PATH")
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    yaml = pytest.importorskip("yaml")
    subprocess.run([helm, "lint", "--strict", CHART], check=True, capture_output=True, timeout=60)
    for more in ("loop.enabled=true", "autoscaling.enabled=false", "autoscaling.p99.enabled=true"):
        words = [helm, "template", "shop", str(CHART), "--set", more]
        rendered = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
        parts = [one for one in yaml.safe_load_all(rendered) if one]
        for one in parts:
            validate.validate(one, "1.35", strict=True)
        kinds = [one["kind"] for one in parts]
        assert {"Deployment", "Service", "PodDisruptionBudget", "Job", "NetworkPolicy"} <= set(kinds)
        for one in parts:
            if one["kind"] in ("Deployment", "Job"):
                assert one["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
