"""The map of the rooms in CONTRIBUTING.md is the order that the import contract keeps."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_map_names_every_room_in_the_order_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [set(re.split(r"\s*[|:]\s*", layer)) for layer in contract["layers"] if layer != "__main__"]
    rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    rooms = [{re.sub(r"(/|\.py)$", "", name) for name in re.findall(r"`([^`]+)`", row)} for row in rows]
    assert rooms == layers
