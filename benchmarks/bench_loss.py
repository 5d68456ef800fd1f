"""The loss over a whole catalogue, forward and backward: ours, PyTorch's fused one, the plain one. Prints JSON lines.

Counted are the flops of the three necessary matrix products (the logits, and the gradients of points and of vectors):
2 for each multiply-add. They are compared with the machine's fp32 matrix rate, measured beside each loss, because the
speed of a shared machine varies.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from what_next.losses.catalogue import linear_cross_entropy


def plain(points: Tensor, vectors: Tensor, actions: Tensor) -> Tensor:
    return F.cross_entropy(points @ vectors.T, actions)


def plain_bf16(points: Tensor, vectors: Tensor, actions: Tensor) -> Tensor:
    return F.cross_entropy((points.bfloat16() @ vectors.bfloat16().T).float(), actions)


def fused(points: Tensor, vectors: Tensor, actions: Tensor, **options: object) -> Tensor:
    chosen = torch.nn.LinearCrossEntropyOptions(**options)  # type: ignore[arg-type]
    return F.linear_cross_entropy(points, vectors, actions, options=chosen)


def fused_bf16(points: Tensor, vectors: Tensor, actions: Tensor, **options: object) -> Tensor:
    return fused(points.bfloat16(), vectors.bfloat16(), actions, **options)


Key: TypeAlias = tuple[str, str]
"""A loss, and its precision."""

LOSSES: dict[Key, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    ("ours", "fp32"): linear_cross_entropy,
    ("ours", "bf16"): lambda *inputs: linear_cross_entropy(*inputs, precision="bf16"),
    ("plain", "fp32"): plain,
    ("plain", "bf16"): plain_bf16,
    ("torch, its own chunks", "fp32"): fused,
    ("torch, chunks of 128 steps", "fp32"): lambda *inputs: fused(*inputs, chunking_method=None, batch_chunk_size=128),
    ("torch, its own chunks", "bf16"): fused_bf16,
    ("torch, balanced", "bf16"): lambda *inputs: fused_bf16(*inputs, acc_policy="balanced"),
}


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds of one thread, which exclude the time of other programs."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def shares(losses: Mapping[Key, Callable[[], object]], flops: float, repeats: int) -> dict[Key, tuple[float, float]]:
    """For each loss: median seconds, and the median share of the matrix rate measured just before and after.

    The losses alternate, so that other work on the machine affects all of them.
    """
    size = 1024
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds: dict[Key, list[float]] = {key: [] for key in losses}
    found: dict[Key, list[float]] = {key: [] for key in losses}
    for turn in range(repeats + 1):
        for key, loss in losses.items():
            around = [seconds_of(lambda: left @ right) for _ in range(3)]
            passed = seconds_of(loss)
            around += [seconds_of(lambda: left @ right) for _ in range(3)]
            if turn:  # the first is a warm-up
                seconds[key].append(passed)
                found[key].append(flops / passed / (2 * size**3 / statistics.median(around)))
    return {key: (statistics.median(seconds[key]), statistics.median(found[key])) for key in losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=12_800)
    parser.add_argument("--items", type=int, default=3616)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    points = (0.3 * torch.randn(arguments.targets, arguments.dim)).requires_grad_()
    vectors = (0.3 * torch.randn(arguments.items, arguments.dim)).requires_grad_()
    actions = torch.randint(arguments.items, (arguments.targets,))
    flops = 3 * 2 * arguments.targets * arguments.items * arguments.dim

    def work(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        points.grad = vectors.grad = None
        loss(points, vectors, actions).backward()

    measured = shares({key: partial(work, loss) for key, loss in LOSSES.items()}, flops, arguments.repeats)
    for (name, precision), (seconds, share) in measured.items():
        line = {
            "benchmark": "loss",
            "loss": name,
            "precision": precision,
            "threads": arguments.threads,
            "targets": arguments.targets,
            "items": arguments.items,
            "dim": arguments.dim,
            "ms": round(1000 * seconds, 1),
            "gflops_per_s": round(flops / seconds / 1e9, 1),
            "share_of_fp32_matrix_rate": round(share, 3),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
