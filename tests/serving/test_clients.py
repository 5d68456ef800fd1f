"""Typed clients, made from the schema by `make client`, talk to a running service."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import what_next.serving.http.app  # noqa: F401  (its operations make the schema)
from what_next.serving.http.schema import document

from .models import served
from .test_http_live import started

pytestmark = pytest.mark.slow

IN_PYTHON = """
import json, sys
from what_next_client import Client
from what_next_client.api.default import add_event, recommend
from what_next_client.models import Event, Question

with Client(base_url=sys.argv[1]) as client:
    found = recommend.sync(client=client, body=Question(user_id="u1", k=2))
    event = add_event.sync(client=client, body=Event(event_id="client", user_id="u1", item_id=found.items[0].item_id))
    ids = [one.item_id for one in found.items]
    print(json.dumps({"ids": ids, "known": found.known_events, "taken": event.accepted}))
"""
IN_TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { paths } from "./what-next.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const { data, error } = await client.POST("/v1/recommendations", { body: { user_id: "u1", k: 2 } });
if (error || !data) throw new Error(JSON.stringify(error));
const ids: string[] = data.items.map((item) => item.item_id);
console.log(JSON.stringify({ ids, known: data.known_events }));
"""


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document(True)))
    return path


def run(*words: object, folder: Path, **more: Any) -> str:
    done = subprocess.run([str(one) for one in words], capture_output=True, text=True, cwd=folder, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python(schema: Path, tmp_path: Path) -> None:
    pytest.importorskip("openapi_python_client", reason="openapi-python-client is not installed (extra: client)")
    run(sys.executable, "-m", "openapi_python_client", "generate", "--path", schema, "--output-path", "client",
        folder=tmp_path)  # fmt: skip
    served(tmp_path, deadline=5000)
    with started(tmp_path / "setup.txt") as (_, facts):
        told = json.loads(run(sys.executable, "-c", IN_PYTHON, facts["address"], folder=tmp_path / "client"))
    assert (len(told["ids"]), told["known"], told["taken"]) == (2, 12, 1)


def test_typescript(schema: Path, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    wanted = ["openapi-typescript@7", "openapi-fetch@0", "typescript@5", "@types/node@20"]
    try:
        run(npm, "install", "--no-audit", "--no-fund", *wanted, folder=tmp_path)
    except AssertionError as error:
        pytest.skip(f"the generators cannot be had: {error}")
    tools = tmp_path / "node_modules" / ".bin"
    optional = "--default-non-nullable=false"  # what has a default may be left out
    run(tools / "openapi-typescript", schema, optional, "--output", "what-next.d.ts", folder=tmp_path)
    (tmp_path / "try.ts").write_text(IN_TYPESCRIPT)
    compile_it = [tools / "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "try.ts"]
    run(*compile_it, folder=tmp_path)
    served(tmp_path, deadline=5000)
    with started(tmp_path / "setup.txt") as (_, facts):
        told = json.loads(run("node", "try.js", facts["address"], folder=tmp_path))
    assert (len(told["ids"]), told["known"]) == (2, 12)
    (tmp_path / "try.ts").write_text(IN_TYPESCRIPT.replace("k: 2", 'k: "two"'))
    with pytest.raises(AssertionError, match="not assignable to type 'number"):
        run(*compile_it, folder=tmp_path)
