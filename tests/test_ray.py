"""Training on a Ray cluster of two nodes, of which one is lost."""

import json
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from safetensors.numpy import load_file

from .test_distributed import arguments, environment

pytest.importorskip("ray", reason="Ray, of the extra `scale`, is not installed")


@pytest.mark.slow
def test_a_run_goes_on_when_one_of_two_nodes_is_lost(
    log_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for all else that the machine does
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        reports = {}
        for name in ("whole", "broken"):
            (tmp_path / name).mkdir()
            words = [*arguments(tmp_path / name, log_file), "cluster=ray", "cluster.restarts=2"]
            command = [sys.executable, "-m", "what_next", *words]
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            told = list[tuple[str, str]]()
            waiting = Thread(target=lambda running=running, told=told: told.append(running.communicate()))
            waiting.start()
            log = tmp_path / name / "agent.jsonl"
            while name == "broken" and not (log.exists() and len(log.read_text().splitlines()) > 90):
                assert running.poll() is None, told
                time.sleep(0.02)
            if name == "broken":
                cluster.remove_node(node)
            waiting.join()
            assert running.returncode == 0, told[0][1]
            reports[name] = json.loads(told[0][0])
    finally:
        cluster.shutdown()
    assert {one["ranks"] for one in reports.values()} == {2}
    assert reports["broken"]["histories"] == reports["whole"]["histories"]
    assert not reports["broken"]["stopped"]
    assert "node has died" in told[0][1]
    for part in ("agent", "critic"):
        one, other = (load_file(tmp_path / name / f"{part}.safetensors") for name in ("whole", "broken"))
        assert all(np.array_equal(one[key], other[key]) for key in one)
