"""The settings of a run: setup.txt, TOML or `key=value` in, one validated and frozen `Setup` out.

Every setting is stated once, on its field; the messages, the commented file of `what-next init` and the reference in
the documentation come from there. Layers below trust these values and do not validate them again.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

import torch
from pydantic import Field, ValidationError, WrapValidator, field_serializer, field_validator, model_validator

from what_next.algorithms import KNOWN, Algorithm, WhatNext
from what_next.algorithms.on_policy import OnPolicy
from what_next.data.batches import LEAST
from what_next.data.space import Space
from what_next.errors import SetupError
from what_next.models.encoders import ENCODERS, Encoder
from what_next.rewards import REWARDS
from what_next.settings.file import Entry, flatten, parse_file, parse_overrides, parse_text
from what_next.settings.groups import (
    COLD,
    DROPOUT,
    LARGE,
    OFTEN,
    RARE,
    REWARD_GROUP,
    SHORT,
    UNKNOWN,
    Cluster,
    DecisionSettings,
    Evaluation,
    Group,
    Inputs,
    Loss,
    RewardSettings,
    Selection,
    SplitSettings,
    WorldSettings,
    reward_group,
)
from what_next.settings.plugins import GIVEN, installed, names, pending, undefined
from what_next.settings.schema import PLUGGED, explain, listed, nest, of_package, override, resolve
from what_next.settings.service import Loop, Server

GROUP, ENCODER_GROUP = "what_next.algorithms", "what_next.encoders"
OWN = {algorithm.model_fields["name"].default: algorithm for algorithm in KNOWN}


def known_algorithms() -> dict[str, type[Algorithm]]:
    """The project's own algorithms and those of installed packages, by the `name` of their class."""
    return OWN | installed(GROUP, Algorithm, OWN, _only_name)


def _only_name(_: str, part: type[Algorithm]) -> str:
    """The only value that an algorithm's `name` can have; setups identify the algorithm by it."""
    field = part.model_fields["name"]
    if get_args(field.annotation) != (field.default,):
        raise TypeError('it has no `name: Literal["..."] = "..."`')
    return str(field.default)


class _Algorithms(Mapping[str, type[Algorithm]]):
    """All algorithms. Those of installed packages are loaded at first use, because they may import this package."""

    def __init__(self) -> None:
        self.found: dict[str, type[Algorithm]] = OWN

    def __getitem__(self, name: str) -> type[Algorithm]:
        return complete()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(complete())

    def __len__(self) -> int:
        return len(complete())


ALGORITHMS = _Algorithms()
"""Every algorithm that a setup may name."""


def _algorithm(value: object, choose: Callable[[object], Algorithm]) -> Algorithm:
    """An `Algorithm` object is returned unchanged, so that Python users may bring their own; names and dictionaries are
    looked up."""
    if isinstance(value, Algorithm):
        _check_own(value)
        return value
    if isinstance(value, dict):
        return choose({"name": "whatnext", **value})
    return choose({"name": value} if isinstance(value, str) else value)


def _check_own(algorithm: Algorithm) -> None:
    """Raises a `ValueError` if a model's file, which holds only its `name`, could not give this class again."""
    kind, name = type(algorithm), algorithm.name
    if needed := [one for one, field in kind.model_fields.items() if field.is_required()]:
        raise ValueError(f"{kind.__name__} has no default for {listed(needed)}; each field of an algorithm needs one")
    inherited = next((one for one in kind.__mro__[1:] if ALGORITHMS.found.get(name) is one), None)
    if (other := OWN.get(name, inherited)) not in (None, kind):
        free = snake(kind.__name__)
        free = f"my_{free}" if free in ALGORITHMS.found else free
        raise ValueError(
            f"{kind.__name__} is called {name!r} as {other.__name__} is, which a saved model would be loaded as; "
            f'give it a name of its own, such as `name: Literal["{free}"] = "{free}"`'
        )


def snake(name: str) -> str:
    """The name of a class as a setup writes it: `last_two` for `LastTwo`."""
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()


def any_of(algorithms: Mapping[str, type[Algorithm]]) -> Any:
    """The union of their types, made at run time."""
    return Union[tuple(algorithms.values())]  # noqa: UP007


def encoder_names() -> Any:
    """The type of `model`'s values, made at run time without loading any encoder."""
    found = names(ENCODER_GROUP)
    for name in ENCODERS.keys() & set(found):
        warnings.warn(f"{name} of {ENCODER_GROUP} is left out: one of ours has that name", stacklevel=2)
    return Literal[(*ENCODERS, *found)]


if TYPE_CHECKING:
    AnyAlgorithm = Algorithm
    EncoderName = str
else:
    EncoderName = encoder_names()
    AnyAlgorithm = Annotated[any_of(OWN), Field(discriminator="name"), WrapValidator(_algorithm)]


IN_A_WORLD: Mapping[str, object] = OnPolicy.defaults()
"""Defaults of algorithms that learn by acting: without the regularisation that keeps others from overfitting a log."""

NO_LOG = Path("-")
"""`data` of a setup that names a world and no log."""
NO_WORLD = "no world is named; set `world, boredom:SlateTopK-Bored-v0`, or give --world; `what-next list worlds`"


def with_defaults(data: object) -> object:
    """The values, completed by the defaults of their algorithm."""
    if not isinstance(data, dict):
        return data
    chosen = data.get("algorithm", "whatnext")
    name = str(chosen.get("name", "whatnext") if isinstance(chosen, dict) else chosen)
    algorithm = type(chosen) if isinstance(chosen, Algorithm) else ALGORITHMS.get(name)
    if algorithm is None:
        raise SetupError(f"algorithm is {name!r}; allowed: {listed(ALGORITHMS, 'or')}{of_package(GROUP)}")
    defaults, world = algorithm.defaults(), data.get("world")
    if isinstance(world, WorldSettings) or (isinstance(world, dict) and world.get("name") is not None):
        defaults |= {"data": NO_LOG, **IN_A_WORLD}  # a world needs no data
    elif algorithm.source == "world" and "data" not in data:
        raise SetupError(NO_WORLD)
    if "epochs" in data:
        defaults.pop("passes", None)
    group = data.get("split")
    if isinstance(group, dict) and "name" not in group and "split" in defaults:  # only `split.seed` is set
        data = {**data, "split": {"name": defaults["split"], **group}}
    return {**defaults, **data}


class Setup(Group):
    """All settings of a run; made by `read`, `from_text`, or in Python with keyword arguments.

    Raises a `SetupError` that names file, line and key, what was found and what is allowed.
    """

    train: bool = Field(description="yes: train, and save both models; no: load them, and recommend")
    model: EncoderName = Field(default="lstm", json_schema_extra={PLUGGED: ENCODER_GROUP})
    """the network that reads a history; whatnext works with lstm only"""
    data: Path = Field(description="the log of events of users with items: an imported .parquet, or a file to import")
    epochs: int = Field(default=40_000, gt=0)
    """number of training samples, that is user histories, to train on"""
    passes: int | None = Field(default=None, gt=0)
    """length of training in passes over the training users; it overrides epochs"""
    model_agent_path: Path = Field(description="where the agent is saved and loaded from (.safetensors)")
    model_critic_path: Path | None = None
    """where the critic is saved and loaded from (.safetensors)"""
    algorithm: AnyAlgorithm = Field(
        default=WhatNext(), description="the algorithm that trains the agent", json_schema_extra={PLUGGED: GROUP}
    )
    split: SplitSettings = SplitSettings()
    evaluation: Evaluation = Evaluation()
    window: int | None = Field(default=None, ge=3)
    """whatnext trains on random windows of this many events; none: on complete histories, and on random windows of
    max_length events of longer ones"""
    seconds: float | None = Field(default=None, gt=0)
    """training ends after this many seconds (with a second one, see refit, the first has a part of them), or earlier by
    epochs or passes; none: no limit"""
    batch_size: int | None = Field(default=64, gt=0)
    """number of histories in a batch (whatnext takes fewer where they are long, so that a step reads at most 4096
    events); none, for algorithms that learn from the log: as many as hold batch_targets"""
    batch_targets: int = Field(
        default=2048,
        gt=0,
        description="approximate number of events in a batch; fewer where a pass over the log would have fewer than "
        f"{LEAST} batches",
    )
    max_length: int = Field(default=200, gt=1)
    """algorithms that learn from the log read complete histories in windows of this many steps (all windows, but only
    the latest for a user with a large part of the log); whatnext without window reads at most this many events at once;
    also how far back a transformer looks"""
    inputs: Inputs = Inputs()
    decisions: DecisionSettings = DecisionSettings()
    world: WorldSettings = WorldSettings()
    loss: Loss = Loss()
    discount: float = Field(default=0.5, ge=0, lt=1, description="discount factor per event, not per day")
    n_step: int = Field(default=1, gt=0, description="number of rewards summed in a temporal-difference target")
    relax: float = Field(default=0.0, ge=0)
    """width of the band that one randomly chosen attribute may lie in, in standard deviations"""
    tolerance: float | None = Field(default=None, gt=0)
    """largest distance of a matching item from the proposal in each attribute, in standard deviations; none: the
    smallest at which half of the distinct training items match another one"""
    selection: Selection = Selection()
    dim: int = Field(default=64, gt=0, description="width of the network's hidden state")
    layers: int = Field(default=1, gt=0, description="number of the network's layers")
    ensemble: int = Field(default=1, gt=0, le=64)
    """number of networks trained one after the other from different seeds and joined into one, which scores by the
    mean; only for an lstm or gru that scores items by what came next"""
    skip: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description="whether an lstm or gru adds a linear map of the last item to its hidden state; auto: where "
        f"training users have at most {SHORT} events on average, or the log has {LARGE:,} training events",
    )
    linear: Literal["yes", "no"] = "yes"
    """for algorithms that learn the next item: whether a linear item-to-item model, transition counts and popularity
    are added to the network's scores, with the weights that are best for the validation users"""
    dropout: float | None = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=f"share of activations dropped between layers; none: {DROPOUT[0]}, or {DROPOUT[1]} where the log "
        f"has {LARGE:,} training events, and {OFTEN} per item on average",
    )
    item_dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of a history's items that are read as unknown in training; above 0, items with a learned "
        f"vector that was never a training target are always read so; none: {UNKNOWN} where training users have at "
        f"most {SHORT} events on average, else 0",
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="learning rate of the optimisers")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradients, which are scaled down to it")
    reward: RewardSettings = RewardSettings()
    seed: int = Field(default=0, ge=0, lt=2**63)
    """seed of all random numbers; the same seed gives the same run"""
    threads: int | None = Field(default=None, gt=0, le=1024)
    """number of processor threads; none: PyTorch's default, which is very slow on a busy machine"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where the networks run; auto: on a graphics card if there is one"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """precision of matrix products in training; auto: bf16 on a graphics card, and where the processor is faster with
    it"""
    compile: bool = Field(default=False, description="whether the encoder goes through torch.compile")
    monitor: Literal["ndcg@10", "hr@10", "dcg@10", "spread"] | None = None
    """metric of the validation users, measured at each save; none: spread for whatnext; dcg@10, whose gain is the log's
    reward, for an algorithm that learns from rewards if the log's differ and have a mean above 0; else ndcg@10"""
    patience: int | None = Field(default=None, gt=0)
    """early stopping: after this many saves without a better monitor the learning rate is halved, the fourth time the
    run ends, and the best model is kept; none: training runs to the end of epochs, passes or seconds"""
    refit: Literal["auto", "no", "validation", "all"] = "auto"
    """a second training from scratch, with the passes, learning rates and counts of the log that validation chose in
    the first one. validation: on the validation events, too; all: on every event of the log, for a model that will be
    served, as nothing is left to judge it on; auto: validation, if its events are later ones (split leave_last_out or
    time) and at least a twentieth of the training events, and passes or epochs did not end the first one; no: never"""
    stop_on_alarm: bool = Field(default=False, description="whether an alarm stops training; it is shown in any case")
    save_every: int | None = Field(default=None, gt=0)
    """histories between two saves of the models; none: one pass over the training users, or 5000 for whatnext"""
    log: Path | None = None
    """file for losses and rewards during training, as JSON lines; none: beside the agent's file"""
    track: Literal["tensorboard", "mlflow"] | None = None
    """experiment tracker for settings, curves, metrics and the model card (extra: track)"""
    user: tuple[str, ...] = Field(default=(), description="train no: ids of users to recommend to; none: a random one")
    slots: int = Field(default=10, gt=0, description="train no: number of items to recommend")
    cluster: Cluster = Cluster()
    server: Server = Server()
    loop: Loop = Loop()

    @classmethod
    def read(
        cls, path: str | Path, overrides: Iterable[str] = (), *, algorithm: Mapping[str, Any] | None = None
    ) -> "Setup":
        """Read a setup file (setup.txt, or TOML by its suffix) with `key=value` overrides; paths start at its folder.

        Every command reads its setup here, so this also sets the process's `threads`.

        Args:
            algorithm: an algorithm's settings (with its `name`) that override those of the file.
        """
        path = Path(path)
        entries, words = parse_file(path), parse_overrides(overrides)
        if algorithm is not None:
            entries, words = (
                [one for one in some if one.key.partition(".")[0] != "algorithm"] for some in (entries, words)
            )
            made = [(key, value) for key, value in flatten(algorithm, "algorithm") if value is not None]
            words += [Entry(key, value, "the model's file") for key, value in made]
        return cls._build(entries, path.parent, str(path), words).threaded()

    @classmethod
    def from_text(cls, text: str, folder: str | Path = ".", overrides: Iterable[str] = ()) -> "Setup":
        """The setup of a text in the form of setup.txt; relative paths start at `folder`."""
        return cls._build(parse_text(text), Path(folder), "setup", parse_overrides(overrides))

    @classmethod
    def _build(cls, entries: list[Entry], folder: Path, source: str, overrides: list[Entry]) -> "Setup":
        complete()
        resolved, fields = resolve(cls, override(cls, entries, overrides))
        origin = {"entries": {entry.key: entry for entry in resolved}, "source": source}
        return cls.model_validate(nest(resolved, fields, folder), context=origin)

    def __new__(cls, *_: Any, **__: Any) -> "Setup":
        """Adds the parts of installed packages first; an own `__init__` would cut off pydantic's validation context."""
        complete()
        return super().__new__(cls)

    @classmethod
    def model_validate(cls, obj: Any, **more: Any) -> "Setup":
        """See pydantic."""
        complete()
        return super().model_validate(obj, **more)

    @property
    def acts(self) -> bool:
        """Whether the agent learns by acting in a world."""
        return self.world.name is not None or self.algorithm.source == "world"

    @property
    def data_path(self) -> Path:
        """The path of its log.

        Raises:
            SetupError: it names a world and no data.
        """
        if self.world.name is not None and self.data == NO_LOG:
            raise SetupError(
                f"the setup names the world {self.world.name} and no log (`data`), so there are no users to judge on "
                "or to recommend to; `what-next simulate SETUP`, or wn.play, plays the agent in its world beside others"
            )
        return self.data

    @property
    def unit(self) -> str:
        """The unit of the length of a run."""
        return "slates" if self.acts else "histories"

    @property
    def needs_critic(self) -> bool:
        """Whether the agent needs the critic to choose."""
        return self.algorithm.needs_critic or self.selection.name == "critic"

    def threaded(self) -> "Setup":
        """Set PyTorch's number of threads to `threads`, unless that is none; returns itself."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return self

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values (for a model's manifest); `Setup(**...)` reads them back.

        Rewards of other packages without a weight are left out, so that the model can be read without these packages.
        """
        values, reward = self.model_dump(mode="json"), self.reward
        own = RewardSettings.model_fields
        values["reward"] = {
            name: one for name, one in values["reward"].items() if name in own or getattr(reward, name).weight
        }
        return values

    @property
    def model_paths(self) -> tuple[Path, ...]:
        """The paths of the models."""
        return tuple(path for path in (self.model_agent_path, self.model_critic_path) if path)

    @property
    def width(self) -> int:
        """The width of the hidden state: for an ensemble, of all of its networks together."""
        return self.dim * self.ensemble

    @property
    def members(self) -> tuple["Setup", ...]:
        """The setups of an ensemble's networks, each with its own seed, files and share of the time.

        None has a second training (`refit`) of its own: what validation holds back judges them together.
        """
        share = self.seconds and self.seconds / self.ensemble
        return tuple(
            self._apart(f"member{place}", ensemble=1, refit="no", seconds=share, seed=self.seed * self.ensemble + place)
            for place in range(self.ensemble)
        )

    @property
    def second(self) -> "Setup":
        """The settings of a second training (`refit`), which has files of its own and no validation."""
        return self._apart("refitting", refit="no", patience=None, seconds=None, passes=None, track=None)

    def _apart(self, word: str, **changes: Any) -> "Setup":
        """These settings with changes, and with files of their own, whose names hold a word."""
        paths = {name: getattr(self, name) for name in ("model_agent_path", "model_critic_path")}
        # Without a suffix, a dot would make one of the word, which no model may have.
        own = {
            name: path and path.with_name(f"{path.stem}.{word}{path.suffix}" if path.suffix else f"{path.name}-{word}")
            for name, path in paths.items()
        }
        return self.model_copy(update={"log": None, **own, **changes})

    def dropped(self, space: Space) -> float:
        """The share of activations dropped, for this training data."""
        large = space.events >= LARGE and space.events_per_item >= OFTEN
        return DROPOUT[large] if self.dropout is None else self.dropout

    def skips(self, space: Space) -> bool:
        """Whether the encoder adds a linear map of the last item, for this training data."""
        fits = 0 < space.events_per_user <= SHORT or space.events >= LARGE
        return self.skip == "yes" or (self.skip == "auto" and fits)

    def unknown(self, events_per_user: float) -> float:
        """The share of items that an encoder reads as unknown in training, for a mean number of events per user."""
        if self.acts:
            return 0.0
        return self.item_dropout if self.item_dropout is not None else UNKNOWN * (0 < events_per_user <= SHORT)

    def item_inputs(self, space: Space) -> str:
        """What item vectors are made of (`inputs.items`), for this catalogue and log."""
        if self.inputs.items != "auto":
            return self.inputs.items
        if space.catalogue.informative and space.cold > COLD:
            return "attributes"
        return "both" if space.catalogue.informative and 0 < space.events_per_item <= RARE else "learned"

    @property
    def longest(self) -> int:
        """The most events of a history that the founding algorithm reads at once."""
        return self.window or self.max_length

    @property
    def log_path(self) -> Path:
        """The path of the training log."""
        return self.log or self.model_agent_path.with_suffix(".jsonl")

    @field_serializer("algorithm")
    def _dump_algorithm(self, algorithm: Algorithm) -> dict[str, Any]:
        return algorithm.model_dump(mode="json")

    @field_validator("user", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        several = [value] if isinstance(value, str | int) else value
        return [str(one) for one in several] if isinstance(several, list | tuple) else several

    @field_validator("reward", mode="before")
    @classmethod
    def _with_all_rewards(cls, value: object) -> object:
        """Replace a group made in Python, which has only the project's own rewards."""
        return value.model_dump() if type(value) is RewardSettings else value

    @field_validator("model_agent_path", "model_critic_path")
    @classmethod
    def _safe(cls, path: Path | None, info: Any) -> Path | None:
        if path is not None and path.suffix.lower() not in ("", ".safetensors"):
            raise ValueError(
                f"{info.field_name} is {str(path)!r}; allowed: a path that ends in .safetensors, the only format of "
                "models here (a pickle, such as .pt, can run anything when it is loaded)"
            )
        return path

    @model_validator(mode="after")
    def _two_models(self) -> "Setup":
        saved = {network for networks in self.algorithm.updates.values() for network in networks}
        if self.model_critic_path is None and saved - {"encoder", "actor"}:
            raise ValueError(
                f"the setting 'model_critic_path' is missing, and the algorithm {self.algorithm.name} trains a critic; "
                "allowed: a path"
            )
        self._fitting()
        if self.model_critic_path == self.model_agent_path:
            raise ValueError(
                f"model_agent_path and model_critic_path are both {str(self.model_agent_path)!r}; allowed: two paths"
            )
        return self

    def _fitting(self) -> None:
        """Raises a `ValueError` for a setting that does not fit the algorithm or the encoder."""
        algorithm, name = self.algorithm, self.algorithm.name
        if algorithm.encoders and self.model not in algorithm.encoders:
            only = listed(algorithm.encoders, "or")
            raise ValueError(f"model is {self.model!r}, and the algorithm {name} has an {only} alone; allowed: {only}")
        if self.monitor and self.monitor not in algorithm.monitors:
            raise ValueError(
                f"monitor is {self.monitor!r}, which is not measured for the algorithm {name}; allowed: "
                + listed(algorithm.monitors, "or")
            )
        if self.batch_size is None and "batch_targets" in algorithm.ignores and not self.acts:
            raise ValueError(
                f"batch_size is none, and the algorithm {name} tries items; allowed: a whole number above 0"
            )
        scores = algorithm.linear and type(algorithm).vectors is Algorithm.vectors and self.model in ("lstm", "gru")
        if self.ensemble > 1 and (not scores or self.acts or self.cluster.items == "sharded"):
            raise ValueError(
                f"ensemble is {self.ensemble}, and several networks become one where an lstm or gru learns from a log "
                "whose items all lie in each process, and scores them by what came next (next_item, sqn, snqn, sa2c, "
                "sac_rec, reinforce, iql, crr); allowed: 1"
            )
        if self.acts and self.refit in ("validation", "all"):
            raise ValueError(
                f"refit is {self.refit!r}, and an agent that acts in a world holds no events back; allowed: auto or no"
            )
        if self.model == "transformer" and self.dim % 2:
            raise ValueError(f"dim is {self.dim}, and the transformer's positions need pairs; allowed: even numbers")

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: object, validate: Callable[[object], "Setup"], info: Any) -> "Setup":
        """The outermost validator: turns pydantic's errors into a `SetupError`."""
        try:
            return validate(with_defaults(data))
        except ValidationError as error:
            origin = info.context or {"entries": {}, "source": "Setup"}
            raise explain(error, cls, origin["entries"], origin["source"]) from None


def complete() -> Mapping[str, type[Algorithm]]:
    """Make the parts of installed packages known to setups; returns the algorithms.

    A part whose module is being imported and imports this one does not exist yet; a later call adds it.
    """
    if _MISSING:
        waiting = {group for group in _MISSING if pending(group)}
        _MISSING.clear()  # loading parts below may call this again
        ALGORITHMS.found, group = known_algorithms(), reward_group()
        Setup.model_fields["model"].annotation = encoder_names()
        Setup.model_fields["algorithm"].annotation = any_of(ALGORITHMS.found)
        Setup.model_fields["reward"].annotation, Setup.model_fields["reward"].default = group, group()
        Setup.model_rebuild(force=True)
        _MISSING.update(waiting)
    return ALGORITHMS.found


def known_encoders() -> dict[str, type[Encoder]]:
    """Every encoder that `model` may name; loads those of installed packages."""
    return {**ENCODERS, **installed(ENCODER_GROUP, Encoder, ENCODERS)}


def known_rewards() -> dict[str, Any]:
    """Every reward that a setup can weight."""
    complete()
    group: Any = Setup.model_fields["reward"].annotation
    return {name: field.annotation for name, field in group.model_fields.items()}


def register(part: type[Any]) -> None:
    """Make a part known to this process by its name, as an entry point would: an algorithm, a reward, an encoder, a
    source or a world. It replaces a part of the same name that was registered before.

    Args:
        part: its class. Encoders and sources are named after the class (`LastTwo` is `last_two`), the others by their
            own name.

    Raises:
        SetupError: it is none of these, lacks a required method, or has the name of one of the project's own parts (for
            sources and worlds this is a warning, once they are looked up).
    """
    kinds = {f"{base.__module__}.{base.__qualname__}" for base in getattr(part, "__mro__", ())}
    group = next((group for kind, group in PARTS.items() if kind in kinds), None)
    if group is None:
        given = "" if isinstance(part, type) else f"; give the class: {type(part).__name__}"
        raise SetupError(f"{part!r} is no class of an algorithm, a reward, an encoder, a source or a world{given}")
    if missing := undefined(part):
        raise SetupError(f"{missing}, so none can be made; define what is missing")
    name = snake(part.__name__)
    called = str(part.model_fields["name"].default) if group == GROUP else name
    ours = {GROUP: OWN, REWARD_GROUP: REWARDS, ENCODER_GROUP: ENCODERS}.get(group, {}).get(called)
    if ours not in (None, part):
        raise SetupError(
            f"{part.__module__}.{part.__qualname__} is called {called!r} as {ours.__module__}.{ours.__qualname__} is; "
            "give it a name of its own"
        )
    GIVEN.setdefault(group, {})[name] = part
    _MISSING.add(group)


PARTS: Mapping[str, str] = {
    "what_next.algorithms.base.Algorithm": GROUP,
    "what_next.rewards.base.Reward": REWARD_GROUP,
    "what_next.models.encoders.base.Encoder": ENCODER_GROUP,
    "what_next.sources.base.Source": "what_next.sources",
    "what_next.worlds.base.World": "what_next.worlds",
}
"""Entry-point groups by the qualified name of a part's base class: a name, because some lie in rooms above."""
_MISSING = {group for group in (GROUP, REWARD_GROUP) if names(group)}
"""Entry-point groups that were not loaded yet."""
