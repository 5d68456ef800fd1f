"""EASE: a linear item-to-item model with a closed-form solution."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from what_next.baselines.counts import TIE, Known, last_heard, placed_among, together
from what_next.baselines.rules import Ranking
from what_next.data import Dataset
from what_next.data.stages import Done, no_progress
from what_next.errors import DataError
from what_next.types import History

THIRDS = 3
"""Steps of the computation that report progress."""
MOST = 15_000
"""Largest catalogue: the solution takes 13 bytes per pair of items, 2.9 GB here, and time that grows with their
cube."""
LARGE = 1000
"""Above this many items the system is solved in single precision, in half of the time, if `CONDITION` allows it."""
CONDITION = 1e4
"""Largest condition number for single precision: 1e4 leaves an error of about 6e-4 in the weights."""
FEW = 3
"""With fewer than one user per `FEW` items, the system of users is faster than that of items."""


class Ease(Ranking):
    """Embarrassingly shallow autoencoder (Steck 2019, arXiv:1905.03375).

    Ridge regression predicts each item from the user's other items, never from itself. With `P` the inverse of
    `X'X + penalty * I`, where `X` holds 1 for each item of each user: `B = I - P diag(1 / diag(P))` (equation 8).
    """

    def __init__(
        self,
        weights: Float32[Tensor, "kept kept"],
        shares: Float64[np.ndarray, "items"],
        kept: Int64[np.ndarray, "kept"] | None = None,
    ) -> None:
        """`weights`: from each item of a history (row) to the score of each item (column); `shares` of all events.

        `kept`: the items of these rows and columns; None: all. Other items add nothing and are ranked by share alone.
        """
        self.weights, self.shares, self.kept, self.items = weights, shares, kept, len(shares)

    @staticmethod
    def fits(items: int) -> bool:
        """Whether a catalogue of that many items is small enough."""
        return items <= MOST

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        known: Int64[np.ndarray, "users"],
        *,
        penalty: float = 300.0,
        most: int | None = None,
        events: Known | None = None,
        done: Done = no_progress,
    ) -> "Ease":
        """Solve; see `baselines.Fit`.

        Args:
            penalty: on the squared weights; above 0.
            most: restricts the model to the most popular items; None: all items.
            events: the same known events, already counted for another fit, so that item pairs are counted once.
            done: called after each third of the work (`THIRDS`).

        Raises:
            DataError: the catalogue is too large (`fits`).
        """
        events, kept = events or Known.of(dataset, known), None
        shares = events.shares
        if most is not None and most < events.catalogue:
            kept = np.sort(np.argsort(-events.counts, kind="stable")[:most])
            events = events.among(kept)
        if not cls.fits(events.catalogue):
            raise DataError(
                f"{dataset.name}: EASE solves for every pair of items, and {events.catalogue:,} items are more than "
                f"{MOST:,}; leave it out"
            )
        solve = _solved_by_users if FEW * int((known > 0).sum()) < events.catalogue else _solved_by_items
        return cls(solve(events, penalty, done), shares, kept)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The sum of the weights from the history's distinct items."""
        rows, items, _ = last_heard(history.items if self.kept is None else placed_among(history.items, self.kept))
        starts = np.searchsorted(rows, np.arange(len(history.items)))
        said = torch.nn.functional.embedding_bag(
            torch.from_numpy(items.astype(np.int64)), self.weights, torch.from_numpy(starts), mode="sum"
        )
        scores: Float64[np.ndarray, "batch items"] = said.double().numpy()
        if self.kept is not None:
            some, scores = scores, np.zeros((len(scores), self.items))
            scores[:, self.kept] = some
        scores += TIE * self.shares
        return scores


def _precision(events: Known, penalty: float) -> type[np.floating]:
    """Single precision for a large catalogue with a well-conditioned system, else double.

    No eigenvalue of X'X exceeds its greatest row sum: for an item, the total number of items over all of its users.
    """
    users, items = events.pairs
    most = np.bincount(items, np.bincount(users)[users]).max(initial=0)
    return np.float32 if events.catalogue > LARGE and most + penalty < CONDITION * penalty else np.float64


def _solved_by_users(events: Known, penalty: float, done: Done) -> Float32[Tensor, "items items"]:
    """`B` from a system of users, for few users: `P = (I - X' (X X' + penalty I)^-1 X) / penalty`
    (Woodbury's identity), a product of matrices instead of an inverse of items by items.
    """
    users, items = events.pairs
    _, rows = np.unique(users, return_inverse=True)
    table = np.zeros((int(rows.max(initial=-1)) + 1, events.catalogue), _precision(events, penalty))
    table[rows, items] = 1
    had = torch.from_numpy(table)
    system = had @ had.T
    system.diagonal().add_(penalty)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(system), had, upper=False)
    inverse = (half.T @ half).neg_()  # P up to a factor, which cancels
    inverse.diagonal().add_(1)
    done(THIRDS)
    return _divided(inverse)


def _solved_by_items(events: Known, penalty: float, done: Done) -> Float32[Tensor, "items items"]:
    """`B`, from `X'X + penalty * I`."""
    gram = np.zeros((events.catalogue, events.catalogue), _precision(events, penalty))
    for items, others, users in together(events):
        gram[items, others] = users
    gram[np.diag_indices_from(gram)] += penalty
    penalised = torch.from_numpy(gram)
    columns = penalised.mT  # column-major, so that LAPACK works in place
    torch.linalg.cholesky(columns, out=columns)
    done(1)
    torch.cholesky_inverse(columns, out=columns)  # takes twice as long as the factorisation
    done(THIRDS - 1)
    return _divided(penalised)


def _divided(inverse: Float[Tensor, "items items"]) -> Float32[Tensor, "items items"]:
    """`B` from the symmetric `P`, known up to a factor; overwrites `P`."""
    inverse /= -inverse.diagonal().clone()  # divides each column by its own diagonal element
    inverse.fill_diagonal_(0)
    return inverse.float()  # row-major: summing rows is forty times faster than summing columns
