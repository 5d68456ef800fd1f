"""Saving a training run, and starting from a save or from another model."""

import secrets
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from what_next.algorithms.base import Networks
from what_next.data import Catalogue
from what_next.data.space import Space
from what_next.errors import ModelError
from what_next.models.encoders import Encoder
from what_next.settings import Setup
from what_next.settings.reference import as_text, flat
from what_next.training.artefacts import (
    Manifest,
    catalogue_path,
    critic_beside,
    read_manifest,
    read_models,
    read_rest,
    write_models,
)
from what_next.training.sharding import Training, whole
from what_next.training.step import network_of

FREE = {
    "epochs", "passes", "seconds", "patience", "refit", "monitor", "stop_on_alarm", "train", "user", "slots",
    "save_every", "skip", "linear", "item_dropout",  # taken from the save
    "log", "track", "device", "evaluation", "server", "model_agent_path", "model_critic_path", "data",
}  # fmt: skip
"""Settings that a resumed run may change. The learning rate's decay follows the new `epochs`."""
LENGTHS = ("epochs", "passes", "patience")
"""Settings of how long a run is, beside `seconds`."""


ELSEWHERE = (
    "give this one a model_agent_path and a model_critic_path of its own, or write over what is there with --force "
    "(force=True of wn.simulate)"
)

TARGET = "slow"
"""Prefix of the names of the target networks' tensors."""


def spare(setup: Setup, data: str, catalogue: Catalogue, origin: Path | None = None) -> None:
    """Refuse to overwrite a model of another algorithm or of other data, or one file of another model's pair.

    Data count as other data if they have another name, or hold less than half of the model's items. The model that
    training starts from (`origin`) may be overwritten.

    Raises:
        ModelError: training would overwrite such a model.
    """
    agent = _manifest_at(setup.model_agent_path)
    if agent is not None and not (origin and origin.resolve() == setup.model_agent_path.resolve()):
        algorithm, of = agent.setup["algorithm"]["name"], agent.metrics.get("data", data)
        now = f"{setup.algorithm.name} would learn of {data} now"
        if same := (algorithm, of) == (setup.algorithm.name, data):
            now = f"{data} holds less than half of its items now"
        if not (same and _mostly_known(setup, catalogue)):
            raise ModelError(
                f"{setup.model_agent_path}: holds what {algorithm} learned of {of} ({agent.histories:,} histories), "
                f"and {now}; {ELSEWHERE}"
            )
    path = setup.model_critic_path
    critic = _manifest_at(path) if path else None
    if path is None or critic is None or (agent is not None and agent.run == critic.run):
        return
    named = Path(critic.setup["model_agent_path"])
    for other in (named, path.with_name(named.name)):
        found = _manifest_at(other)
        if found and found.run == critic.run and other.resolve() != setup.model_agent_path.resolve():
            raise ModelError(f"{path}: is the critic of {other}; {ELSEWHERE}")


def _manifest_at(path: Path) -> Manifest | None:
    """The manifest of the model at a path; None if there is no model, or it is damaged."""
    try:
        return read_manifest(path)
    except ModelError:
        return None


def _mostly_known(setup: Setup, catalogue: Catalogue) -> bool:
    """Whether the data hold at least half of the model's items."""
    try:
        ids = pl.read_parquet(catalogue_path(setup.model_agent_path), columns=["item_id"], glob=False).to_series()
    except (pl.exceptions.PolarsError, OSError):
        return True
    return 2 * len(catalogue.held(ids.to_list())) >= len(ids)


def new_run() -> str:
    """An id for a training run."""
    return secrets.token_hex(8)


def save(agent: Training, rng: np.random.Generator, run: str, metrics: Mapping[str, Any] | None = None) -> None:
    """Write the models and everything that a resumed run needs. All processes call it; the first one writes.

    Raises:
        SaveError: a file could not be written; the previous save is intact.
    """
    with whole(agent, optimisers=True):
        if agent.ranks.rank:
            return
        manifest = Manifest.of(agent.setup, agent.space, run, agent.histories, metrics or {})
        rest: dict[str, Tensor] = {"random.torch": torch.get_rng_state()}
        for name, optimiser in agent.optimisers.items():
            for place, values in optimiser.state_dict()["state"].items():
                rest |= {f"{name}.{place}.{key}": torch.as_tensor(value) for key, value in values.items()}
        for name, net in agent.targets.items():
            rest |= {f"{TARGET}.{name}.{key}": value for key, value in net.state_dict().items()}
        position = {name: getattr(agent, name) for name in ("steps", "spent", "halved")}
        position["random"] = rng.bit_generator.state
        write_models(agent.setup, manifest, agent.space, agent.nets, (rest, position))


def resume(agent: Training, rng: np.random.Generator) -> str:
    """Restore weights, optimisers and random states from the last save of the same settings; returns the run's id.

    The run then goes on as if it had never stopped: bit for bit with the same torch release, machine and threads.

    Raises:
        ModelError: there is no such save, it was made with other settings, or the agent is in another space.
    """
    setup = agent.setup
    saved = read_models(setup.model_agent_path, setup.model_critic_path)
    if not _same(saved.space, agent.space):
        raise ModelError(
            f"{setup.model_agent_path}: was trained in another space (items, attributes, tags, numbers of events) than "
            f"{setup.world.name or setup.data} gives; leave --resume out to start anew (in Python, "
            "State.open(setup, resume=True) takes the model's space)"
        )
    manifest, tensors, position = read_rest(setup.model_agent_path)
    if changed := _changed(manifest, setup):
        before, now = (
            " ".join(_given(key, both[place]) for key, both in changed.items() if both[place] is not ...)
            for place in (0, 1)
        )
        raise ModelError(
            f"{setup.model_agent_path}: was trained with {before}, and the setup has {now} (a setting that it does "
            "not name has this version's default); to go on, set it as it was, in the setup or the command, or leave "
            "--resume out to start anew"
        )
    saved.fill(agent.nets)
    for name, optimiser in agent.optimisers.items():
        _fill_optimiser(optimiser, name, tensors, agent.nets)
    for name, net in agent.targets.items():
        _fill_target(agent, name, net, tensors)
    torch.set_rng_state(tensors["random.torch"])
    rng.bit_generator.state = position["random"]
    agent.histories, agent.steps, agent.halved = manifest.histories, position["steps"], position.get("halved", 0)
    if setup.seconds:  # the limit may have changed
        agent.spent = position.get("spent", 0.0) * (manifest.setup.get("seconds") or 0.0) / setup.seconds
    return manifest.run


def conclude(agent: Training, metrics: Mapping[str, Any], *, weighed: bool = True) -> None:
    """Write the current weights and some of the manifest's `metrics` into the last save, and mark the run as ended; if
    not `weighed`, mark that only the weighing of the log's counts is left.

    All processes call it; the first one writes.

    Raises:
        SaveError: a file could not be written; the last save is intact.
    """
    with whole(agent):
        if not agent.ranks.rank:
            manifest, tensors, position = read_rest(agent.setup.model_agent_path)
            manifest = manifest.model_copy(update={"metrics": {**manifest.metrics, **metrics}})
            position |= {"ended": weighed, "over": True}
            write_models(agent.setup, manifest, agent.space, agent.nets, (tensors, position))
    agent.ranks.wait()


def replace_by(agent: Training, second: Training, refit: Mapping[str, Any]) -> None:
    """Write the model of a second training (`refit`) over that of the first one.

    All processes call it; the first one writes.

    Args:
        agent: of the first training; `second`: of the second one, saved at the paths of its own setup.
        refit: the manifest's metric of that name.

    Raises:
        SaveError: a file could not be written; the model of the first training is intact.
    """
    with whole(second):
        if not agent.ranks.rank:
            manifest, _, position = read_rest(agent.setup.model_agent_path)
            other, tensors, _ = read_rest(second.setup.model_agent_path)
            made = Manifest.of(agent.setup, second.space, other.run, manifest.histories, manifest.metrics)
            made = made.model_copy(update={"metrics": {**manifest.metrics, "refit": dict(refit)}})
            write_models(agent.setup, made, second.space, second.nets, (tensors, position))
    agent.ranks.wait()


def take_weights(agent: Training) -> None:
    """Set the networks to the weights of the last save, once the first process has written it."""
    agent.ranks.wait()
    read_models(agent.setup.model_agent_path, agent.setup.model_critic_path).fill(agent.nets)


def _fill_target(agent: Training, name: str, net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore a target network; a save of an earlier release may lack it."""
    prefix = f"{TARGET}.{name}."
    copied = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not copied:
        warnings.warn(
            f"{agent.setup.model_agent_path}: was saved without a target network of the {name}, which "
            f"{agent.setup.algorithm.name} has now; it starts as a copy of the {name}, so the run does not go on "
            "exactly",
            stacklevel=3,
        )
    # Earlier releases had no tensor for some buffers.
    buffers = {key: value for key, value in agent.nets[name].state_dict().items() if key in dict(net.named_buffers())}
    net.load_state_dict(buffers | copied if copied else agent.nets[name].state_dict())


def _fill_optimiser(optimiser: Optimizer, name: str, tensors: Mapping[str, Tensor], nets: Networks) -> None:
    """Restore an optimiser's state of each weight; of sharded rows, the state of this process's rows."""
    net = nets[network_of(name)]
    shards = net.items.shards if isinstance(net, Encoder) and name.endswith(":rows") else None
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        owner, place, field = (*key.split(".", 2), "")[:3]
        if owner == name:
            # SparseAdam counts its steps by a plain number, and computes otherwise with a tensor.
            plain = field == "step" and isinstance(optimiser, SparseAdam)
            found = value if shards is None or not value.dim() else value[shards.own].clone()  # a copy, no view
            state.setdefault(int(place), {})[field] = int(value) if plain else found
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


class Progress(NamedTuple):
    """How far a saved model was trained.

    `spent`: share of the time limit, if there is one. `ended`: with `patience`, the run that made this best model has
    ended. `unweighed`: that run took its last step, but weighing the log's counts was interrupted. `same`: the run was
    to be as long as the setup says.
    """

    histories: int
    steps: int
    spent: float
    ended: bool
    unweighed: bool
    same: bool


def progress(setup: Setup) -> Progress | None:
    """How far the models of a setup were trained; None if they are missing, damaged or made with other settings."""
    try:
        manifest = read_models(setup.model_agent_path, setup.model_critic_path).manifest
        position = read_rest(setup.model_agent_path)[2]
    except ModelError:
        return None
    if _changed(manifest, setup) or manifest.setup.get("seconds") != setup.seconds:
        return None
    same = all(manifest.setup.get(name) == getattr(setup, name) for name in LENGTHS)
    ended, over = (same and position.get(name, False) for name in ("ended", "over"))
    spent = position.get("spent", 0.0)
    return Progress(manifest.histories, position["steps"], spent, ended, over and not ended, same)


def made_with(setup: Setup) -> str:
    """The settings of a saved run that differ from the setup's, as arguments of a command; empty if none does."""
    try:
        manifest = read_manifest(setup.model_agent_path)
    except ModelError:
        return ""
    then = {key: before for key, (before, _) in _changed(manifest, setup).items() if before is not ...}
    for name in ("seconds", *LENGTHS):
        if manifest.setup.get(name) != getattr(setup, name):
            then[name] = manifest.setup.get(name)
    return " ".join(_given(key, value) for key, value in then.items())


def _changed(manifest: Manifest, setup: Setup) -> dict[str, tuple[object, object]]:
    """The settings that differ from a saved run's though they must not: their values then and now.

    If a group differs in name (another algorithm, say), its entries are the name and the settings that it had. `...`
    stands for a setting that one of the two does not have.
    """
    made_by = manifest.made_by(type(setup.algorithm), learns=True)
    before, now = (_lasting(one.as_json()) for one in (made_by, setup))
    free = FREE | (setup.algorithm.ignores & made_by.algorithm.ignores)
    if not (before["world"]["name"] or now["world"]["name"]):
        free |= {"world"}
    for one in (before, now):
        one["inputs"].pop("items")  # taken from the save
    found = dict[str, tuple[object, object]]()
    for name in sorted(name for name in now if name not in free and now[name] != before[name]):
        one, other = dict(flat({name: before[name]})), dict(flat({name: now[name]}))
        keys = one if one.get(f"{name}.name") != other.get(f"{name}.name") else one | other
        values = {key.removesuffix(".name"): (one.get(key, ...), other.get(key, ...)) for key in keys}
        found |= {key: both for key, both in values.items() if both[0] != both[1]}
    return found


def _given(key: str, value: object) -> str:
    """A setting as an argument of a command."""
    return shlex.quote(f"{key}={value if isinstance(value, float) else as_text(value)}")


def _lasting(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that must not change: without a world's length, its number of test users, and the launcher."""
    world = {name: value for name, value in values["world"].items() if name not in ("steps", "episodes")}
    return values | {"world": world, "cluster": values["cluster"]["items"]}


def _same(one: Space, other: Space) -> bool:
    return (
        one.catalogue.hash() == other.catalogue.hash()
        and (one.tolerance, one.typical, one.event_names) == (other.tolerance, other.typical, other.event_names)
        and np.array_equal(one.catalogue.center, other.catalogue.center)
        and np.array_equal(one.catalogue.scale, other.catalogue.scale)
    )


def start_from(agent: Training, origin: Path) -> None:
    """Take the weights of another model of the same settings, and its learned item vectors by the items' ids.

    An item that the model did not know keeps its initial vector, as in a new run.

    Raises:
        ModelError: a file is missing, or the networks differ.
    """
    saved = read_models(origin, critic_beside(origin))
    known = saved.space.catalogue.index(agent.space.catalogue.ids.to_list())
    tensors = dict(saved.tensors)
    for name, net in agent.nets.items():
        key = f"{name}.items.learned"
        if isinstance(net, Encoder) and net.items.learned is not None and key in tensors:
            vectors = net.items.learned.detach().clone()
            if tensors[key].shape[1:] != vectors.shape[1:]:
                raise ModelError(
                    f"{origin}: its item vectors have {tensors[key].shape[1]} numbers, and here {vectors.shape[1]}; "
                    "set dim as it was, or train from nothing"
                )
            here = known if net.items.shards is None else known[net.items.shards.own]
            vectors[torch.from_numpy(here >= 0)] = tensors[key][here[here >= 0]].to(vectors.device)
            tensors[key] = vectors
        for own, values in net.state_dict().items():
            if own.startswith(("ridge.", "followed")):  # computed from the new log, and weighed at the end
                tensors[f"{name}.{own}"] = values
    replace(saved, tensors=tensors).fill(agent.nets)
    for name, target in agent.targets.items():
        target.load_state_dict(agent.nets[name].state_dict())
