"""What off-policy evaluation sees: logged decisions, and what the policy in question would have done in each."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from what_next.errors import DataError

LARGEST = 1e200
"""Weight. An estimate that meets it means nothing, but stays a number."""


@dataclass(frozen=True, eq=False)
class Decisions:
    """Logged decisions, one row each; the rows of one unit stand together, in the order of time. Units are independent.

    A unit is what was drawn independently: a user, a session, or, where neither is known, a single decision. Its first
    row starts its trajectory, its last row ends it.

    Attributes:
        units: 0, 1, 2, ... without gaps, ascending.
        actions: which item was shown, 0 .. items - 1.
        rewards: what it earned.
        propensities: the behaviour policy's chance of the logged action, in (0, 1].
        items: how many actions there are.
        positions: the slot in a slate, 0 = first.
        slates: which slate, ascending; the rows of one stand together, in the order of their positions.
        marginal: of slates, what the propensities and the target's chances are: of an item at its position, whatever
            stands above it; else of an item given the items above it, as whoever draws slot by slot has them.
        contexts: what reward models read of each row.
        vectors: of the items: attributes, or one-hot where there are none.
    """

    units: Int64[np.ndarray, "rows"]
    actions: Int64[np.ndarray, "rows"]
    rewards: Float64[np.ndarray, "rows"]
    propensities: Float64[np.ndarray, "rows"]
    items: int
    positions: Int64[np.ndarray, "rows"] | None = None
    slates: Int64[np.ndarray, "rows"] | None = None
    contexts: Float64[np.ndarray, "rows dim"] | None = None
    vectors: Float64[np.ndarray, "items width"] | None = None
    marginal: bool = False

    @property
    def slated(self) -> bool:
        """Whether there are slates of two rows or more; one of a single row is a decision like any other."""
        return self.slates is not None and bool((np.diff(self.slates) == 0).any())


@dataclass(frozen=True, eq=False)
class Target:
    """What the policy in question would do in each logged row.

    Attributes:
        chances: of the logged action.
        expected: the sum over all items of chance * vectors[item], for reward models that are linear in the vectors.
        full: the whole distribution, where it fits in memory.
    """

    chances: Float64[np.ndarray, "rows"]
    expected: Float64[np.ndarray, "rows width"] | None = None
    full: Float64[np.ndarray, "rows items"] | None = None


def importance_weights(decisions: Decisions, target: Target) -> Float64[np.ndarray, "rows"]:
    """How much more often than the behaviour policy the target would have taken each logged action; at most `LARGEST`.

    Raises:
        DataError: for a propensity or a chance that is none; no estimate could be trusted that leaves such rows out.
    """
    chances, propensities = target.chances, decisions.propensities
    if not len(propensities):
        raise DataError("the log has no decisions; give one with at least a few hundred")
    if len(chances) != len(propensities):
        raise DataError(f"the policy has chances for {len(chances):,} decisions, and the log has {len(propensities):,}")
    _refuse(propensities, ~((propensities > 0) & (propensities <= 1)), "propensity", "above 0 and at most 1")
    _refuse(chances, ~((chances >= 0) & (chances <= 1 + 1e-6)), "chance under the policy", "from 0 to 1")
    _refuse(decisions.rewards, ~np.isfinite(decisions.rewards), "reward", "a finite number")
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(chances / propensities, LARGEST))


def _refuse(values: Float64[np.ndarray, "rows"], wrong: np.ndarray, name: str, allowed: str) -> None:
    """Say which row is wrong first, and how many are."""
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"decision {row:,} of the log has a {name} of {values[row]:g}, and so have {int(wrong.sum()) - 1:,} others "
            f"something that is not {allowed}; mend the log, or drop those decisions and say so"
        )
