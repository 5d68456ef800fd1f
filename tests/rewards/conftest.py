"""Small logs as rewards read them."""

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from what_next.rewards import Events


def heard(items: list[list[int]], **more: Any) -> "Events":
    """Rows of items; lists become tensors, and what is left out is as dull as can be."""
    from what_next.rewards import Events

    batch = torch.tensor(items)
    count = int(batch.max()) + 1
    values = {
        "rewards": torch.ones(batch.shape),
        "times": None,
        "vectors": torch.zeros(count, 0),
        "popularity": torch.full((count,), 1 / count),
        "sigma": torch.ones(len(batch)),
    } | {name: torch.tensor(value) for name, value in more.items()}
    return Events(items=batch, **values)


@pytest.fixture(name="heard")
def heard_fixture() -> Any:
    return heard
