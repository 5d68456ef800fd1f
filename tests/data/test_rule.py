"""Which items a request permitted, as the log keeps it."""

import json

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from what_next.data import Catalogue
from what_next.data.decisions.rule import Rule
from what_next.errors import DataError

CATALOGUE = Catalogue.from_table(
    pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": list("abcd"),
            "year": [1990.0, 2000.0, 2010.0, 2020.1],
            "tags": [["city: Rome", "genre: jazz"], ["genre: bop"], None, ["city: Oslo", "genre: jazz", "genre: bop"]],
        }
    )
)


@pytest.mark.parametrize(
    ("rule", "permitted"),
    [
        (Rule(None, (), {}), [1, 1, 1, 1]),
        (Rule(("a", "c", "strange"), (), {}), [1, 0, 1, 0]),
        (Rule((), (), {}), [0, 0, 0, 0]),
        (Rule(None, ("b", "strange"), {}), [1, 0, 1, 1]),
        (Rule(None, (), {"year": (2000.0, 2020.1)}), [0, 1, 1, 1]),  # both bounds belong to it, in single precision
        (Rule(("a", "b", "c"), ("c",), {"year": (1995.0, np.inf)}), [0, 1, 0, 0]),
        (Rule(tags={"genre": ("jazz",)}), [1, 0, 0, 1]),
        (Rule(tags={"genre": ("jazz", "bop", "strange")}), [1, 1, 0, 1]),
        (Rule(tags={"genre": ("jazz", "bop"), "city": ("Rome",)}), [1, 0, 0, 0]),
        (Rule(None, ("a",), {"year": (0.0, 2000.0)}, {"genre": ("jazz", "bop")}), [0, 1, 0, 0]),
        (Rule(tags={"genre": ("Rome",)}), [0, 0, 0, 0]),
    ],
)
def test_it_permits_the_same_after_it_was_written(rule: Rule, permitted: list[int]) -> None:
    again = Rule.of(rule.text)
    assert rule.mask(CATALOGUE).tolist() == again.mask(CATALOGUE).tolist() == [bool(one) for one in permitted]
    assert again.text == rule.text


def test_equal_rules_have_one_hash_whatever_the_order_of_their_ids() -> None:
    one = Rule(("a", "b"), (), {"year": (1.0, 2.0), "mood": (0.0, 1.0)}, {"genre": ("x", "y"), "city": ("z",)})
    other = Rule(("b", "a", "a"), (), {"mood": (0.0, 1.0), "year": (1.0, 2.0)}, {"city": ("z",), "genre": ("y", "x")})
    assert one.hash == other.hash != Rule(("a",), (), {}).hash
    assert Rule(None, (), {}).hash != Rule((), (), {}).hash  # everything is not nothing


def test_an_attribute_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match=r"permitted items by their 'mood', and the model's items have year"):
        Rule(None, (), {"mood": (0.0, 1.0)}).mask(CATALOGUE)
    with pytest.raises(DataError, match=r"permitted items by their 'label', and the model's items have city, genre"):
        Rule(tags={"label": ("x",)}).mask(CATALOGUE)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"allow": []},
        {"allowed": "a"},
        {"blocked": [1]},
        {"ranges": {"year": [1]}},
        {"ranges": {"year": ["a", 2]}},
        {"tags": {"city": "a"}},
        {"tags": ["city"]},
    ],
)
def test_other_json_is_no_rule(value: object) -> None:
    with pytest.raises(ValidationError):
        Rule.of(json.dumps(value))
