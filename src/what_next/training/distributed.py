"""Training by several processes at once, on one machine or on many, with `torch.distributed`.

Data parallel: every process has the data and the same networks, makes the same batch, and computes the losses of its
share of the rows. One all-reduce sums the gradients, each weighted by its share of the steps. So all processes take the
same step, and weights and optimisers stay equal without being sent (Goyal et al. 2017, arXiv 1706.02677, section 2.3;
Li et al. 2020, arXiv 2006.15704, without buckets). The networks of an ensemble are independent: each process trains
some of them whole (`Environment`). `torchrun` starts the processes, or anything else that sets the same environment
variables.
"""

import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from what_next.algorithms.base import Part
from what_next.errors import ModelError, SetupError, TrainingError, WhatNextError
from what_next.settings import Setup
from what_next.training.artefacts import read_manifest
from what_next.training.step import Step
from what_next.types import Batch

if TYPE_CHECKING:
    from what_next.training.sharding import Training

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, for instance for the first one while it validates."""
WHOLE = timedelta(days=30)
"""How long a process waits while another one trains whole networks."""
MEETING = timedelta(minutes=10)
"""How long a process looks for the coordinator."""
OWN = {"data", "log", "threads", "server", "loop", "user", "slots", "model_agent_path", "model_critic_path"}
"""Settings in which the processes of a run may differ."""
MARKS = 2**12
"""Checksums of batches are below this, so that their sum over many processes is exact in fp32."""


class Lost(TrainingError):
    """Another process of the run is gone, or made another batch than this one."""


class Refused(SetupError):
    """All processes of a run end for the same reason; the first one prints it."""


@dataclass(eq=False)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0: the first one saves, validates and prints; `count`: how many there are.
        joined: whether it belongs to a process group (perhaps as its only member); otherwise it trains alone.
        sent: bytes that it gave to collective operations in the steps so far.
        started: id of the launcher, other than `torchrun`, that may replace its processes; None if there is none.
    """

    rank: int = 0
    count: int = 1
    joined: bool = False
    sent: int = 0
    started: str | None = None
    agreed: bool = False
    mark: int = field(default=0, repr=False)

    # A step

    def part(self, batch: Batch, rows: Int[np.ndarray, "steps"], seed: Sequence[int]) -> Part | None:
        """The rows of a batch that this process learns from, with about as many steps as every other's; None if alone.

        Args:
            batch: the same for all. rows: the row of each step that counts; ascending except for impressions.
            seed: seed of dropout, which differs by process.
        """
        if not self.joined:
            return None
        torch.manual_seed(int(np.random.SeedSequence([*seed, self.rank]).generate_state(1)[0]))
        self.mark = zlib.crc32(np.ascontiguousarray(batch.actions).tobytes()) % MARKS
        steps = np.bincount(rows, minlength=len(batch.items)).cumsum()
        wanted = np.searchsorted(np.concatenate([[0], steps]), np.arange(self.count + 1) * len(rows) / self.count)
        ends = _ends(batch)
        cuts = ends[np.searchsorted(ends, wanted)]
        cuts[-1] = len(batch.items)
        start, end = cuts[self.rank : self.rank + 2].tolist()
        empty = start == end  # fewer rows than processes: take any rows, with weight 0
        if empty:
            start, end = 0, int(ends[1])
        own = np.flatnonzero((rows >= start) & (rows < end))
        weight = 0.0 if empty else len(own) / max(1, len(rows))
        return Part(slice(start, end), own, len(rows), weight, self.summed)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of these values over all processes."""
        total = values.detach().clone()
        self._all_reduce(total)
        return total

    def exchange(self, rows: Tensor, given: Sequence[int], taken: Sequence[int]) -> Tensor:
        """See `models.shards.Exchange`."""
        found = rows.new_empty(sum(taken), *rows.shape[1:])
        self._told(dist.all_to_all_single, found, rows, list(taken), list(given), sent=rows.nbytes)
        return found

    def collected(self, rows: Tensor) -> list[Tensor]:
        """See `models.shards.Exchange`."""
        several = [] if self.rank else [torch.empty_like(rows) for _ in range(self.count)]
        self._told(dist.gather, rows, several or None)
        return several

    def by_row(self, rows: Int[np.ndarray, "own"], *values: np.ndarray, count: int) -> list[np.ndarray]:
        """Values of all `count` rows in order, of which each process measured some; this one measured `rows`."""
        if not self.joined:
            return list(values)
        found = torch.zeros(len(values), count, dtype=torch.float64)
        found[:, torch.from_numpy(rows)] = torch.from_numpy(np.stack(values)).double()
        self._told(dist.all_reduce, found)
        return list(found.numpy())

    def share(self, count: int) -> Int[np.ndarray, "own"]:
        """The rows, of `count`, that this process measures."""
        return np.arange(self.rank, count, self.count)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.joined:
            self._told(dist.barrier)

    def first(self, value: Any) -> Any:
        """The first process's value, because all processes must decide alike."""
        found = [value]
        if self.joined:
            self._told(dist.broadcast_object_list, found)
        return found[0]

    def every(self, value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """Every process's value, in their order; `group`: as made by `patient`."""
        several = [value] * self.count
        if self.joined:
            self._told(dist.all_gather_object, several, value, group)
        return several

    def patient(self) -> dist.ProcessGroup:
        """A group of all processes whose waits may be as long as the training of whole networks."""
        group = dist.new_group(timeout=WHOLE, backend="gloo")
        assert isinstance(group, dist.ProcessGroup), "all are in it"
        return group

    def total(self, weights: Sequence[nn.Parameter], step: Step, share: float) -> Step:
        """Sum the gradients of all processes, in place, and the numbers of their steps.

        The dense gradients and the numbers are sent in one buffer. Of a sparse gradient (item vectors under a sampled
        loss) every process gets the rows of all others; it stays sparse.

        Args:
            weights: weights of the networks that are updated; their gradients are of losses weighted by `share`.
            step: this process's step, whose losses are still unweighted.

        Raises:
            Lost: another process is gone, or made another batch.
        """
        dense = [one.grad for one in weights if one.grad is not None and not one.grad.is_sparse]
        means = [*step.losses.values(), step.reward, step.value]
        tail = torch.tensor([*(share * one for one in means), float(self.mark)])
        device = dense[0].device if dense else tail.device
        buffer = torch.cat([*(one.flatten() for one in dense), tail.to(device)])
        self._all_reduce(buffer)
        parts = torch.split(buffer, [*(one.numel() for one in dense), len(tail)])
        for gradient, summed in zip(dense, parts, strict=False):
            gradient.copy_(summed.view_as(gradient))
        for one in weights:
            if one.grad is not None and one.grad.is_sparse:
                one.grad = self._rows(one.grad.coalesce())
        *numbers, mark = parts[-1].tolist()
        if mark != self.count * self.mark:
            raise Lost(
                f"process {self.rank} of {self.count} made another batch than the others; give all of them the same "
                "data, machine type and release of torch, and go on with --resume"
            )
        losses = dict(zip(step.losses, numbers, strict=False))
        return replace(step, losses=losses, reward=numbers[-2], value=numbers[-1])

    def _rows(self, gradient: Tensor) -> Tensor:
        """The sum of a sparse gradient over all processes, made from the gradients of each."""
        counts = torch.zeros(self.count, dtype=torch.int64, device=gradient.device)
        counts[self.rank] = gradient.indices().shape[1]
        self._all_reduce(counts)
        most = int(counts.max())
        found = []
        for mine in (gradient.indices()[0], gradient.values()):
            padded = mine.new_zeros(most, *mine.shape[1:])
            padded[: len(mine)] = mine
            several = [torch.empty_like(padded) for _ in range(self.count)]
            self._told(dist.all_gather, several, padded, sent=padded.nbytes)
            found.append(torch.cat([one[:there] for one, there in zip(several, counts.tolist(), strict=True)]))
        return torch.sparse_coo_tensor(found[0][None], found[1], gradient.shape, check_invariants=False).coalesce()

    def _all_reduce(self, values: Tensor) -> None:
        self._told(dist.all_reduce, values, sent=values.nbytes)

    def _told(self, operation: Any, *arguments: Any, sent: int = 0) -> None:
        """Run a collective operation; raise a one-line `Lost` if another process is gone."""
        try:
            operation(*arguments)
        except RuntimeError as error:
            raise Lost(
                f"process {self.rank} of {self.count} lost another one ({str(error).splitlines()[0][:200]}); the last "
                "save is kept: `torchrun --max-restarts` goes on from it by itself, and `what-next train --resume` by "
                "hand"
            ) from None
        self.sent += sent

    def follow(self, agent: "Training", stopped: bool) -> bool:
        """After a step, take over from the first process whether the run is stopped, and its time."""
        if not self.joined:
            return stopped
        said = torch.tensor([stopped, agent.spent], dtype=torch.float64)
        self._told(dist.broadcast, said, 0, sent=said.nbytes)
        stop, agent.spent = said.tolist()
        return bool(stop)

    # A run

    def agree(self, told: Mapping[str, Any] | None = None, error: str | None = None) -> None:
        """Before the first step, check that all processes have the same setup and data, and that none has an error.

        Args:
            told: values that must be equal, keyed by names for people. error: why this process cannot go on.

        Raises:
            Refused: by all processes, with the same message, if they differ or one of them cannot go on.
        """
        if not self.joined or self.agreed:
            return
        self.agreed = True
        plain = told and {name: json.dumps(value, sort_keys=True, default=str) for name, value in told.items()}
        several = self.every((plain, error))
        wrong = [(rank, one) for rank, (_, one) in enumerate(several) if one is not None]
        if wrong:
            rank, text = wrong[0]
            raise Refused(text if len(wrong) == self.count else f"process {rank} of {self.count}: {text}")
        first = several[0][0]
        for rank, (other, _) in enumerate(several):
            if other != first:
                names = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
                raise Refused(
                    f"process {rank} of {self.count} has another {', '.join(names)} than the first; start all of them "
                    "with the same setup, data and release"
                )

    def begin(self, setup: Setup, agent: "Training", device: torch.device, **data: Any) -> None:
        """`agree` on everything that the steps of a run depend on, and check that there are enough graphics cards."""
        if not self.joined:
            return
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if device.type == "cuda" and here > torch.cuda.device_count():
            raise SetupError(
                f"{here} processes on a machine with {torch.cuda.device_count()} graphics cards; lower "
                "--nproc-per-node, or set device=cpu"
            )
        values = {name: value for name, value in setup.as_json().items() if name not in OWN}
        done = {"histories": agent.histories, "steps": agent.steps}
        with NamedTemporaryFile(dir=setup.model_agent_path.parent) as file:
            seen = {"folder of models": Path(self.first(file.name)).exists()}
            made = {"release of torch": torch.__version__, "kind of device": device.type}
            self.agree({**values, **data, **done, **seen, **made})

    @property
    def launch(self) -> str | None:
        """An id that processes share with those that replace them, and with no other run; None if none is replaced."""
        if self.started:
            return self.started
        if not self.joined or not int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
            return None
        return f"{os.environ['TORCHELASTIC_RUN_ID']}/{os.getppid()}"

    def replaced(self, setup: Setup) -> bool:
        """Whether the processes were restarted after their run had saved: then they resume it."""
        anew = self.started or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        if self.launch is None or not anew:
            return False
        ours = False
        for path in (one.model_agent_path for one in (setup, *setup.members)):
            with suppress(ModelError):
                ours |= read_manifest(path).metrics.get("launch") == self.launch
        return bool(self.first(ours))


ALONE = Ranks()
"""A single process, which sends nothing."""


def _ends(batch: Batch) -> Int[np.ndarray, "ends"]:
    """Where a batch may be cut: between any rows, except those of a slate and the slate after it."""
    rows, width = batch.items.shape
    crossed = np.zeros(rows + 2, np.int64)
    if batch.impressions is not None:
        ends = np.sort([batch.impressions.places // width, batch.impressions.following // width], 0)
        np.add.at(crossed, ends[0] + 1, 1)
        np.add.at(crossed, ends[1] + 1, -1)
    return np.flatnonzero(crossed.cumsum()[: rows + 1] == 0)


@contextmanager
def launched() -> Iterator[Ranks]:
    """The processes that `torchrun` has started; a single one without it. All but the first are silent.

    Raises:
        WhatNextError: the error that ended the run. If all processes ended by it (`Refused`), the first one prints it,
            and all exit with 2.
    """
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        store, rank, count = next(rendezvous("env://", timeout=MEETING))
    except dist.DistError:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"the coordinator of the processes at {place} cannot be reached; start all machines with the same "
            "--rdzv-endpoint, also the machine that it names"
        ) from None
    # `torchrun` keeps its store when it restarts the processes: without a new prefix, they would look for each other
    # at the addresses of the previous attempt (PyTorch 2.13).
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    ranks = Ranks(rank, count, joined=True)
    try:
        with together(ranks):
            yield ranks
    except Refused as error:
        if not ranks.rank:
            print(f"what-next: {error}", file=sys.stderr, flush=True)
        with suppress(RuntimeError):  # torchrun ends the other processes as soon as one has ended
            dist.barrier()
        os._exit(2)  # nothing had begun; a normal exit sometimes aborts in PyTorch 2.15, with exit code 134
    finally:
        dist.destroy_process_group()


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Run as one of several processes: all but the first are silent, and all agree on why they cannot begin.

    Raises:
        WhatNextError: the error that ended the run; `Refused` if all processes ended by it.
    """
    with _silence(ranks.rank > 0):
        try:
            yield
        except Refused:
            raise
        except WhatNextError as error:
            ranks.agree(error=str(error))
            raise


@contextmanager
def _silence(asked: bool) -> Iterator[None]:
    if not asked:
        yield
        return
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield
