"""The command line."""

import gc

gc.freeze()  # what is imported stays: looking through it for garbage, again and again, takes a tenth of a second

from what_next.cli.app import main  # noqa: E402
from what_next.cli.guard import guarded, show  # noqa: E402

__all__ = ["guarded", "main", "show"]
