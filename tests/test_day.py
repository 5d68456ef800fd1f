"""docs/day.md runs from top to bottom: Python in one namespace, commands as in a shell."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "day.md"


@pytest.mark.slow
def test_a_strangers_whole_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "stranger"}
    running: list[subprocess.Popen[str]] = []
    address = ""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        for kind, code in re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(), re.S):
            if kind == "python":
                exec(compile(code.replace("http://127.0.0.1:8000", address), PAGE.name, "exec"), names)
                continue
            for line in re.findall(r"^\$ what-next (.*)$", code, re.M):
                command = [sys.executable, "-m", "what_next", *shlex.split(line.removesuffix("&"))]
                if not line.endswith("&"):
                    subprocess.run(command, check=True, env=environment, timeout=600)
                    continue
                served = subprocess.Popen(
                    [*command, "server.port=0"], stdout=subprocess.PIPE, env=environment, text=True
                )
                running.append(served)
                assert served.stdout is not None
                address = json.loads(served.stdout.readline())["address"]
    finally:
        for served in running:
            served.terminate()
    assert [served.wait(60) for served in running] == [0]
    assert names["results"]["agent"]["ndcg@10"]["low"] > 0.3  # type: ignore[index]
    assert names["taken"] > 150  # type: ignore[operator]
    rewards = names["rewards"]
    assert rewards["ours"] > 1.2 * rewards["random"]  # type: ignore[index]
    assert (tmp_path / "shop" / "learned.safetensors").is_file()
