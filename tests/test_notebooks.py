"""The notebooks of the documentation run, and show what they did; the gallery's pictures are drawn."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_each_shows_a_picture_and_no_error() -> None:
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        found = [output for cell in cells for output in cell.get("outputs", [])]
        assert any("image/svg+xml" in output.get("data", {}) for output in found), path.name
        assert all(output["output_type"] != "error" for output in found), path.name


@pytest.mark.slow
def test_they_run() -> None:
    pytest.importorskip("nbmake", reason="the extra notebooks is not installed")
    words = ["--nbmake", "--nbmake-timeout=600", "-o", "addopts=", "-p", "no:cacheprovider", *map(str, NOTEBOOKS)]
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["calibration", "boredom", "looks"])
def test_a_picture_of_the_gallery_is_one_command(name: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "benchmarks/gallery.py", name, "--to", tmp_path], check=True)
    assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
    assert f"{name}.svg" in (ROOT / "docs/gallery.md").read_text()
