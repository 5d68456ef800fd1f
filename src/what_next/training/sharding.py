"""All rows of a table that is sharded among processes, while they are read for validation or saving."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from what_next.algorithms.base import Networks
from what_next.data.space import Space
from what_next.errors import SaveError
from what_next.models.encoders import Encoder
from what_next.models.shards import Shards
from what_next.settings import Setup
from what_next.training.distributed import Ranks
from what_next.training.learner import Learner


@runtime_checkable
class Training(Protocol):
    """The parts of an agent that are saved and restored."""

    setup: Setup
    space: Space
    nets: Networks
    targets: Networks
    optimisers: dict[str, Optimizer]
    histories: int
    horizon: int
    steps: int
    spent: float
    halved: int
    ranks: Ranks
    learner: Learner


@contextmanager
def whole(agent: Training, *, optimisers: bool = False) -> Iterator[None]:
    """Within this context, the agent holds the item vectors of all processes (and their optimiser state).

    The first process collects the rows, a block at a time, in files beside the models. All processes map these files
    into memory, where the system can drop their pages. Nothing may learn within the context. Without sharding, nothing
    changes.

    Raises:
        SaveError: the files could not be written.
    """
    encoder = agent.nets.get("encoder")
    shards = encoder.items.shards if isinstance(encoder, Encoder) else None
    if not isinstance(encoder, Encoder) or shards is None:
        yield
        return
    items, own, ranks = encoder.items, encoder.items.learned, agent.ranks
    assert own is not None, "what is sharded is learned"
    state = next(one.state[own] for name, one in agent.optimisers.items() if name.endswith(":rows"))
    before, near = dict(state), agent.setup.model_agent_path.parent
    folder = Path(ranks.first("" if ranks.rank else tempfile.mkdtemp(prefix=".sharded-", dir=near)))
    try:
        if optimisers:
            moments = {name: one for name, one in before.items() if isinstance(one, Tensor) and one.shape == own.shape}
            state |= {name: _collected(shards, one, folder / name, ranks) for name, one in moments.items()}
        items.learned = nn.Parameter(_collected(shards, own, folder / "vectors", ranks), requires_grad=False)
        items.shards = None
        yield
        ranks.wait()
    finally:
        items.learned, items.shards = own, shards
        state |= before
        agent.learner.kept = None
        if not ranks.rank:
            shutil.rmtree(folder, ignore_errors=True)


def _collected(shards: Shards, table: Float[Tensor, "own dim"], path: Path, ranks: Ranks) -> Float[Tensor, "items dim"]:
    """The rows of all processes, mapped from a file that the first one writes."""
    try:
        with path.open("wb") if not ranks.rank else tempfile.TemporaryFile() as file:
            for block in shards.whole(table):
                block.cpu().numpy().tofile(file)
    except OSError as error:
        raise SaveError(
            f"{path}: the item vectors of all processes cannot be put together ({error.strerror}); free some "
            f"{table.nbytes * ranks.count / 2**30:.1f} GiB there"
        ) from None
    ranks.wait()
    size = shards.items * table.shape[1]
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=table.dtype)
    return mapped.view(shards.items, -1).to(table.device)
