"""A comparison, and its page."""

import json

import pytest

from what_next import Dataset
from what_next.experiments.next_items import Comparison
from what_next.reporting.page import page

from .films import comparison_of, hits, log_and_items


@pytest.fixture(scope="session")
def films() -> Dataset:
    return log_and_items()


@pytest.fixture(scope="session")
def made(setup_of, films: Dataset, tmp_path_factory) -> Comparison:
    """The agent hits half of the users, `popular` a quarter, `untrained` nobody; with a log of training."""
    setup = setup_of(tmp_path_factory.mktemp("made"), algorithm="next_item", passes=1)
    lines = [{"passes": step / 10, "loss_actor": 5 - step / 10, "value": 0.0, "reward": 1.0} for step in range(40)]
    setup.log_path.write_text("\n".join(json.dumps(line) for line in lines))
    named = {"agent": hits(films, 0.5), "untrained": hits(films, 0), "popular": hits(films, 0.25)}
    return comparison_of(setup, films, named)


@pytest.fixture(scope="session")
def text(made: Comparison) -> str:
    return page(made)
