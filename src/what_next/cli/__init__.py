"""The command line."""

from what_next.cli.interrupts import quietly

with quietly():  # PyTorch and Polars take seconds to import
    from what_next.cli.app import main
    from what_next.cli.guard import guarded, show

__all__ = ["guarded", "main", "show"]
