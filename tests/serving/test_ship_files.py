"""The files of `deploy/` say what they must: hardened, without a password, and about metrics that there are."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from configparser import ConfigParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from .processes import free_port

yaml = pytest.importorskip("yaml", reason="the extra serve is not installed")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def names_of_metrics() -> set[str]:
    """What `/metrics` tells of a service that has a model."""
    from what_next import Setup
    from what_next.serving.http.parts import Parts

    setup = Setup(
        train=False, algorithm="next_item", data=Path("log.parquet"), model_agent_path=Path("agent.safetensors")
    )
    parts = Parts(setup.server)
    text = parts.metrics.text().decode()
    parts.close()
    families = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + ending for name, kind in families for ending in endings.get(kind, ("",))} | {"what_next_model_info"}


def labels_of_metrics() -> dict[str, set[str]]:
    """The labels of each metric that has some, once all was counted."""
    from what_next.serving.metrics import Metrics

    metrics = Metrics()
    metrics.request("GET", "/health", 200, 0.001)
    metrics.answered("current", "trained", None, 0.001)
    metrics.shadows.labels("recorded").inc()
    metrics.happened("events", accepted=1)
    metrics.happened("feedback", accepted=1)
    found: dict[str, set[str]] = defaultdict(set)
    for name, labels in re.findall(
        r"^(\w+)\{(.*)\} ", metrics.text({"version": "1", "algorithm": "dqn", "encoder": "gru"}).decode(), re.MULTILINE
    ):
        found[name] |= set(re.findall(r"(\w+)=", labels))
    return found


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text())
    return read


class TestDashboard:
    def test_every_metric_that_it_names_exists(self) -> None:
        asked = {
            name
            for panel in dashboard()["panels"]
            for target in panel["targets"]
            for name in re.findall(r"\bwhat_next_\w+", target["expr"])
        }
        assert len(asked) > 12
        assert asked <= names_of_metrics()

    def test_every_label_that_it_names_is_one_of_its_metric(self) -> None:
        known = labels_of_metrics()
        for target in (target for panel in dashboard()["panels"] for target in panel["targets"]):
            grouped = {name for names in re.findall(r"by \((.+?)\)", target["expr"]) for name in names.split(", ")}
            for metric, matched in re.findall(r"\b(what_next_\w+)\{(.*?)\}", target["expr"]):
                asked = (
                    grouped
                    | set(re.findall(r"(\w+)=", matched))
                    | set(re.findall(r"\{\{(\w+)", target["legendFormat"]))
                )
                assert asked <= known[metric] | {"job", "instance"}, target["expr"]

    def test_panels_have_their_own_place_and_tell_what_they_show(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in dashboard()["panels"]:
            place = panel["gridPos"]
            cells = {
                (column, row)
                for column in range(place["x"], place["x"] + place["w"])
                for row in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            assert max(column for column, _ in cells) < 24
            taken |= cells
            assert panel["title"]
            assert panel["description"]

    def test_braces_and_brackets_of_the_questions_close(self) -> None:
        for panel in dashboard()["panels"]:
            for target in panel["targets"]:
                for opening, closing in ("()", "{}", "[]"):
                    assert target["expr"].count(opening) == target["expr"].count(closing), target["expr"]

    def test_prometheus_reads_the_path_of_the_metrics_with_a_key(self) -> None:
        (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
        assert job["metrics_path"] == "/metrics"
        assert job["authorization"]["credentials_file"]


class TestCompose:
    @pytest.fixture
    def services(self) -> dict[str, Any]:
        self.whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        services: dict[str, Any] = self.whole["services"]
        return services

    def test_no_password_stands_in_it_and_none_is_assumed(self, services: dict[str, Any]) -> None:
        for service in services.values():
            for name, value in service["environment"].items():
                if "PASSWORD" in name:
                    assert name.endswith("_FILE")
                    assert value == "/run/secrets/database_password"
                assert not re.search(r"://[^/@]+:[^/@]+@", str(value))
        assert re.fullmatch(r"\$\{\w+:\?.+\}", self.whole["secrets"]["database_password"]["file"])

    def test_the_service_waits_for_a_database_that_is_well(self, services: dict[str, Any]) -> None:
        assert services["service"]["depends_on"]["database"]["condition"] == "service_healthy"
        assert "pg_isready" in services["database"]["healthcheck"]["test"]

    def test_nothing_is_reached_from_other_machines_and_no_right_is_kept(self, services: dict[str, Any]) -> None:
        assert [name for name, one in services.items() if "ports" in one] == ["proxy"]
        assert all(port.startswith("127.0.0.1:") for port in services["proxy"]["ports"])
        for name in ("service", "proxy"):
            assert services[name]["cap_drop"] == ["ALL"]
            assert services[name]["read_only"] is True

    def test_the_proxy_asks_both_processes(self, services: dict[str, Any]) -> None:
        assert services["second"] == services["service"]
        given = services["proxy"]["environment"]
        assert [given[f"WHAT_NEXT_{place}"] for place in (1, 2)] == ["service:8000", "second:8000"]
        (file,) = services["proxy"]["volumes"]
        assert (DEPLOY / file.partition(":")[0]).is_file()
        assert set(given) <= set(re.findall(r"WHAT_NEXT_\w+", (DEPLOY / "haproxy.cfg").read_text()))

    def test_it_may_take_longer_to_stop_than_requests_have_to_end(self, services: dict[str, Any]) -> None:
        from what_next.serving.http.run import GRACE

        assert int(services["service"]["stop_grace_period"].removesuffix("s")) > GRACE
        assert int(unit()["Service"]["TimeoutStopSec"]) > GRACE

    def test_the_store_is_the_database_of_the_file(self, services: dict[str, Any]) -> None:
        database = services["database"]["environment"]
        url = services["service"]["environment"]["WHAT_NEXT_STORE"]
        assert url == f"postgresql://{database['POSTGRES_USER']}@database/{database['POSTGRES_DB']}"

    def test_all_processes_on_the_store_stop_for_a_restore(self, services: dict[str, Any]) -> None:
        recipe = (ROOT / "docs" / "deploy.md").read_text()
        processes = [name for name, one in services.items() if "WHAT_NEXT_STORE" in one["environment"]]
        for word in ("stop", "start"):
            assert f"docker compose {word} {' '.join(processes)}\n" in recipe


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("curl")), reason="nginx is not here")
def test_nginx_by_the_page_hands_on_a_path_as_it_was_sent_behind_a_prefix_too(tmp_path: Path) -> None:
    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())

    server, prefix = re.findall(
        r"^```nginx\n(.*?)^```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL | re.MULTILINE
    )
    mapped, location = prefix.split("}\n", 1)
    port = free_port()
    service = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=service.serve_forever, daemon=True).start()
    server = re.sub(r" +ssl_.*\n", "", server).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    server = server.replace("127.0.0.1:8000", f"127.0.0.1:{service.server_port}")
    server = server.replace("    location / {", location + "    location / {")
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ {mapped}}}\n{server} }}"
    )
    proxy = subprocess.Popen(["nginx", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")])
    try:
        path = "/v1/users/a%2Fb%25/history?limit=3"
        for before in ("", "/shop"):
            address = f"http://127.0.0.1:{port}{before}{path}"
            asked = ["curl", "-s", "--retry", "9", "--retry-connrefused", "--retry-delay", "1", address]
            assert subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout == path
    finally:
        proxy.terminate()
        proxy.wait(30)
        service.shutdown()


class TestImage:
    def test_it_runs_as_a_user_without_rights_and_tells_its_health(self) -> None:
        last = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
        assert re.search(r"^USER what-next$", last, re.MULTILINE)
        assert "/health" in re.search(r"^HEALTHCHECK .*\n.*$", last, re.MULTILINE)[0]  # type: ignore[index]
        assert re.search(r'^ENTRYPOINT \["what-next-entrypoint"\]$', last, re.MULTILINE)
        assert "install.sh" not in last, "what it was built with stays behind"

    def test_it_has_what_the_loop_of_the_chart_needs_and_both_read_one_setup(self) -> None:
        assert '"$source[serve,loop]"' in (DEPLOY / "install.sh").read_text()
        assert "{{ .Values.files.setup | quote }}" in (DEPLOY / "helm/what-next/templates/loop.yaml").read_text()

    def test_all_that_it_copies_is_let_through_and_there(self) -> None:
        allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        for line in re.findall(r"^COPY (?!--from)(.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
            for source in line.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in allowed


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "what-next.service")
    return parser


class TestUnit:
    def test_it_has_few_rights_and_comes_back(self) -> None:
        service = unit()["Service"]
        for name, value in {
            "User": "what-next",
            "NoNewPrivileges": "yes",
            "ProtectSystem": "strict",
            "ProtectHome": "yes",
            "PrivateTmp": "yes",
            "CapabilityBoundingSet": "",
            "Restart": "on-failure",
            "UMask": "0077",
        }.items():
            assert service[name] == value

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
    def test_systemd_finds_no_mistake_in_it_and_little_exposure(self, tmp_path: Path) -> None:
        text = (DEPLOY / "what-next.service").read_text()
        # What it starts is not installed here.
        path = tmp_path / "what-next.service"
        path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
        verified = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
        told = [line for line in verified.stderr.splitlines() if "what-next.service" in line]
        assert (told, verified.returncode) == ([], 0), verified.stderr
        exposed = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(path)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert exposed.returncode == 0, exposed.stdout[-400:]
