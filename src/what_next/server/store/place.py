"""Where the store of a setup is."""

import os
from pathlib import Path

from what_next.settings import Setup

VARIABLE = "WHAT_NEXT_STORE"
"""The environment variable that goes before the setup."""


def store_of(setup: Setup) -> str | Path:
    """The URL or path of a setup's store, as `Store.open` takes it.

    The environment variable WHAT_NEXT_STORE (a URL, or a path); else `server.store`; else a file beside the agent's:
    `models/agent.store.sqlite` for `models/agent.safetensors`.
    """
    given = os.environ.get(VARIABLE, "").strip()
    return given or setup.server.store or setup.model_agent_path.with_suffix(".store.sqlite")
