"""Statistics of the latest events at every step of some histories at once; what follows a step never enters them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def latest(values: Float[Tensor, "batch time last"], window: int) -> Float[Tensor, "batch time last"]:
    """Sums over the latest `window` steps."""
    sums = values.cumsum(1)
    return torch.cat([sums[:, :window], sums[:, window:] - sums[:, :-window]], 1)


def mean_distance(points: Float[Tensor, "batch time dim"], window: int) -> Float[Tensor, "batch time"]:
    """The mean Euclidean distance of each event's vector to those of the `window` events before; 0 for the first.

    One difference for each lag, so that memory grows neither with the window nor with the history's square.
    """
    steps = points.shape[1]
    sums = points.new_zeros(points.shape[:2])
    for lag in range(1, min(window, steps - 1) + 1):
        sums[:, lag:] += (points[:, lag:] - points[:, :-lag]).norm(dim=-1)
    return sums / torch.arange(steps, device=points.device).clamp(1, window)


def events_since(items: Int64[Tensor, "batch time"]) -> Int64[Tensor, "batch time"]:
    """How many events ago each event's item was heard last (1: right before); 0 where it was not."""
    order = items.argsort(dim=1, stable=True)
    in_order = items.gather(1, order)
    again = in_order[:, 1:] == in_order[:, :-1]
    since = torch.zeros_like(items)
    return since.scatter(1, order[:, 1:], (order[:, 1:] - order[:, :-1]) * again)
