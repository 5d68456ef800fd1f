#!/usr/bin/env python3
"""Checks an installed What Next?, and writes the outcome to Test.test in the folder that it is run in."""

import sys

from what_next.testing import run_tests

if __name__ == "__main__":
    sys.exit(run_tests())
