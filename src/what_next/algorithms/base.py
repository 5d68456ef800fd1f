"""What every algorithm is."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from pydantic import BaseModel
from torch import Tensor, nn

from what_next.models.actor_critic import Sizes
from what_next.types import Trajectories

Networks = Mapping[str, nn.Module]


class Algorithm(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """An algorithm: its hyper-parameters, its networks, which of them each loss may move, and the losses.

    It never touches an optimiser: `Agent.propagate` takes each loss's gradient for the networks in `moves` alone, and
    steps them. Losses that move the same networks are summed first.
    """

    name: str
    moves: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @property
    def explore(self) -> int:
        """How many random items the critic learns of besides the selected one, for each history."""
        return 0

    @abstractmethod
    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """New networks; `actor` is saved in the agent's file, all others in the critic's.

        Args:
            sizes: the widths that the data and the setup ask for.
            vectors: of the items that have a training event.
            rng: for what is drawn from them; the weights follow torch's own generator.
        """

    @abstractmethod
    def losses(self, nets: Networks, batch: Trajectories) -> dict[str, Tensor]:
        """The losses, by the names in `moves`: scalars that are means over the steps that count."""

    @abstractmethod
    def propose(
        self,
        nets: Networks,
        factors: Float[Tensor, "batch time factors"],
        prospects: Float[Tensor, "batch time choices prospects"],
        rng: np.random.Generator | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """The actor's point after each event: a draw from its policy, or the likeliest without `rng`."""
