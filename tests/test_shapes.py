"""The tests' own checks: a value of another type, or an axis of another size than the rest, is refused at the call."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float32

from what_next.losses.catalogue import linear_cross_entropy

from .shapes import MOST, begin_test, checked, unchecked

THREE, FOUR = np.zeros(3, np.float32), np.zeros(4, np.float32)


@checked
def longer(left: Float32[np.ndarray, "rows"], right: Float32[np.ndarray, "rows"]) -> Float32[np.ndarray, "rows"]:
    return left if right[0] == 0 else FOUR


@checked
def doubled(count: int) -> int:
    return 2 * count


@checked
@dataclass
class Pair:
    left: Float32[np.ndarray, "rows"]
    right: Float32[np.ndarray, "rows"]


def test_axes_of_one_name_have_one_size_among_arguments_fields_and_what_comes_back() -> None:
    assert longer(THREE, THREE) is THREE
    Pair(FOUR, FOUR)
    for call in (lambda: longer(THREE, FOUR), lambda: Pair(THREE, FOUR), lambda: longer(THREE, THREE + 1)):
        with pytest.raises(BeartypeCallHintViolation):
            call()


def test_types_are_checked_where_there_is_no_shape_and_not_while_checks_are_off() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        doubled("a")
    with unchecked():
        assert doubled("a") == "aa"
        assert longer(THREE, FOUR) is THREE
    with pytest.raises(BeartypeCallHintViolation):
        doubled("a")


def test_many_calls_in_one_test_are_taken_to_be_alike() -> None:
    for _ in range(MOST):
        doubled(1)
    assert doubled("a") == "aa"
    begin_test()
    with pytest.raises(BeartypeCallHintViolation):
        doubled("a")


def test_the_functions_of_what_next_are_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        linear_cross_entropy(torch.zeros(2, 3), torch.zeros(5, 4), torch.zeros(2, dtype=torch.long))
