"""Every setting of training is an argument of `fit`, and editors know it."""

from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from what_next.algorithms import NextItem
from what_next.python.settings import Settings, nested
from what_next.settings import Setup
from what_next.settings.schema import WORD, choices, leaves, optional

DECIDED = ("train", "data", "model_agent_path", "model_critic_path", "user", "slots", "log", "algorithm.")
ELSEWHERE = ("cluster.", "server.", "loop.", "world.", "decisions.")
FIELDS = {
    key.removesuffix(".name").replace(".", "_"): field
    for key, field in leaves(Setup, {})
    if not (key in DECIDED or key.startswith(("algorithm.", *ELSEWHERE)) or key.endswith(WORD))
}


def test_every_setting_of_training_is_there_once() -> None:
    assert list(Settings.__annotations__) == list(FIELDS), "python/settings.py has others than Setup"


@pytest.mark.parametrize("name", FIELDS)
def test_its_type_holds_what_the_setting_may_be(name: str) -> None:
    hint, field = get_type_hints(Settings)[name], FIELDS[name]
    mine = {word for one in (hint, *get_args(hint)) if get_origin(one) is Literal for word in get_args(one)}
    words = {word for one in choices(field) if get_origin(one) is Literal for word in get_args(one)}
    assert mine == (set() if name == "model" else words)
    assert (type(None) in get_args(hint)) == optional(field) or name == "evaluation_k"


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"learning_rate": 0.1}, {"learning_rate": 0.1}),
        ({"loss_negatives": 512}, {"loss": {"negatives": 512}}),
        ({"loss.negatives": 512, "loss": "softmax"}, {"loss": {"negatives": 512, "name": "softmax"}}),
        ({"loss": {"negatives": 512}}, {"loss": {"negatives": 512}}),
        ({"linear": False, "evaluation_seen": True}, {"linear": "no", "evaluation": {"seen": True}}),
        ({"reward_logged_purchase": 5.0}, {"reward": {"logged": {"purchase": 5.0}}}),
        ({"nonsense": 1}, {"nonsense": 1}),
    ],
)
def test_names_with_underscores_or_dots_become_groups(given: dict[str, object], values: dict[str, object]) -> None:
    assert nested(given, NextItem()) == {"algorithm": NextItem(), **values}


def test_an_algorithms_own_settings_go_to_it() -> None:
    found = nested({"algorithm_weight": 0.5}, "sqn")
    assert found == {"algorithm": {"name": "sqn", "weight": 0.5}}
