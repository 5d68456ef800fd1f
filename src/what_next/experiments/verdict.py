"""What judging found, with all that it was found from: for results, and for reports that show more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from what_next.metrics.evaluate_next import Judged, Yardstick
from what_next.settings import Setup
from what_next.state import State


@dataclass(frozen=True, eq=False)
class Verdict:
    """Policies that were judged on next items.

    Attributes:
        result: plain values, see `evaluation.evaluate_next`.
        state: the data, split and catalogue.
        yardstick: whom they were judged on, and by what.
        judged: by name of the policy, what it recommended.
        setups: of each learned policy, those of its seeds: their logs of training, their models.
    """

    result: dict[str, Any]
    state: State
    yardstick: Yardstick
    judged: Mapping[str, Judged]
    setups: Mapping[str, Sequence[Setup]]
