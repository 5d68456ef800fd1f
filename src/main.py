#!/usr/bin/env python3
"""Trains, or recommends, as a setup file says: main.py [SETUP] [key=value ...]; by default setup.txt beside it."""

import sys
from pathlib import Path

import what_next as wn
from what_next.cli import guarded, show


@guarded
def main(*words: str) -> int:
    """Open the State, build the Agent, and let the Environment run them."""
    if not words or "=" in words[0]:
        words = (str(Path(__file__).with_name("setup.txt")), *words)
    setup = wn.Setup.read(words[0], words[1:])
    state = wn.State.open(setup)
    agent = wn.Agent(setup, state.space)
    return show(wn.Environment(agent, state, setup).run_sim(), Path(words[0]), words[1:])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
