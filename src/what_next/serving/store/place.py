"""Where the store of a setup is."""

import os
from pathlib import Path

from what_next.errors import SetupError
from what_next.settings import Setup

VARIABLE = "WHAT_NEXT_STORE"
"""The environment variable that goes before the setup."""


def store_of(setup: Setup) -> str | Path:
    """The URL or path of a setup's store, as `Store.open` takes it.

    The environment variable WHAT_NEXT_STORE, a URL; else `server.store`; else a file beside the agent's:
    `models/agent.store.sqlite` for `models/agent.safetensors`.

    Raises:
        SetupError: the variable holds no URL.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given and "://" not in given:  # it is not repeated: it may be a password that was meant for another variable
        raise SetupError(
            f"{VARIABLE} is no URL; expected postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:///PATH (four slashes "
            "begin an absolute path), or no such variable: server.store is the place then"
        )
    return given or setup.server.store or setup.model_agent_path.with_suffix(".store.sqlite")
