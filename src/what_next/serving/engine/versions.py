"""Deployed models: immutable copies in a folder, and the history of which one was current."""

import hashlib
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from what_next.data.files import ASIDE, remove_stale, sha256, sync
from what_next.errors import ModelError, SaveError, StoreError, WhatNextError
from what_next.serving.store import Deployment
from what_next.serving.store.backend import file_of, home_of
from what_next.settings import Setup
from what_next.settings.service import VERSION
from what_next.training.artefacts import CRITIC, catalogue_path, critic_beside, lacking, read_manifest, read_models
from what_next.training.card import card_path

AGENT = "agent.safetensors"
CATALOGUE, CARD = catalogue_path(Path(AGENT)).name, card_path(Path(AGENT)).name
"""File names in the folder of a version; the card is for people and not part of the hash."""
OTHERWISE = "; if the model's own file is still there: what-next promote SETUP --model FILE --force"
"""Ends messages about a version that cannot be used. SETUP's own model is often an older one."""
HASHED = re.compile(r".+-[0-9]+-[0-9a-f]{8}")
"""Name of a version that includes the hash of its files."""


def versions_folder(setup: Setup) -> Path:
    """The folder of deployed models: as the setup says, else beside an SQLite store, else beside the agent's file."""
    return setup.server.versions or home_of(setup) / "versions"


def check_emptied(setup: Setup) -> None:
    """Raise a `StoreError` if the file of the store is empty though models were deployed: it was damaged, and is not
    new. To be called before the file is opened, because SQLite then deletes its write-ahead log."""
    path, folder = file_of(setup), versions_folder(setup)
    if path is None or not path.is_file() or path.stat().st_size or not folder.is_dir():
        return
    if any(HASHED.fullmatch(one.name) for one in folder.iterdir()):
        raise StoreError(
            f"{path}: is empty (0 bytes), and models were deployed beside it ({folder}): it was damaged, as by a full "
            "disk; nothing was changed; restore a back-up (what-next restore SETUP BACKUP --replace), or, to start "
            "anew without what was stored, move that folder away"
        )


def version_of(agent: Path) -> str:
    """The version name of a model: its run, the number of training histories, and a hash of its files.

    Raises:
        ModelError: a file is missing or damaged, or the run's name is not a valid file name.
    """
    return _named(agent, _digest(_files(agent)))


def check(agent: Path) -> dict[str, Path]:
    """The files of a model, by their names in the folder of a version; reads them to check that they fit together.

    Raises:
        ModelError: the model cannot be deployed.
    """
    files = _files(agent)
    read_models(agent, files.get(CRITIC))
    return files


def undeployed(agent: Path, deployed: str, answers: str, deployments: Sequence[Deployment]) -> str | None:
    """A message if the setup's model is not the deployed version; None if it is."""
    try:
        version = version_of(agent)
    except WhatNextError as error:  # the deployed version still answers
        return f"the setup's model cannot be deployed ({error}); {answers} answers"
    if version == deployed:
        return None
    if version == answers:
        return (
            f"the deployed version {deployed} cannot be used, so the setup's model {version} answers; restore the "
            "first from a back-up, or deploy the second: what-next promote SETUP --force"
        )
    if answers != deployed:
        return (
            f"the deployed version {deployed} cannot be used, so {answers} answers, which was deployed before it; "
            "restore the first from a back-up, or stay with the second: what-next rollback SETUP"
        )
    if any(one.version == version for one in deployments):
        return f"{answers} answers; the setup's model {version} was deployed before it"
    return f"the setup's model {version} is not deployed ({answers} answers); deploy it with: what-next promote SETUP"


def folder_of(folder: Path, version: str) -> Path:
    """The path of a version in the folder of all versions.

    Raises:
        ModelError: the name is not a valid version name, so the path might lead outside the folder.
    """
    if not VERSION.fullmatch(version):
        raise ModelError(f"{version!r} is no name of a version; expected letters, digits and . _ - alone")
    return folder / version


def keep(folder: Path, agent: Path) -> str:
    """Copy a model into `folder / version`, atomically: written aside, checked, renamed. An existing copy stays.

    Args:
        folder: of all versions; created if missing.
        agent: the agent's file. Its catalogue and card are beside it; its critic, if any, is where its setup says.

    Returns:
        The version.

    Raises:
        ModelError: a file is missing, damaged, or does not belong to the others; or the existing copy is damaged.
        SaveError: the copy could not be written.
    """
    files = check(agent)  # so that the copy can be loaded later
    version = _named(agent, digest := _digest(files))
    target, aside = folder_of(folder, version), folder / f".{version}.{secrets.token_hex(4)}{ASIDE}"
    if target.is_dir():
        intact(target, version)
        return version
    try:
        aside.mkdir(parents=True)
        for name, source in {**files, **({CARD: card} if (card := card_path(agent)).is_file() else {})}.items():
            shutil.copyfile(source, aside / name)
            sync(aside / name)
        if _digest({name: aside / name for name in files}) != digest:
            raise SaveError(f"{agent}: was changed while it was copied; the deployed one is intact, try again")
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # if it exists, another process copied the same files
                raise
        sync(folder)
        remove_stale(folder)
    except OSError as error:
        raise SaveError(f"{target}: the model could not be copied ({error}); the deployed one is intact") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return version


def intact(place: Path, version: str) -> None:
    """Raise a `ModelError` if the files of a version are missing, do not match the hash in its name, or cannot be
    checked because its name has no hash."""
    if not place.exists():
        raise ModelError(
            f"{place}: is missing; restore it from a back-up (its models.tar.gz), or go back to the version before: "
            f"what-next rollback SETUP{OTHERWISE}"
        )
    if not HASHED.fullmatch(version):
        raise ModelError(
            f"{place}: was deployed by an earlier version, which kept no hash of its files, so they cannot be checked; "
            "what-next promote SETUP --force deploys the model again"
        )
    files = {name: place / name for name in (AGENT, CATALOGUE, CRITIC) if (place / name).is_file()}
    if _digest(files)[:8] != version.rpartition("-")[2]:
        raise ModelError(
            f"{place}: is damaged: its files are not those that were deployed; remove this folder and restore "
            "it from a back-up (its models.tar.gz), or go back to the version before: what-next rollback "
            f"SETUP{OTHERWISE}"
        )


def whole(folder: Path, version: str) -> Path:
    """The agent's file of a version, after a check that the version is intact.

    Raises:
        ModelError: the version is missing or damaged.
    """
    place = folder_of(folder, version)
    intact(place, version)
    return place / AGENT


def prune(folder: Path, names: Iterable[str], kept: Collection[str]) -> int:
    """Remove versions except those in `kept`; returns how many there were to remove.

    Each folder is renamed first, so that there is never a half-removed version.
    """
    gone = [folder_of(folder, name) for name in set(names) - set(kept)]
    there = [place for place in gone if place.is_dir()]
    for place in there:
        aside = folder / f".{place.name}.{secrets.token_hex(4)}{ASIDE}"
        with suppress(OSError):  # a later round tries again
            place.rename(aside)
            shutil.rmtree(aside)
    return len(there)


def _files(agent: Path) -> dict[str, Path]:
    """The files of a model, by their names in the folder of a version."""
    files = {AGENT: agent, CATALOGUE: catalogue_path(agent)}
    critic = critic_beside(agent)
    if critic is not None and (critic.is_file() or read_manifest(agent, "agent").made_by().needs_critic):
        files[CRITIC] = critic
    return files


def _named(agent: Path, digest: str) -> str:
    manifest = read_manifest(agent, "agent")
    if not VERSION.fullmatch(manifest.run):
        raise ModelError(f"{agent}: its run {manifest.run!r} is no name; expected letters, digits and . _ - alone")
    return f"{manifest.run}-{manifest.histories}-{digest[:8]}"


def _digest(files: Mapping[str, Path]) -> str:
    """A hash of the names and contents of some files."""
    found = hashlib.sha256()
    for name, path in sorted(files.items()):
        try:
            found.update(f"{name} {sha256(path)}\n".encode())
        except OSError as error:
            if isinstance(error, FileNotFoundError) and name != AGENT and AGENT in files:
                raise lacking(path, files[AGENT]) from None
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    return found.hexdigest()


def line(deployments: Sequence[Deployment]) -> list[str]:
    """The versions that led to the current one, which is last; versions that were rolled back are left out."""
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
        ModelError: there is no earlier version.
    """
    found = line(deployments)
    if len(found) < 2:
        reason = f"{found[0]} is the first" if found else "nothing is deployed yet"
        raise ModelError(f"rollback: {reason}, so there is no deployment before the current one to go back to")
    return found[-2]
