"""What the mutation check draws, and what it tells of a mutant."""

import pytest

from .mutate import changed_lines, means_the_same

FUNCTION = """
    def half(number: int) -> float:
        assert number >= 0, "below zero"
        if number > 10:
            raise ValueError(f"{number} is too large")
        return number / 2
"""


@pytest.mark.parametrize(
    ("before", "after"), [('"below zero"', '"XX"'), ('f"{number} is too large"', "None"), ("is too large", "IS")]
)
def test_other_words_are_no_mutant(before: str, after: str):
    assert means_the_same(FUNCTION, FUNCTION.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"), [("/ 2", "/ 3"), ("> 10", ">= 10"), (">= 0", "> 0"), ("ValueError", "int")]
)
def test_other_numbers_operators_and_errors_are(before: str, after: str):
    assert not means_the_same(FUNCTION, FUNCTION.replace(before, after))


def test_a_mutant_is_told_by_its_first_line_and_what_stands_there():
    line, change = changed_lines(FUNCTION, FUNCTION.replace("/ 2", "/ 3"))
    assert line == 5
    assert change.split() == ["-", "return", "number", "/", "2", "+", "return", "number", "/", "3"]
