"""What PyTorch is set to while we compute, whatever its user set it to; each is a decorator as well."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def own_modes() -> Iterator[None]:
    """New tensors are float32, on the processor, and may have gradients, which `torch.inference_mode` forbids for ever.

    Where all is so already, this takes some microseconds. The default dtype is that of all threads meanwhile.
    """
    made = torch.empty(0)
    if made.dtype == torch.float32 and made.is_cpu and not made.is_inference() and torch.is_grad_enabled():
        yield
        return
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        # It turns gradients on, too; a device costs each operation some time.
        with torch.inference_mode(False), nullcontext() if made.is_cpu else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def own_draws() -> Iterator[None]:
    """Afterwards PyTorch's global generators are where they were: training sets them to its seed."""
    used = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if used else (), device_type="cuda"):
            yield
    finally:
        if torch.cuda.is_available() and not used:  # its generators start as that of the processor did
            torch.cuda.manual_seed_all(torch.initial_seed())
