"""Processes that need not wait for PyTorch: each is a fork of one that has imported what takes the time of a start."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

FORKING = multiprocessing.get_context("forkserver")
"""As `Forked`, for functions: what a test would else wait for in each of its processes is imported once."""
FORKING.set_forkserver_preload(["torch._dynamo", "optuna", "what_next.environment"])

SERVER = """
import json, os, runpy, sys, traceback, warnings
import numpy, polars, pydantic, torch, torch._dynamo
assert "what_next" not in sys.modules

def begin(asked):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(asked["folder"])
    sys.path[:0], sys.argv = asked["path"], asked["words"]
    if asked["strict"]:
        warnings.simplefilter("error")
    if asked["code"] is None:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        exec(asked["code"], {"__name__": "__main__"})

for line in sys.stdin:
    if (child := os.fork()) == 0:
        code = 1
        try:
            begin(json.loads(line))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forked:
    """The process that is forked, from the first use on."""

    def __init__(self) -> None:
        self._home = TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._home.name,
        )

    def run(
        self, *words: str, code: str | None = None, folder: Path, path: Sequence[Path] = (), strict: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a module (the first word), or some code, in a folder.

        `path`: where modules are looked for first; `strict`: warnings are errors.
        """
        asked = {"words": words or ["-c"], "code": code, "folder": str(folder), "path": [*map(str, path)]}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked | {"strict": strict}) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        out, err = (Path(self._home.name, name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(words, status, out, err)

    def close(self) -> None:
        """End it."""
        self._process.communicate()
        self._home.cleanup()
