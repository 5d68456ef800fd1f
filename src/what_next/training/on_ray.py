"""Training by processes that Ray Train starts on a cluster, and restarts if one is lost.

Ray gives the processes their ranks and their process group; they run the same work as under `torchrun`.
"""

import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from what_next.errors import MissingExtraError, TrainingError
from what_next.settings import Setup
from what_next.training.distributed import PATIENCE, Lost, Ranks, Refused, together

if TYPE_CHECKING:
    from ray.train import Result

Outcome = TypeVar("Outcome")


def on_ray(work: Callable[[Ranks], Outcome], setup: Setup) -> Outcome:
    """The result of `work` in the first of `cluster.processes` processes, on the cluster of this machine or of
    `RAY_ADDRESS`; without one, this machine is started as a cluster.

    Args:
        work: a run of training, which resumes from its save if `Ranks.replaced` says so.
        setup: as the processes read it; all of them must be able to read and write its models' folder.
    Raises:
        MissingExtraError: Ray is not installed.
        Refused: all processes end for the same reason.
        TrainingError: processes were lost more often than `cluster.restarts` allows, or the cluster is gone.
    """
    try:
        import ray
        from ray.exceptions import RayError
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError:
        raise MissingExtraError("Ray", "scale", "cluster=ray") from None
    cluster, launch, folder = setup.cluster, secrets.token_hex(8), setup.model_agent_path.parent
    cuda = setup.device == "cuda" or (setup.device == "auto" and torch.cuda.is_available())
    folder.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        partial(_process, work, launch),
        torch_config=TorchConfig("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(num_workers=cluster.processes, use_gpu=cuda, placement_strategy="SPREAD"),
        run_config=RunConfig(
            name=f".ray-{launch}",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=cluster.restarts),
        ),
    )
    try:
        with redirect_stdout(sys.stderr):  # Ray's messages about the processes are not the command's output
            result: Result = trainer.fit()
            ray.shutdown()
    except (TrainingFailedError, RayError, ConnectionError) as error:
        raise TrainingError(
            f"training on Ray ended after {cluster.restarts} restarts or for good: {_reason(error)}; the last save, if "
            "any, is kept, and `what-next train --resume` goes on from it"
        ) from None
    finally:
        shutil.rmtree(folder / f".ray-{launch}", ignore_errors=True)
    found: Any = result.return_value
    if isinstance(found, Refused):
        raise found
    outcome: Outcome = found
    return outcome


def _process(work: Callable[[Ranks], Any], launch: str) -> Any:
    """The outcome of one process."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), joined=True, started=launch)
    try:
        with together(ranks):
            return work(ranks)
    except Refused as error:  # returned, because Ray would retry after an exception
        return error


def _reason(error: Exception) -> str:
    """In one line, why the first process failed by itself (not because another was lost); otherwise Ray's message."""
    failures = [getattr(one, "_base_exc", one) for one in getattr(error, "worker_failures", {}).values()]
    own = [one for one in failures if not isinstance(one, Lost)]
    text = str((own or failures or [error])[0]).strip() or type(error).__name__
    return text.splitlines()[-1][:300]
