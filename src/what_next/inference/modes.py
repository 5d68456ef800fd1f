"""Context managers (also decorators) that shield our computations from the user's PyTorch settings, and vice versa."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def own_modes() -> Iterator[None]:
    """Make new tensors float32, on the CPU and able to have gradients, which `torch.inference_mode` would rule out.

    If the settings are right already, this takes some microseconds. Meanwhile the default dtype is that of all threads.
    """
    made = torch.empty(0)
    if made.dtype == torch.float32 and made.is_cpu and not made.is_inference() and torch.is_grad_enabled():
        yield
        return
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        # `inference_mode(False)` also turns gradients on. A device context slows each operation: only if needed.
        with torch.inference_mode(False), nullcontext() if made.is_cpu else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def own_draws() -> Iterator[None]:
    """Restore PyTorch's global generators afterwards, because training seeds them."""
    used = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if used else (), device_type="cuda"):
            yield
    finally:
        if torch.cuda.is_available() and not used:  # CUDA's generators start with the CPU's seed
            torch.cuda.manual_seed_all(torch.initial_seed())
