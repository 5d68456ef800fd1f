"""The command line."""

import gc

from what_next.cli.interrupts import quietly

gc.disable()  # what is imported stays: looking through it for garbage takes a sixth of the time
with quietly():  # PyTorch and Polars take seconds to import
    from what_next.cli.app import main
    from what_next.cli.output import guarded, show
gc.enable()
gc.freeze()

__all__ = ["guarded", "main", "show"]
