"""Deployed models: immutable copies in a folder, and which of them the store calls current."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from what_next.artefacts import catalogue_path, critic_beside, read_manifest, read_models
from what_next.errors import ModelError, SaveError
from what_next.server.store import Deployment, store_of
from what_next.settings import Setup

AGENT, CRITIC = "agent.safetensors", "critic.safetensors"
"""Names of the files in the folder of a version."""


def versions_folder(setup: Setup) -> Path:
    """Where deployed models are kept: as the setup says, or beside a SQLite store, else beside the agent's file."""
    if setup.server.versions is not None:
        return setup.server.versions
    place = str(store_of(setup)).removeprefix("sqlite:///")
    file = setup.model_agent_path if "://" in place else Path(place)
    return file.parent / "versions"


def version_of(agent: Path) -> str:
    """What the version of a model is called: its run, and how many histories it was trained on.

    Raises:
        ModelError: the file is missing or damaged.
    """
    manifest = read_manifest(agent, "agent")
    return f"{manifest.run}-{manifest.histories}"


def keep(folder: Path, agent: Path) -> str:
    """Copy a model into `folder / version`, written aside and then renamed; one that is there already stays as it is.

    Args:
        folder: of all versions; it is made where it is missing.
        agent: the agent's file. Its catalogue lies beside it, and its critic, if any, where its setup says.

    Returns:
        The version.

    Raises:
        ModelError: a file is missing, damaged, or does not belong to the others.
        SaveError: the copy could not be written.
    """
    version, critic = version_of(agent), critic_beside(agent)
    if critic is not None and not critic.is_file() and not _needs_critic(agent):
        critic = None
    read_models(agent, critic)  # whole, and belonging together: what is kept can be loaded later
    target, aside = folder / version, folder / f".{version}.{secrets.token_hex(4)}"
    if target.is_dir():
        return version
    files = {agent: AGENT, catalogue_path(agent): catalogue_path(Path(AGENT)).name}
    if critic is not None:
        files[critic] = CRITIC
    try:
        aside.mkdir(parents=True)
        for source, name in files.items():
            shutil.copyfile(source, aside / name)
            _sync(aside / name)
        _renamed(aside, target)
        _sync(folder)
    except OSError as error:
        raise SaveError(f"{target}: the model could not be copied ({error}); the deployed one is intact") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return version


def _needs_critic(agent: Path) -> bool:
    setup = read_manifest(agent, "agent").made_by()
    return setup.algorithm.needs_critic or setup.selection.name == "critic"


def _renamed(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same files
            raise


def _sync(path: Path) -> None:
    """Onto the disk, so that a deployment in the store never names what a power cut took."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def line(deployments: Sequence[Deployment]) -> list[str]:
    """The versions that led to the current one, which is the last: what was rolled back is no longer among them."""
    found: list[str] = []
    for one in deployments:
        if one.kind == "rolled back":
            while found and found[-1] != one.version:
                found.pop()
        if not found or found[-1] != one.version:
            found.append(one.version)
    return found


def before(deployments: Sequence[Deployment]) -> str:
    """The version that a rollback goes back to.

    Raises:
        ModelError: there is none.
    """
    found = line(deployments)
    if len(found) < 2:
        told = f"{found[0]} is the first" if found else "nothing is deployed yet"
        raise ModelError(f"rollback: {told}, so there is no deployment before the current one to go back to")
    return found[-2]
