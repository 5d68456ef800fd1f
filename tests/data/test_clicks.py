"""Vectors of items and users by clicks on random slates."""

import numpy as np
import pytest

from what_next.data.clicks import decay_of, factorised


def shown(users: int, rng: np.random.Generator, decay: float = 0.8) -> tuple[np.ndarray, ...]:
    """Slates of 5 of 40 items of two kinds; each user clicks one kind alone, as far as it is looked at."""
    whose = np.repeat(np.arange(users), 40)
    slates = rng.integers(40, size=(len(whose), 5))
    clicks = (slates % 2 == whose[:, None] % 2) & (rng.random(slates.shape) < decay ** np.arange(5))
    return slates, clicks, whose


def test_the_slots_and_the_two_kinds_are_found() -> None:
    rng = np.random.default_rng(0)
    slates, clicks, users = shown(100, rng)
    found = factorised(slates, clicks, users, np.zeros((40, 0), np.float32), 3, 0)
    assert found.decay == pytest.approx(0.8, abs=0.02)
    odds = np.c_[found.items, np.ones(40)] @ found.users.T
    liked = np.arange(40)[:, None] % 2 == np.arange(100) % 2
    assert (odds[liked] > 0).all()
    assert (odds[~liked] < 0).all()
    assert found.items.std(0) == pytest.approx(np.full(3, 3**-0.5), rel=1e-3)


def test_vectors_that_are_given_stay() -> None:
    given = np.where(np.arange(40)[:, None] % 2, 1.0, -1.0).astype(np.float32)
    found = factorised(*shown(50, np.random.default_rng(1)), given, 3, 0)
    assert np.array_equal(found.items, given)
    assert np.array_equal(found.users[:, 0] > 0, np.arange(50) % 2 == 1)


@pytest.mark.parametrize(
    ("clicks", "decay"),
    [([[True, True]] * 4 + [[True, False]] * 4, 0.5), ([[True, False]], 1.0), ([[True]], 1.0), ([[True, True]], 1.0)],
)
def test_decay_by_hand(clicks: list[list[bool]], decay: float) -> None:
    """Eight clicks and four; a slot without a click, a single slot, and no difference tell nothing."""
    assert decay_of(np.array(clicks)) == pytest.approx(decay)
