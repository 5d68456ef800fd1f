"""Bilinear features of contexts and vectors."""

import numpy as np
import pytest

from what_next.off_policy.reward_model import Axes, Bilinear


def test_two_columns_turn_to_their_sum_and_their_difference():
    # The second column is 0.6 of the first and 0.8 of something else: they correlate by 0.6.
    first, second = np.array([1.0, -1, 1, -1]), np.array([1.0, -1, -1, 1])
    table = np.stack([10 + 2 * first, 5 + 7 * (0.6 * first + 0.8 * second)], axis=1)
    axes = Axes.of(table)
    assert axes.variances == pytest.approx([1.6, 0.4])
    turned = axes(table)
    assert turned[:, 0] == pytest.approx([1, 1, 1, 1])
    assert np.abs(turned[:, 1]) == pytest.approx(np.abs(1.6 * first + 0.8 * second) / np.sqrt(2))
    assert np.abs(turned[:, 2]) == pytest.approx(np.abs(0.4 * first - 0.8 * second) / np.sqrt(2))


def test_along_the_axes_the_rows_have_mean_zero_the_told_variances_and_nothing_in_common():
    rng = np.random.default_rng(2)
    table = rng.normal(3, [1.0, 50.0, 0.01], (400, 3)) @ rng.normal(size=(3, 3))
    axes = Axes.of(table)
    turned = axes(table)[:, 1:]
    assert turned.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-9)
    assert turned.T @ turned / 400 == pytest.approx(np.diag(axes.variances), abs=1e-9)
    assert axes.variances.sum() == pytest.approx(3)
    assert (np.diff(axes.variances) < 0).all()


def test_columns_that_never_vary_or_repeat_others_give_no_axes():
    rng = np.random.default_rng(3)
    some = rng.normal(size=(50, 2))
    flat = np.full((50, 1), 0.1)
    nearly = 1e6 + 1e-5 * rng.normal(size=(50, 1))  # what rounding leaves of a constant
    tiny = 1e-12 * rng.normal(size=(50, 1))
    assert len(Axes.of(np.hstack([some, some, flat, nearly, np.zeros((50, 1))])).variances) == 2
    assert len(Axes.of(np.hstack([some, tiny])).variances) == 3
    assert len(Axes.of(flat).variances) == len(Axes.of(np.zeros((50, 1))).variances) == 0


def test_without_contexts_the_features_are_the_constant_and_the_axes_of_the_vectors():
    vectors = np.random.default_rng(4).normal(size=(30, 2))
    nothing = np.empty((len(vectors), 0))
    psi = Bilinear.of(nothing, vectors, 512)
    assert psi(nothing, vectors) == pytest.approx(Axes.of(vectors)(vectors))
    assert psi(nothing[:1], vectors[:1]).shape == (1, 3)


def test_features_are_all_products_or_the_strongest_of_them_after_the_axes_themselves():
    rng = np.random.default_rng(0)
    contexts, vectors = rng.normal(size=(200, 4)), rng.normal(size=(200, 3))
    contexts[:, 1] += 3 * contexts[:, 0]
    every, capped = Bilinear.of(contexts, vectors, 512), Bilinear.of(contexts, vectors, 10)
    assert (every.width, capped.width) == (5 * 4, 10)
    pairs = set(zip(capped.left.tolist(), capped.right.tolist(), strict=True))
    alone = {(0, 0), *((axis, 0) for axis in range(1, 5)), *((0, axis) for axis in range(1, 4))}
    assert pairs == alone | {(1, 1), (1, 2)}
    assert (capped.left[0], capped.right[0]) == (0, 0)


def test_features_of_a_mean_vector_are_the_mean_of_the_features():
    rng = np.random.default_rng(1)
    contexts, vectors = rng.normal(size=(50, 3)), rng.normal(size=(50, 4))
    psi = Bilinear.of(contexts, vectors, 12)
    context = np.broadcast_to(contexts[:1], contexts.shape)
    mean = psi(contexts[:1], vectors.mean(axis=0, keepdims=True))
    assert mean == pytest.approx(psi(context, vectors).mean(axis=0, keepdims=True))
