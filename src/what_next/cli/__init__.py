"""The command line."""

from what_next.cli.interrupts import quietly

with quietly():
    from what_next.cli.app import main
    from what_next.cli.output import guarded, show

__all__ = ["guarded", "main", "show"]
