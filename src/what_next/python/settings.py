"""The settings that `fit` takes by name, typed so that editors can complete them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from what_next.algorithms import Algorithm
from what_next.errors import SetupError
from what_next.settings import Setup
from what_next.settings.schema import WORD, choices, leaves
from what_next.settings.setup import complete


class Settings(TypedDict, total=False):
    """Training settings by their keys, with an underscore for each dot; docs/settings.md explains them.

    At run time every other key is accepted as well, as `**{"decisions.log": "log.parquet"}`.
    """

    model: str
    epochs: int
    passes: int | None
    split: Literal["users", "leave_last_out", "time"]
    split_test: float
    split_validation: float
    split_quantile: float
    split_date: str | None
    split_seed: int
    evaluation_k: Sequence[int]
    evaluation_targets: Literal["last", "random", "successive", "all"]
    evaluation_seen: bool
    window: int | None
    seconds: float | None
    batch_size: int | None
    batch_targets: int
    max_length: int
    inputs_items: Literal["auto", "learned", "attributes", "both"]
    inputs_start: Literal["cooccurrence", "random"]
    inputs_rewards: bool
    inputs_gaps: bool
    inputs_context: bool
    inputs_slates: bool
    loss: Literal["auto", "softmax", "sampled_softmax", "gbce"]
    loss_negatives: int
    loss_calibration: float
    discount: float
    n_step: int
    relax: float
    tolerance: float | None
    selection: Literal["random", "critic"]
    selection_candidates: int
    dim: int
    layers: int
    ensemble: int
    skip: bool | Literal["auto", "yes", "no"]
    linear: bool | Literal["yes", "no"]
    dropout: float | None
    item_dropout: float | None
    learning_rate: float
    weight_decay: float
    clip: float
    reward_spread_weight: float | None
    reward_spread_form: Literal["towards", "change"]
    reward_spread_pairs: Literal["all", "consecutive"]
    reward_spread_window: int
    reward_spread_clip: float
    reward_spread_repeat_factor: float
    reward_logged_weight: float | None
    reward_profile_correlation_weight: float | None
    reward_profile_correlation_window: int
    reward_diversity_weight: float | None
    reward_diversity_window: int
    reward_novelty_weight: float | None
    reward_serendipity_weight: float | None
    reward_serendipity_window: int
    reward_serendipity_above: float
    reward_repeat_weight: float | None
    reward_repeat_fade: float
    reward_return_time_weight: float | None
    reward_return_time_half: float
    seed: int
    threads: int | None
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    compile: bool
    monitor: Literal["ndcg@10", "hr@10", "dcg@10", "spread"] | None
    patience: int | None
    refit: Literal["auto", "no", "validation", "all"]
    stop_on_alarm: bool
    save_every: int | None
    track: Literal["tensorboard", "mlflow"] | None


def nested(settings: Mapping[str, object], algorithm: Algorithm | str) -> dict[str, Any]:
    """Settings by name as the nested values that `Setup` takes; unknown names are passed through.

    Args:
        settings: by key, with dots or underscores (`loss.negatives`, `loss_negatives`), or by group (`loss={...}`).
        algorithm: the algorithm whose own settings may be among them.
    """
    known = complete()  # the rewards of installed packages are settings, too
    own = type(algorithm) if isinstance(algorithm, Algorithm) else known.get(algorithm, Algorithm)
    fields = dict(leaves(Setup, {})) | dict(leaves(own, {}, "algorithm."))
    keys = {_plain(key.removesuffix(".name")): key for key in fields}
    values: dict[str, Any] = {"algorithm": {"name": algorithm} if isinstance(algorithm, str) else algorithm}
    for name, value in settings.items():
        key = keys.get(_plain(name), _free(name, keys))
        if isinstance(value, BaseModel | Mapping):
            key = name
        if key.startswith("algorithm.") and isinstance(algorithm, Algorithm):
            raise SetupError(f"{name} is given beside an algorithm that is an object; give it to the object")
        place, parts = values, key.split(".")
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = _word(value, fields.get(key))
    return values


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _free(name: str, keys: Mapping[str, str]) -> str:
    """The key in a group that takes any word (`reward.logged.WORD`), if the name begins with one; else the name."""
    groups = [key.removesuffix(WORD) for key in keys.values() if key.endswith(WORD)]
    group = next((one for one in groups if _plain(name).startswith(_plain(one))), None)
    reward = re.fullmatch(r"reward_(\w+)_weight", name)  # of a class that is not registered, as a rule
    return (f"reward.{reward[1]}.weight" if reward else name) if group is None else group + name[len(group) :]


def _word(value: object, field: FieldInfo | None) -> object:
    """`True` and `False` as yes and no, for a setting that has these words among its values."""
    words = {word for one in choices(field) if get_origin(one) is Literal for word in get_args(one)} if field else set()
    return ("no", "yes")[value] if isinstance(value, bool) and {"yes", "no"} <= words else value
