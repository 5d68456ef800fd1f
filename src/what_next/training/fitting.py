"""What a setup leaves to the data: the loss that fits the catalogue, and how many histories make a batch."""

from dataclasses import dataclass

from what_next.data.batches import LEAST
from what_next.settings import AFFORDABLE, Setup
from what_next.state import State


@dataclass(frozen=True)
class Fitted:
    """What follows from the data.

    Attributes:
        loss, batch_size: what is trained with, chosen here or set.
        reasons: a sentence for each that was chosen here.
    """

    loss: str
    batch_size: int
    reasons: tuple[str, ...]

    @property
    def values(self) -> dict[str, str | int]:
        """What a model's file keeps."""
        return {"loss": self.loss, "batch_size": self.batch_size}


def fitted(setup: Setup, state: State) -> Fitted | None:
    """What the data of a state decide for a setup; None for an algorithm that tries items, which sets all itself."""
    if setup.algorithm.trials:
        return None
    items, batches, reasons = len(state.space.catalogue), state.batches, []
    loss = setup.loss.over(items)
    if setup.loss.name == "auto":
        compared = "at most" if items <= AFFORDABLE else "more than"
        reasons.append(
            f"loss {loss}: {items:,} items are {compared} {AFFORDABLE:,}, up to which a softmax over all of them is "
            "affordable; `loss` sets another"
        )
    if setup.batch_size is None:
        each = float((batches.lengths - 1).mean())
        few = f", and a pass has {LEAST} batches or more" if batches.batch_size * each < setup.batch_targets / 2 else ""
        reasons.append(
            f"batch_size {batches.batch_size:,}: about {batches.batch_size * each:,.0f} targets, since a history (or a "
            f"window of a long one) has {each:.1f} on average{few}; `batch_targets` or `batch_size` sets another"
        )
    return Fitted(loss, batches.batch_size, tuple(reasons))
