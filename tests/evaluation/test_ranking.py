"""Ranking metrics, worked by hand."""

import numpy as np
import pytest

from what_next.evaluation.ranking import hit_rate, ndcg

SLATES = np.array([[7, 2, 5], [7, 2, 5], [7, 2, 5], [7, -1, -1]], np.int32)
TARGETS = np.array([7, 5, 4, -1], np.int32)


def test_a_hit_is_the_target_anywhere_in_the_slate():
    assert hit_rate(SLATES, TARGETS).tolist() == [1, 1, 0, 0]


def test_ndcg_is_one_at_rank_one_and_a_half_at_rank_three():
    assert ndcg(SLATES, TARGETS).tolist() == [1, 0.5, 0, 0]


def test_ndcg_at_rank_two_is_one_over_the_logarithm_of_three():
    assert ndcg(SLATES[:1], np.array([2], np.int32))[0] == pytest.approx(0.63092975)
