"""Saving a training run, and going on from a save or from another model."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from what_next.agent import Agent
from what_next.artefacts import Manifest, read_models, read_rest, write_models
from what_next.data.space import Space
from what_next.errors import ModelError
from what_next.settings import Setup

FREE = {
    "epochs",
    "train",
    "user",
    "slots",
    "save_every",
    "log",
    "device",
    "model_agent_path",
    "model_critic_path",
    "data",
}
"""Settings that a resumed run may change: the learning rate's way down follows `epochs`."""


def new_run() -> str:
    """An id for a training run."""
    return secrets.token_hex(8)


def save(agent: Agent, rng: np.random.Generator, run: str, metrics: Mapping[str, Any] | None = None) -> None:
    """Write the models, and all that a resumed run needs, together.

    Raises:
        SaveError: a file could not be written; the previous save is intact.
    """
    manifest = Manifest.of(agent.setup, agent.space, run, agent.histories, metrics or {})
    rest: dict[str, Tensor] = {"random.torch": torch.get_rng_state()}
    for name, optimiser in agent.optimisers.items():
        for place, values in optimiser.state_dict()["state"].items():
            rest |= {f"{name}.{place}.{key}": value for key, value in values.items()}
    write_models(agent.setup, manifest, agent.space, agent.nets, (rest, {"random": rng.bit_generator.state}))


def resume(agent: Agent, rng: np.random.Generator) -> str:
    """Set weights, optimisers and random states to the last save of the same settings; returns the run's id.

    The run then goes on as if it had never stopped: bit for bit with the same torch release, machine and threads.

    Raises:
        ModelError: there is no such save, or it was made with other settings or data.
    """
    setup = agent.setup
    saved = read_models(setup.model_agent_path, setup.model_critic_path)
    manifest, tensors, position = read_rest(setup.model_agent_path)
    before, now = Setup(**manifest.setup).as_json(), setup.as_json()
    changed = sorted(name for name in now if name not in FREE and now[name] != before[name])
    if changed:
        raise ModelError(
            f"{setup.model_agent_path}: was trained with another {', '.join(changed)}; set it as it was to go on, or "
            "leave --resume out to start anew"
        )
    if saved.space.catalogue.hash() != agent.space.catalogue.hash():
        raise ModelError(
            f"{setup.model_agent_path}: was trained on another catalogue than {setup.data}; start anew, or use --from"
        )
    for name, net in agent.nets.items():
        saved.fill(name, net)
    for name, optimiser in agent.optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, place, field = (*key.split(".", 2), "")[:3]
            if owner == name:
                state.setdefault(int(place), {})[field] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    torch.set_rng_state(tensors["random.torch"])
    rng.bit_generator.state = position["random"]
    agent.histories = manifest.histories
    return manifest.run


def grown_space(space: Space, origin: Path) -> tuple[Space, int]:
    """The space of today's data under the scaling of a trained model, and how many items the model did not know.

    Raises:
        ModelError: the attributes are not those of the model.
    """
    old = read_models(origin).space
    if old.catalogue.names != space.catalogue.names or old.event_names != space.event_names:
        raise ModelError(
            f"{origin}: was trained on attributes {', '.join(old.catalogue.names)} and events with "
            f"{', '.join(old.event_names) or 'nothing more'}; the data have {', '.join(space.catalogue.names)} and "
            f"{', '.join(space.event_names) or 'nothing more'}"
        )
    new = int((old.catalogue.index(space.catalogue.ids.to_list()) < 0).sum())
    catalogue = space.catalogue.scaled(old.catalogue.center, old.catalogue.scale)
    return replace(old, catalogue=catalogue, seen=space.seen), new


def start_from(agent: Agent, origin: Path) -> None:
    """Take the weights of another model, made by the same settings; its critic's file is named in its setup.

    Raises:
        ModelError: a file is missing, or the networks differ.
    """
    critic = Setup(**read_models(origin).manifest.setup).model_critic_path
    saved = read_models(origin, critic and origin.with_name(critic.name))
    for name, net in agent.nets.items():
        saved.fill(name, net)
