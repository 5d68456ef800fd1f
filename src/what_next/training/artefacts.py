"""Models on disk: safetensors with a manifest, the catalogue as Parquet beside them, and what a resumed run needs.

`<agent>.safetensors` holds encoder, actor and the scaling of the space, `<critic>.safetensors` all other networks,
`<agent>.catalogue.parquet` the items, `<agent>.resume.safetensors` the optimisers and random states. All carry one run
id and position, and are renamed into place together (if a kill interrupts that, the next reader completes it); a mixed
pair is refused. `<agent>.card.md` is the model card (`card`).
"""

import json
import platform
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import safetensors
import torch
from pydantic import BaseModel, ValidationError, field_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from what_next.algorithms import Algorithm
from what_next.data import Catalogue
from what_next.data.files import Writer, finish, steady, write_files
from what_next.data.space import Space
from what_next.errors import ModelError, SetupError, out_of_memory
from what_next.settings import ALGORITHMS, UNKNOWN, Setup, known_rewards, listed
from what_next.settings.setup import OWN, complete
from what_next.training.card import card, card_path

FORMAT = 1
KEY = "what_next"
CRITIC = "critic.safetensors"
"""File name of the critic in the folder of a deployed version, whatever its name was when it was saved."""
OF_AGENT = ("encoder.", "actor.")
"""Prefixes of the names of the agent's tensors; all other tensors are the critic's."""

SCALING = ("center", "scale", "event_center", "event_scale")
"""Scaling of the space, saved in the agent's file."""
TRAINED = (
    "model", "algorithm", "dim", "ensemble", "layers", "dropout", "window", "reward", "inputs", "max_length", "loss",
)  # fmt: skip
"""Settings that determine the networks."""

SKIP = "encoder.skip.weight"
"""Tensor of the skip connection from the last input; missing if the encoder has none."""
FOLLOWED = "encoder.followed"
"""Tensor of the items that the encoder reads as known; missing if it reads all of them so."""
LINEAR = "encoder.ridge.directions"
"""Tensor of the linear model beside the encoder; missing if there is none."""

Role = Literal["agent", "critic", "resume"]


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """The metadata in a model file.

    Attributes:
        format: version of the file format; `package`: version of What Next?.
        role: which of the files it is.
        run: id of the training run; `histories`: how many histories it had been trained on.
        setup: all settings.
        catalogue: hash of the catalogue (ids, attribute names and values).
        typical, tolerance, event_names: those of the space (`data.space.Space`).
        metrics: what was measured, and on which data.
        made_with: torch release, machine and threads; a resumed run is the same bit for bit only with the same ones.
    """

    format: int = FORMAT
    package: str = version("what-next-rl")
    role: Role
    run: str
    histories: int
    setup: dict[str, Any]
    catalogue: str
    typical: float
    tolerance: float
    event_names: tuple[str, ...]
    metrics: dict[str, Any] = {}
    made_with: dict[str, str | int] = {}
    _path: Path | None = None

    @field_validator("setup")
    @classmethod
    def _names_its_algorithm(cls, value: dict[str, Any]) -> dict[str, Any]:
        algorithm, critic = value.get("algorithm"), value.get("model_critic_path")
        if not (isinstance(algorithm, dict) and isinstance(algorithm.get("name"), str)):
            raise ValueError("its setup names no algorithm")
        return {**value, "model_critic_path": critic if isinstance(critic, str) and "\0" not in critic else None}

    @property
    def where(self) -> str:
        """The file's path, for messages."""
        return "the model" if self._path is None else str(self._path)

    def trained_by(self, known: type[Algorithm] | None = None) -> Algorithm:
        """The algorithm with its settings; `known`: a class of the caller's own, if it is not registered.

        Raises:
            ModelError: the algorithm is neither `known` nor registered, or it now has other settings.
        """
        values, name = self.setup["algorithm"], self.setup["algorithm"]["name"]
        called = known and known.model_fields["name"].default
        if known is not None and called == name and OWN.get(name) not in (None, known):
            raise ModelError(
                f"{self.where}: was trained by {name!r}, which is also the name of a built-in one; give "
                f"{known.__name__} a name of its own and train again, or leave algorithm out"
            )
        kind = known if known is not None and called == name else ALGORITHMS.get(name)
        if kind is None and known is not None and known not in ALGORITHMS.values():
            raise ModelError(
                f"{self.where}: was trained by the algorithm {name!r}, and the class that was given, "
                f"{known.__name__}, is called {called!r}; give the class of {name!r}"
            )
        if kind is None:
            raise ModelError(
                f"{self.where}: was trained by the algorithm {name!r}, which is not known here; install the package "
                "that brings it (an entry point of what_next.algorithms), or give its class: what_next.load(path, "
                "algorithm=Class)"
            )
        try:
            return kind(**values)
        except SetupError as error:
            raise ModelError(
                f"{self.where}: was trained by another release of {name!r} ({error}); install the one that made it, or "
                "train again"
            ) from None

    def made_by(self, known: type[Algorithm] | None = None, *, learns: bool = False) -> Setup:
        """The settings that the model was made with.

        Args:
            known: as for `trained_by`.
            learns: whether training continues, which needs every reward; otherwise unknown rewards are left out.

        Raises:
            ModelError: as of `trained_by`, or one of its parts or settings is not known here.
        """
        complete()  # include classes registered since
        values = {**self.setup, "algorithm": self.trained_by(known)}
        if (model := values.get("model", "lstm")) not in get_args(Setup.model_fields["model"].annotation):
            raise ModelError(
                f"{self.where}: was made with model {model!r}, which is not known here; install the package that "
                "brings it (an entry point of what_next.encoders), or what_next.register its class"
            )
        if not learns and isinstance(rewards := values.get("reward"), dict):
            values["reward"] = self._known(rewards)
        try:
            return Setup.model_validate(values, context={"entries": {}, "source": self.where})
        except SetupError as error:
            told = f"{error}\nIt was made where other settings are known; install the same releases"
            raise ModelError(told) from None

    def _known(self, rewards: dict[str, Any]) -> dict[str, Any]:
        """The rewards that are known here."""
        known = known_rewards()
        if missing := [name for name in rewards if name not in known]:
            warnings.warn(
                f"{self.where}: was made with the reward {listed(missing)}, which is not known here and is left out; "
                "it recommends the same, and to train or measure by it, install the package that brings it",
                stacklevel=1,  # one place, so that Python shows the warning once
            )
        return {name: one for name, one in rewards.items() if name in known}

    @classmethod
    def of(cls, setup: Setup, space: Space, run: str, histories: int, metrics: Mapping[str, Any]) -> "Manifest":
        """The agent's manifest."""
        return cls(
            role="agent",
            run=run,
            histories=histories,
            setup=setup.as_json(),
            catalogue=space.catalogue.hash(),
            typical=space.typical,
            tolerance=space.tolerance,
            event_names=space.event_names,
            metrics=dict(metrics),
            made_with=made_with(),
        )


@dataclass(frozen=True, eq=False)
class SavedModels:
    """Both models, read and checked; only the agent's if no critic was asked for."""

    manifest: Manifest
    space: Space
    tensors: Mapping[str, Tensor]
    critic: Path | None = None

    def fill(self, nets: Mapping[str, nn.Module]) -> None:
        """Load the weights of networks; a `ModelError` if the file's tensors do not match a network's."""
        for name, net in nets.items():
            self._fill(name, net)

    def _fill(self, name: str, net: nn.Module) -> None:
        prefix = f"{name}."
        weights = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        for key, held in net.named_buffers():  # training decided how many prototypes there are
            if key == "prototypes" and key in weights:
                held.data = torch.empty_like(weights[key], device=held.device)
            if key == "head.prior":  # models of earlier versions had no prior
                weights.setdefault(key, torch.zeros_like(held))
        try:
            net.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise ModelError(f"the saved network {name!r} is not the one that its setup describes: {first}") from None

    def trained_settings(self, present: Setup) -> dict[str, Any]:
        """The settings that the networks were made with; they replace those of the present setup."""
        trained = self.manifest.made_by(type(present.algorithm))
        made = {name: getattr(trained, name) for name in TRAINED} | self.built_with(trained)
        if not trained.acts:  # a model that learned from a log may act in the world that the present setup names
            made["world"] = present.world.model_copy(update={"name": None})
        return made

    def built_with(self, setup: Setup) -> dict[str, Any]:
        """The settings that the data decided in training, derived from the saved tensors."""
        learned, mapped = (f"encoder.items.{name}" in self.tensors for name in ("learned", "map"))
        items = "both" if learned and mapped else "attributes" if mapped else "learned"
        return {
            "skip": "yes" if SKIP in self.tensors else "no",
            "linear": "yes" if LINEAR in self.tensors else "no",
            "item_dropout": (self.manifest.setup.get("item_dropout") or UNKNOWN) if FOLLOWED in self.tensors else 0.0,
            "inputs": setup.inputs.model_copy(update={"items": items}),
        }


def made_with() -> dict[str, str | int]:
    """What a run's exact numbers depend on, besides its settings."""
    return {"torch": torch.__version__, "machine": platform.machine(), "threads": torch.get_num_threads()}


def catalogue_path(agent: Path) -> Path:
    """Path of a model's catalogue."""
    return agent.with_name(f"{agent.stem}.catalogue.parquet")


def resume_path(agent: Path) -> Path:
    """Path of the optimisers and random states that a resumed run needs."""
    return agent.with_name(f"{agent.stem}.resume.safetensors")


def write_models(
    setup: Setup,
    manifest: Manifest,
    space: Space,
    nets: Mapping[str, nn.Module],
    rest: tuple[Mapping[str, Tensor], Mapping[str, Any]],
) -> None:
    """Write all files of a model together; the previous ones stay intact if one of them cannot be written.

    Args:
        setup: names the paths.
        manifest: the agent's.
        space: with the catalogue.
        nets: all networks; `encoder` and `actor` are the agent's, the others the critic's.
        rest: tensors and JSON values that a resumed run needs.

    Raises:
        SaveError: a file could not be written.
    """
    weights = {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}
    catalogue = space.catalogue
    scaling = (catalogue.center, catalogue.scale, space.event_center, space.event_scale)
    agent = {name: value for name, value in weights.items() if name.startswith(OF_AGENT)}
    for name, values in zip(SCALING, scaling, strict=True):
        agent[f"space.{name}"] = torch.from_numpy(np.ascontiguousarray(values))
    files: dict[Path, Writer] = {catalogue_path(setup.model_agent_path): catalogue.to_table().write_parquet}
    resume, position = rest
    files[resume_path(setup.model_agent_path)] = _writer(resume, manifest, "resume", position)
    if setup.model_critic_path:
        critic = {name: value for name, value in weights.items() if not name.startswith(OF_AGENT)}
        files[setup.model_critic_path] = _writer(critic, manifest, "critic")
    text = card(setup, space, manifest.run, manifest.histories, manifest.metrics)
    files[card_path(setup.model_agent_path)] = lambda file: file.write(text.encode())
    files[setup.model_agent_path] = _writer(agent, manifest, "agent")
    write_files(files)


def remove_models(setup: Setup) -> None:
    """Remove all files of a model and the log of its training."""
    agent = setup.model_agent_path
    others = (catalogue_path(agent), resume_path(agent), card_path(agent), setup.log_path)
    for path in (*setup.model_paths, *others):
        path.unlink(missing_ok=True)


def _writer(
    tensors: Mapping[str, Tensor], manifest: Manifest, role: Role, position: Mapping[str, Any] | None = None
) -> Any:
    metadata = {KEY: manifest.model_copy(update={"role": role}).model_dump_json()}
    if position is not None:
        metadata["position"] = json.dumps(position)
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return partial(_write, content, metadata)


def _write(tensors: dict[str, Tensor], metadata: dict[str, str], file: Any) -> None:
    """Write without a copy: the tensors may be as large as the machine's memory."""
    try:
        save_file(tensors, file.name, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from None


def read_manifest(path: Path, role: Role | None = None) -> Manifest:
    """The manifest of a model file.

    Raises:
        ModelError: the file is missing, damaged, of a newer version, no model, or not of this role.
    """
    return _read(path, role, tensors=False)[0]


def read_trained(path: str | Path, overrides: Iterable[str] = ()) -> Setup:
    """The setup of a file, for using its trained model: the algorithm is the model's, whatever the file says.

    The defaults that the algorithm sets, such as those of the split, come with it. Without such a model, the setup is
    as `Setup.read` gives it.
    """
    setup = Setup.read(path, overrides)
    try:
        trained = read_manifest(setup.model_agent_path, "agent").trained_by()
    except ModelError:  # reported when the model is opened
        return setup
    if trained == setup.algorithm:
        return setup
    return Setup.read(path, overrides, algorithm=trained.model_dump(mode="json"))


def lacking(path: Path, agent: Path) -> ModelError:
    """The error for a missing file that was saved with an agent's."""
    return ModelError(f"{path}: no such model file; it belongs to {agent}, and must be copied with it")


def _read(
    path: Path, role: Role | None, agent: Path | None = None, *, tensors: bool = True
) -> tuple[Manifest, dict[str, Tensor], dict[str, str]]:
    """A file's manifest, tensors and metadata; `agent`: the agent's file, if this is another file of its save."""
    finish(path)
    if not path.is_file():
        if agent is not None and not path.exists():
            raise lacking(path, agent)
        what = "is a folder, no" if path.is_dir() else "no such"
        raise ModelError(f"{path}: {what} model file; train one first (`train, yes` in the setup)")
    try:
        path.open("rb").close()  # safetensors reports an unreadable file as missing
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118 (no mapping)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: the file is being replaced
        if out_of_memory(error):
            raise
        raise ModelError(
            f"{path}: is damaged or no model ({error}); train again, or take a copy that is whole"
        ) from None
    if KEY not in metadata:
        raise ModelError(f"{path}: holds tensors, but no manifest of What Next?; it is not one of its models")
    manifest = _manifest(path, metadata[KEY])
    if role is not None and manifest.role != role:
        raise ModelError(
            f"{path}: is a file of role {manifest.role!r}, and {role!r} is asked for; the paths are mixed up"
        )
    return manifest, found, metadata


def _manifest(path: Path, text: str) -> Manifest:
    saved_by, ours = "", version("what-next-rl")
    try:
        values = json.loads(text)
        if (form := values.get("format")) != FORMAT:
            raise ModelError(f"{path}: has format {form}, and this version knows {FORMAT}; upgrade What Next?")
        saved_by = str(values.get("package", ""))
        found = Manifest.model_validate_json(text)
    except (ValueError, AttributeError, ValidationError, RecursionError) as error:
        if re.fullmatch(r"\d[\w.+-]{0,40}", saved_by) and saved_by != ours:
            raise ModelError(
                f"{path}: was saved by What Next? {saved_by}, and this one ({ours}) cannot read its manifest: it is "
                f"damaged, or needs that release; install {saved_by}, or train again"
            ) from None
        raise ModelError(f"{path}: its manifest is damaged ({str(error).splitlines()[0]}); train again") from None
    found._path = path
    return found


def critic_beside(agent: Path) -> Path | None:
    """Path of the critic of an agent's file: beside it, or where it was saved; None if it was saved without one."""
    manifest = read_manifest(agent, "agent")
    named = manifest.setup["model_critic_path"]
    if not named:
        return None
    critic = Path(named)
    beside, deployed = agent.with_name(critic.name), agent.with_name(CRITIC)
    if beside.is_file():  # both were moved, or the program runs elsewhere
        return beside
    with suppress(ModelError):  # another file may have that name
        other = read_manifest(deployed, "critic") if deployed.is_file() else None
        if other is not None and (other.run, other.histories) == (manifest.run, manifest.histories):
            return deployed
    return critic


def to_resume(agent: Path) -> Path:
    """The agent's file of a run to resume; a `ModelError` if it is missing."""
    finish(agent)
    if not agent.exists():
        raise ModelError(f"{agent}: no such model file, so there is nothing to go on with; leave --resume out")
    return agent


def read_models(agent: Path, critic: Path | None = None) -> SavedModels:
    """Both models and their catalogue; only the agent's if no critic is asked for.

    Raises:
        ModelError: a file is missing, damaged, newer, or does not belong to the others.
    """
    manifest, tensors, _ = _read(agent, "agent")
    if critic is not None:
        other, weights, _ = _read(critic, "critic", agent)
        if (other.run, other.histories) != (manifest.run, manifest.histories):
            raise ModelError(
                f"{agent} and {critic} do not belong together: runs {manifest.run} and {other.run}, after "
                f"{manifest.histories} and {other.histories} histories; take two that were saved together"
            )
        tensors |= weights
    return SavedModels(manifest, _read_space(agent, manifest, tensors), tensors, critic)


def models_of(setup: Setup) -> SavedModels:
    """The models of a setup. If it names no critic and the model needs one, the critic beside the agent is read.

    Raises:
        ModelError: as of `read_models`.
    """
    agent, critic = setup.model_agent_path, setup.model_critic_path
    if critic is None:
        trained = read_manifest(agent, "agent").made_by(type(setup.algorithm))
        if trained.model_copy(update={"selection": setup.selection}).needs_critic:
            critic = critic_beside(agent)
    return read_models(agent, critic)


def _read_space(agent: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> Space:
    path = catalogue_path(agent)
    if not path.exists():
        raise lacking(path, agent)
    try:
        with steady():
            catalogue = Catalogue.from_table(pl.read_parquet(path, glob=False).drop_nulls("item_id"))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ModelError(f"{path}: the model's catalogue cannot be read ({error}); train again") from None
    if catalogue.hash() != manifest.catalogue:
        raise ModelError(f"{path}: is not the catalogue that {agent} was trained on; take the one saved with it")
    try:
        # Copies: a view of the file would change with it, and crash the process if the file is truncated.
        values = {name: tensors[f"space.{name}"].numpy().copy() for name in SCALING}
    except KeyError as error:
        raise ModelError(f"{agent}: is damaged, its tensor {error} is missing; train again") from None
    except TypeError:
        raise ModelError(f"{agent}: is damaged, its scaling has a wrong type; train again") from None
    for name, value in values.items():
        count = len(manifest.event_names if name.startswith("event") else catalogue.names)
        if value.shape != (count,) or not np.isfinite(value).all() or (name == "event_scale" and not value.all()):
            raise ModelError(f"{agent}: is damaged, its tensor 'space.{name}' is no scaling; train again")
    return Space(
        catalogue=catalogue.scaled(values["center"], values["scale"]),
        seen=np.array([], np.int32),
        tolerance=manifest.tolerance,
        typical=manifest.typical,
        event_names=manifest.event_names,
        event_center=values["event_center"],
        event_scale=values["event_scale"],
    )


def read_rest(agent: Path) -> tuple[Manifest, dict[str, Tensor], dict[str, Any]]:
    """What a resumed run needs: tensors and JSON values, as `write_models` was given them.

    Raises:
        ModelError: there is none, it is damaged, or it does not belong to the agent's file.
    """
    manifest, tensors, metadata = _read(resume_path(agent), "resume")
    current = read_manifest(agent, "agent")
    if (current.run, current.histories) != (manifest.run, manifest.histories):
        raise ModelError(f"{resume_path(agent)}: belongs to another save than {agent}; train again without --resume")
    try:
        return manifest, tensors, json.loads(metadata["position"])
    except (KeyError, ValueError, RecursionError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ModelError(f"{resume_path(agent)}: its position is damaged ({told}); train without --resume") from None
