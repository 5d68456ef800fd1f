"""Encoders, forward and backward: the share of the machine's fp32 matrix rate that they reach. Prints JSON lines.

Counted are the flops of the encoder's matrix products: 2 for each multiply-add, times 3 for forward and backward. The
machine's matrix rate is measured alternately with each case, because other work may slow both. A share above 1 is
possible only in bf16.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable

import torch

from what_next.models.encoders import ENCODERS, Encoder, EncoderSizes
from what_next.models.items import ItemVectors
from what_next.types import Events


def seconds_of(call: Callable[[], object], repeats: int) -> list[float]:
    """Durations of a call, after a warm-up call."""
    call()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return durations


def flops_of(kind: str, sizes: EncoderSizes, batch: int, length: int) -> float:
    """Flops of a forward and backward pass over a batch of histories."""
    dim, band = sizes.dim, min(sizes.max_length, length)
    attended = band * (band + 1) / 2 + (length - band) * band  # pairs of query and key
    per_event = {"lstm": 8 * dim**2, "gru": 6 * dim**2, "transformer": 8 * dim**2, "mean": dim**2}[kind]
    pairs = 2 * dim * attended if kind == "transformer" else 0
    layers = 1 if kind == "mean" else sizes.layers
    return 3 * 2 * batch * layers * (length * per_event + pairs)


def measured(kind: str, sizes: EncoderSizes, batch: int, length: int, half: bool, repeats: int) -> dict[str, object]:
    """One line of output: medians of the pass, and of the matrix product between the passes."""
    encoder: Encoder = ENCODERS[kind](ItemVectors(5000, sizes.dim), sizes)
    events = Events(torch.randint(5000, (batch, length)), torch.zeros(batch, length, 0))
    vectors = encoder.inputs(events).detach().requires_grad_()
    weight = torch.randn(batch, length, sizes.dim)
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            states = encoder.encode(vectors)
        states.float().backward(weight)

    passes, products = [], []
    for _ in range(repeats):  # alternately, so that both have the same load
        passes += seconds_of(once, 1)
        products += seconds_of(lambda: left @ right, 3)
    seconds, rate = statistics.median(passes), 2 * 1024**3 / statistics.median(products)
    flops = flops_of(kind, sizes, batch, length)
    return {
        "benchmark": "encoders",
        "encoder": kind,
        "type": "bfloat16" if half else "float32",
        "dim": sizes.dim,
        "batch": batch,
        "time": length,
        "threads": torch.get_num_threads(),
        "ms": round(1000 * seconds, 1),
        "events_per_s": round(batch * length / seconds),
        "gflops": round(flops / 1e9, 2),
        "matrix_gflops_per_s": round(rate / 1e9, 1),
        "share_of_matrix_rate": round(flops / seconds / rate, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--times", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = EncoderSizes(dim=arguments.dim)
    for kind in arguments.encoders:
        for half in (False, True):
            for batch in arguments.batches:
                for length in arguments.times:
                    print(json.dumps(measured(kind, sizes, batch, length, half, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
