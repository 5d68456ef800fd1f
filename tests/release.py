"""Release check: builds the wheel and the sdist, then uses the wheel as a stranger would, in fresh environments.

`make release-check` runs it. On each Python that is there, the base install alone comes first: it is imported, helps in
less than half a second, trains and recommends on a tiny file, and says of each extra that is missing how to get it.
Then comes each extra alone, with what it is for. Environments are uv's, which links what it downloaded once.
"""

import argparse
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OURS = {"client", "dev", "docs", "mutate", "notebooks", "release"}
"""Extras of those who work on it."""
HELP = 0.5
"""Seconds of processor time that help may take."""
NEEDS = {
    "onnx": "export setup.txt --to encoder.onnx",
    "pandas": "data describe clean.pk",
    "report": "evaluate setup.txt --baselines popular --report page.html",
    "serve": "key add setup.txt --name mine --role read",
    "sim": "simulate ppo.txt --world boredom:sardine/SlateTopK-Bored-v0",
    "track": "train setup.txt track=tensorboard passes=1 dim=8 batch_size=16 --force",
    "tune": "tune setup.txt --trials 1 --seconds 1",
}
"""What each extra is for."""
IMPORTS = {"ann": "faiss", "hub": "huggingface_hub", "loop": "river", "remote": "fsspec", "scale": "ray"}
"""Of extras that are for more than there is here: many items, a log of a service, an account, a cluster."""
ELSEWHERE = {"hub": "hub push setup.txt me/mine", "scale": "train setup.txt cluster=ray"}
"""What asks for two of those."""
SHIPPED = ("page/page.html", "page/lit-html.LICENSE", "py.typed", "store/migrations.py")


def main() -> int:
    """Build, and try everything that is asked for; returns the exit code."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pythons", nargs="*", default=PYTHONS, help="versions; those that are not there are told")
    asked.add_argument("--extras", nargs="*", default=None, help="default: all; none of them where nothing follows")
    words = asked.parse_args()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    chosen = sorted(set(extras) - OURS) if words.extras is None else words.extras
    wheel, failed = built(), 0
    for version in words.pythons:
        python = found(version)
        if python is None:
            print(f"Python {version}: not on this machine, not tried")
            continue
        for extra in (None, *chosen):
            told = tried(wheel, python, extra)
            failed += told is not None
            print(f"Python {version}, {extra or 'base'}: {'passed' if told is None else told}", flush=True)
    return 1 if failed else 0


def built() -> Path:
    """The wheel, made from the sdist; both hold what they should."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--installer", "uv", ROOT], check=True, stdout=subprocess.DEVNULL)
    (sdist,), (wheel,) = ((ROOT / "dist").glob(pattern) for pattern in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as source, zipfile.ZipFile(wheel) as files:
        for held in (source.getnames(), files.namelist()):
            missing = [name for name in SHIPPED if not any(one.endswith(name) for one in held)]
            assert not missing, f"not in the release: {missing}"
        assert all(name.startswith(("what_next/", "what_next_rl-")) for name in files.namelist())
        licences = [name for name in files.namelist() if ".dist-info/licenses/" in name]
        assert len(licences) == 2, licences
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    return wheel


def found(version: str) -> str | None:
    """The interpreter of a version, where the machine has one."""
    done = uv("python", "find", "--no-project", "--no-python-downloads", version)
    return done.stdout.strip() if done.returncode == 0 else None


def uv(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run uv."""
    return subprocess.run([sys.executable, "-m", "uv", *words], capture_output=True, text=True)


def tried(wheel: Path, python: str, extra: str | None) -> str | None:
    """Use the wheel, alone or with one extra; returns what failed."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for words in (
            ("venv", "--quiet", "--no-project", "--python", python, home / "venv"),
            ("pip", "install", "--python", home / "venv", f"{wheel}[{extra}]" if extra else wheel),
        ):
            done = uv(*words)
            if done.returncode:
                return f"not installed: {done.stderr.strip()}"
        try:
            tiny_model(home)
            if extra == "pandas":
                run(home, "python", "-c", "import pandas; pandas.read_csv('log.csv').to_pickle('clean.pk')")
            if extra is None:
                bare(home)
            elif extra in NEEDS:
                said(home, NEEDS[extra])
            else:
                run(home, "python", "-c", f"import {IMPORTS[extra]}")
        except AssertionError as error:
            return f"FAILED: {error}"
    return None


def run(home: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, in its folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(home / "venv" / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, env=kept)
    assert done.returncode == code, f"{shlex.join(words)} ended with {done.returncode}: {done.stderr or done.stdout}"
    return done


def said(home: Path, line: str, code: int = 0) -> str:
    """What `what-next` said to a line."""
    done = run(home, "what-next", *shlex.split(line), code=code)
    return done.stdout + done.stderr


def tiny_model(home: Path) -> None:
    """A model of a tiny file, trained by the command line; it recommends."""
    made = "from what_next.testing import made_up_log as log; log(attributes=0).write_csv('log.csv')"
    run(home, "python", "-c", made)
    (home / "clean.pk").write_bytes(b"\x80\x04.")
    (home / "ppo.txt").write_text(
        "train, yes, algorithm, ppo, data, -, world.steps, 20, dim, 8, model_agent_path, p.safetensors, "
        "model_critic_path, pc.safetensors"
    )
    said(home, "init log.csv")
    said(home, "run setup.txt passes=1 dim=8 batch_size=16")
    assert "item " in said(home, "recommend setup.txt --user 'user 1' -k 3")


def bare(home: Path) -> None:
    """The base install: help is fast and imports no PyTorch, the installation's own check passes, extras are named."""
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said(home, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"  help: {statistics.median(took):.2f} s of processor time", flush=True)
    assert statistics.median(took) < HELP, f"help took {took} s"
    run(home, "python", "-c", "from what_next.testing import run_tests; raise SystemExit(run_tests())")
    for extra, line in (NEEDS | ELSEWHERE).items():
        told = said(home, line, code=2)
        assert f"pip install 'what-next-rl[{extra}]'" in told, f"{line}: {told}"
        assert "Traceback" not in told, told


if __name__ == "__main__":
    sys.exit(main())
