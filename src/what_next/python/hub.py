"""`push` and `pull` a model to and from Hugging Face's hub: its files, and its card as the page; never the event
log."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from what_next.data.files import check_paths, path_of, sha256, write_files
from what_next.errors import MissingExtraError, ModelError, WhatNextError, told_in_python
from what_next.python.fitting import load
from what_next.python.model import AGENT, Model
from what_next.training.artefacts import catalogue_path, critic_beside, read_manifest, read_models
from what_next.training.card import card, card_path

PAGE, SUMS = "README.md", "SHA256SUMS"
CATALOGUE = catalogue_path(Path(AGENT)).name
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
"""Allowed names of a critic's file."""


@told_in_python()
def push(model: Model | str | Path, repo: str, *, private: bool = True) -> str:
    """Upload a model to the hub, with the login of `hf auth login` or HF_TOKEN. Returns the address of the commit.

    Networks, items (with titles and attributes) and the card are uploaded; the log of events is not.

    Args:
        model: a model, its folder, or its agent's file.
        repo: "owner/name"; created if it is missing.
        private: whether a created repository is private.

    Raises:
        ModelError: a file is missing or damaged, or the hub refuses.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = _hub(repo)
    agent = model.agent_file() if isinstance(model, Model) else path_of(model)
    agent = agent / AGENT if agent.is_dir() else agent
    critic = critic_beside(agent)
    saved = read_models(agent, critic if critic and critic.is_file() else None)
    files = {AGENT: agent, CATALOGUE: catalogue_path(agent)}
    files |= {} if saved.critic is None else {saved.critic.name: saved.critic}
    manifest, page = saved.manifest, card_path(agent)
    text = (
        page.read_text(encoding="utf-8")
        if page.is_file()
        else card(manifest.made_by(), saved.space, manifest.run, manifest.histories, manifest.metrics)
    )
    sums = "".join(f"{sha256(path)}  {name}\n" for name, path in files.items())
    sent: dict[str, Any] = {**files, PAGE: text.encode(), SUMS: sums.encode()}
    with _told(repo, "pushed"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the hub's library takes the catalogue for a data set
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        adds = [hub.CommitOperationAdd(name, content) for name, content in sent.items()]
        message = f"Run {manifest.run} after {manifest.histories} histories"
        return str(api.create_commit(repo, adds, commit_message=message).commit_url)


@told_in_python()
def pull(repo: str, folder: str | Path, *, revision: str | None = None, overwrite: bool = False) -> Model:
    """Download a model from the hub into a folder, and open it.

    Only the files of a model are requested; each is checked by its hash, and none is code.

    Args:
        repo: "owner/name".
        folder: created if it is missing.
        revision: a branch, a tag, or a commit; only a commit always gives the same files.
        overwrite: overwrite a model in `folder`.

    Raises:
        ModelError: there is no such model, a file does not match its hash, or `folder` holds a model.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub, folder = _hub(repo), path_of(folder)
    if (folder / AGENT).exists() and not overwrite:
        raise ModelError(f"{folder}: holds a model; give another folder, or say that it may be overwritten")
    with _made(folder), TemporaryDirectory(prefix=".pulled-", dir=folder) as aside, _told(repo, "pulled"):
        api = hub.HfApi()

        def fetch(name: str) -> Path:
            return Path(api.hf_hub_download(repo, name, revision=revision, local_dir=aside))

        lines = fetch(SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        sums = dict(line.split("  ", 1)[::-1] for line in lines if "  " in line)
        agent = _checked(repo, fetch(AGENT), sums)
        named = read_manifest(agent, "agent").setup["model_critic_path"]
        critic = Path(named).name if named else ""
        names = [CATALOGUE, *([critic] if critic in sums and NAME.fullmatch(critic) else [])]
        files = {name: _checked(repo, fetch(name), sums) for name in names} | {card_path(agent).name: fetch(PAGE)}
        files[AGENT] = agent
        write_files({folder / name: path.read_bytes() for name, path in files.items()})
    return load(folder)


def _hub(repo: str) -> Any:
    """The hub's library, after a check of the repository's name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ModelError(f"{repo!r} is no name of a repository on the hub; give OWNER/NAME")
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ModuleNotFoundError:
        raise MissingExtraError("huggingface_hub", "hub", "Hugging Face's hub") from None
    if constants.HF_HUB_OFFLINE:
        raise ModelError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it, and start Python anew")
    return huggingface_hub


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Create the folder; if it was created here and the block fails, remove it again."""
    new = not folder.exists()
    check_paths([folder / AGENT])
    try:
        yield
    finally:
        if new:
            with suppress(OSError):  # the folder holds a model
                folder.rmdir()


@contextmanager
def _told(repo: str, done: str) -> Iterator[None]:
    """Turn errors of the hub or the network into a `ModelError`."""
    try:
        yield
    except WhatNextError:
        raise
    except Exception as error:  # the library raises its own errors, and those of whichever HTTP library it uses
        why = " ".join(str(error).split())
        raise ModelError(
            f"{repo}: cannot be {done} ({why}); check the name, the network, and who you are (hf auth whoami)"
        ) from None


def _checked(repo: str, path: Path, sums: Mapping[str, str]) -> Path:
    if sha256(path) != sums.get(path.name):
        raise ModelError(f"{repo}: {path.name} is not what {SUMS} says; pull again, or ask whoever pushed it")
    return path
