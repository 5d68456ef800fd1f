"""Looking again and again: the bars of the gate, on simulated logs whose truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_looks

    return bench_looks


def test_counts_of_rows_give_the_gates_own_bounds(looks: Any) -> None:
    for shop in looks.shops():
        looks.check(shop, np.random.default_rng(0))


def test_sixty_looks_make_a_fixed_gate_promote_what_is_no_better(looks: Any) -> None:
    found = looks.equal(looks.shops()[0], 200, 60, 100, np.random.default_rng(0))
    assert found["one"] > 0.1
    assert found["any"] <= 0.03


@pytest.mark.slow
@pytest.mark.parametrize("place", range(3))
def test_equal_policies_at_200_looks(looks: Any, place: int) -> None:
    found = looks.equal(looks.shops()[place], 1000, 200, 100, np.random.default_rng(1))
    assert found["any"] <= found["any, 90 %"] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("place", range(3))
def test_what_is_better_is_promoted_within_twice_the_rows(looks: Any, place: int) -> None:
    shop = looks.shops()[place].better(0.1)
    found = looks.sooner(shop, 1000, np.random.default_rng(2), 0.8)
    assert found["within 2 times, 95 %"] >= 0.8
    assert looks.sooner(shop, 1000, np.random.default_rng(3), 0.9)["within 1.5 times, 90 %"] >= 0.9


@pytest.mark.slow
def test_users_who_come_back(looks: Any) -> None:
    assert looks.returning(300, 100, np.random.default_rng(4))["any"] <= 0.05
