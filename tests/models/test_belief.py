"""What a user is believed to click, by what was shown to that user."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from what_next.data.clicks import ClickFactors
from what_next.models.belief import FLOOR, RESHAPED, THERE, Belief, Beliefs

ITEMS = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0.5, 0.5]], np.float32)
USERS = np.random.default_rng(0).normal([0, 0, -1], [2, 2, 0.5], (500, 3)).astype(np.float32)


def belief(decay: float = 0.8) -> Belief:
    made = Belief(5, 2)
    made.learn(ClickFactors(ITEMS, USERS, decay))
    return made


def clicks_of(rng: np.random.Generator, slates: np.ndarray, weights: list[float]) -> np.ndarray:
    odds = np.c_[ITEMS, np.ones(5)][slates] @ weights
    return np.asarray(rng.random(slates.shape) < 0.8 ** np.arange(slates.shape[-1]) / (1 + np.exp(-odds)))


def test_the_prior_is_that_of_the_users_who_were_seen() -> None:
    made = belief()
    assert made.mean.numpy() == pytest.approx(USERS.mean(0), rel=1e-5)
    assert torch.linalg.inv(made.precision).numpy() == pytest.approx(np.cov(USERS.T) + FLOOR * np.eye(3), rel=1e-3)


def test_the_weights_are_the_mode_of_the_posterior() -> None:
    """By a general minimiser of the same density; every slate here has a click, so that each was looked at."""
    rng, made = np.random.default_rng(1), belief()
    slates = rng.integers(5, size=(200, 3))
    clicks = clicks_of(rng, slates, [2.0, -1, 0])
    slates, clicks = slates[clicks.any(1)][:30], clicks[clicks.any(1)][:30]
    found = Beliefs(made, 1, 3, 30)
    for slate, clicked in zip(slates, clicks, strict=True):
        found.watch(slate[None], clicked[None])
    for _ in range(20):
        found._newton(found.shown.flatten(1, 2), found.clicks.flatten(1), torch.ones(1, 90), found.looked.repeat(30))
    mean, precision = made.mean.double().numpy(), made.precision.double().numpy()
    vectors, looked = np.c_[ITEMS, np.ones(5)][slates], 0.8 ** np.arange(3)

    def energy(weights: np.ndarray) -> float:
        chances = looked / (1 + np.exp(-vectors @ weights))
        told = np.where(clicks, np.log(chances), np.log(1 - chances)).sum()
        return float((weights - mean) @ precision @ (weights - mean) / 2 - told)

    assert found.weights[0].numpy() == pytest.approx(minimize(energy, mean).x, abs=0.02)


def test_a_slate_without_a_click_counts_by_the_chance_that_it_was_looked_at() -> None:
    """Before anything is known all chances are those of the prior's mean: by Bayes' rule."""
    made = belief()
    found = Beliefs(made, 2, 2, 3)
    found.watch(np.array([[0, 1], [0, 1]]), np.array([[False, False], [True, False]]))
    odds = np.c_[ITEMS, np.ones(5)][:2] @ USERS.mean(0)
    missed = np.prod(1 - 0.8 ** np.arange(2) / (1 + np.exp(-odds)))
    assert found.there[:, 0, 0].tolist() == pytest.approx([THERE * missed / (THERE * missed + 1 - THERE), 1.0])


def test_the_oldest_slates_are_forgotten_and_new_users_begin_at_the_prior() -> None:
    made, slate = belief(), np.array([[0, 2]] * 3)
    found, short = Beliefs(made, 3, 2, 8), Beliefs(made, 3, 2, 2)
    for one in (found, short):
        one.watch(np.full((3, 2), -1), np.zeros((3, 2), np.bool_))
        assert torch.allclose(one.weights, made.mean.expand(3, -1), atol=1e-3)  # nothing was shown
    for _ in range(3):
        found.watch(slate, np.ones((3, 2), np.bool_))
        short.watch(slate, np.ones((3, 2), np.bool_))
    assert (found.weights[:, 0] > short.weights[:, 0]).all()
    found.forget(np.array([1]))
    assert torch.equal(found.weights[1], made.mean)
    assert (found.standardised[1] == 0).all()
    kept = found.weights[2].clone()
    found.keep(np.array([2]))
    assert torch.equal(found.weights, kept[None])
    found.watch(slate[:1], np.ones((1, 2), np.bool_))


def test_draws_have_the_variance_of_what_is_known() -> None:
    found, rng = Beliefs(belief(), 4_000, 2, 4), np.random.default_rng(2)
    drawn = (found.drawn(rng) - found.weights).double() / RESHAPED
    assert torch.cov(drawn.T).numpy() == pytest.approx(np.cov(USERS.T) + FLOOR * np.eye(3), rel=0.1, abs=0.1)
    for _ in range(4):
        found.watch(np.array([[0, 2]] * 4_000), np.ones((4_000, 2), np.bool_))
    assert found.drawn(rng)[:, 0].std() < RESHAPED * drawn[:, 0].std()
