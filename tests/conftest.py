"""What every test shares: shapes are checked, real data is found, and the graphics card is optional."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

# From here on every module of what_next is imported with its shapes and types checked at each call.
install_import_hook("what_next", "beartype.beartype")

CI = os.environ.get("CI") == "true"

hypothesis.settings.register_profile("house", deadline=None, derandomize=CI)
hypothesis.settings.load_profile("house")
torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; no test copies them into it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        missing = f"the real data sets are not there: {folder}"
        if CI:
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="there is no NVIDIA graphics card here"))
