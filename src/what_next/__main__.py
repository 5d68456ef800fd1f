"""`python -m what_next` is `what-next`."""

from what_next.cli.app import run

run()
