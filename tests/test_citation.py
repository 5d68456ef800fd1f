"""What researchers cite is the version that there is."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_has_the_version_and_our_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = dict(re.findall(r"^(version|license): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert cited == {"version": project["version"], "license": "EPL-1.0"}
    assert project["license"] == "EPL-1.0 AND BSD-3-Clause"  # of what the page ships
