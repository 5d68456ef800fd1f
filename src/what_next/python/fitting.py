"""`fit` trains a model on a data frame in one call; `load` opens a saved model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Unpack

import polars as pl

from what_next.agent import Agent
from what_next.algorithms import Algorithm
from what_next.data import Dataset, Options, Tables, import_files, save
from what_next.data.dataset import is_frame, to_polars
from what_next.data.files import footer_of, path_of, write_files
from what_next.data.forks import check_fork
from what_next.data.importing.attributes import Fill
from what_next.data.importing.cleaning import clean
from what_next.data.importing.ids import MISSING
from what_next.data.importing.readers import Source
from what_next.data.importing.tables import duration
from what_next.environment import Environment
from what_next.errors import DataError, ModelError, Plain, SetupError, TrainingError, in_python, told_in_python
from what_next.inference.modes import own_draws, own_modes
from what_next.policy import LearnedPolicy
from what_next.python.model import AGENT, DATA, FRAME, SETUP, Home, Model, frame_of, framed, spare_data
from what_next.python.settings import Settings, nested
from what_next.settings import ALGORITHMS, Setup
from what_next.settings.reference import written
from what_next.state import State
from what_next.training import checkpoint
from what_next.training.artefacts import critic_beside, read_manifest
from what_next.training.step import Step


@told_in_python()
@own_modes()
@own_draws()
def fit(
    data: Any,
    algorithm: str | Algorithm | type[Algorithm] = "next_item",
    *,
    items: Any = None,
    user: str | int | None = None,
    item: str | int | None = None,
    time: str | int | None = None,
    reward: str | int | None = None,
    event: str | int | None = None,
    titles: str | int | None = None,
    attributes: Sequence[str | int] | None = None,
    tags: Sequence[str | int] | None = None,
    context: Sequence[str | int] | None = None,
    fill: Fill | None = None,
    time_format: str | None = None,
    session_gap: timedelta | str | None = None,
    keep_duplicates: bool = False,
    missing: Sequence[str] = MISSING,
    folder: str | Path | None = None,
    overwrite: bool = False,
    on_step: Callable[[Step], object] | None = None,
    on_save: Callable[[dict[str, float]], object] | None = None,
    verbose: bool = True,
    **settings: Unpack[Settings],
) -> Model:
    """Train a model on a log of events.

    Args:
        data: a pandas, Polars or pyarrow frame with a row per event, or the path of a file that `what-next data import`
            can read.
        algorithm: its name, an object that holds its hyper-parameters, or its class; your own as well.
        items: a frame (or path) with a row per item: titles, attributes and tags.
        user: the name of the user column; None: it is recognised as by `what-next data import`; "": there is no such
            column. `item`, `time`, `reward`, `event`, `titles`: likewise.
        attributes: see `data.Options`; `tags`, `context`, `fill`, `time_format`, `session_gap` (also as "30m"),
            `keep_duplicates`, `missing`: likewise.
        folder: where data, models and a `setup.txt` for the command line are kept; None: in a temporary folder, which
            is deleted with the model.
        overwrite: overwrite another model, or other data, in `folder`.
        on_step: called with each training step; training ends when it returns True.
        on_save: called after each save with the metrics of the validation users.
        verbose: print which column is used as what, and the progress of training.
        settings: any setting by its key, with underscores for dots: `learning_rate=.001`, `loss_negatives=512`.

    Returns:
        The model. After Ctrl-C: the best one so far, by the validation users.

    Raises:
        DataError: the data cannot be used. SetupError: a setting is unknown or out of range.
        ModelError: `folder` holds a model of another algorithm, or other data.
        TrainingError: a loss is not a number, or training ended before the networks of an ensemble were joined.
    """
    check_fork("fit")
    home = None if folder is not None else Home()
    where = path_of(home.name if home is not None else folder or ".")
    gap = duration(session_gap) if isinstance(session_gap, str) else session_gap
    said: dict[str, Any] = {"user": user, "item": item, "time": time, "reward": reward, "event": event}
    said |= {"titles": titles, "attributes": attributes, "tags": tags, "context": context, "missing": missing}
    options = Options(**said, fill=fill, keep_duplicates=keep_duplicates, session_gap=gap, time_format=time_format)
    tables, dataset = _opened(data, items, options)
    setup = _setup(algorithm, settings, where)
    if setup.acts:
        raise SetupError(
            f"{setup.algorithm.name} learns by acting in a world here, and not from data; train it by "
            "wn.simulate(setup, world), or leave world out and name an algorithm that learns from data (next_item)"
        )
    # Otherwise a notebook shows each line as a block of its own.
    people = Plain(soft_wrap=True, highlight=False, quiet=not verbose, force_jupyter=False)
    if tables is not None:
        lines = (*tables.told(dataset), *(f"warning: {one}" for one in tables.warnings))
        people.print("\n".join(map(in_python, lines)))
    setup = _recommending_again(setup, dataset, people)
    state = State(dataset, setup)
    agent = Agent(setup, state.space)
    environment = Environment(agent, state, setup, force=overwrite, on_step=on_step, on_save=on_save, quiet=not verbose)
    if not overwrite:
        checkpoint.spare(setup, dataset.name, dataset.catalogue)
        spare_data(setup.data, dataset)
    frame: dict[str, Any] = {"columns": tables.columns if tables else {}, "time_format": time_format}
    _keep(where, tables or dataset.to_tables(), setup, framed(**frame))
    report = environment.train_agent()
    if report.saved != setup.model_paths:
        raise TrainingError(
            "training ended before the ensemble's networks were joined, so there is no model; if `folder` was "
            f"given, `what-next train {SETUP} --resume` there goes on"
        )
    policy = LearnedPolicy.load(setup.model_copy(update={"train": False}), dataset)  # as the command line opens it
    model = Model(policy, setup, training=report, home=home, **frame)
    people.print(replace(report, saved=()))
    if report.stopped:
        people.print(f"stopped before its end; this is the best so far: {model!r}")
    return model


@told_in_python()
@own_modes()
@own_draws()
def load(path: str | Path, data: Dataset | None = None, *, algorithm: type[Algorithm] | None = None) -> Model:
    """A trained model: `load("models/").recommend(history=[...])`.

    Args:
        path: the folder that `Model.save` or `fit` wrote, or an agent's file with its catalogue beside it.
        data: histories by user id, with the same catalogue; None: the data in the folder, if any. Without data,
            histories are given as item ids.
        algorithm: the class of an algorithm of your own, which a setup cannot name.

    Raises:
        ModelError: a file is missing, damaged, from a newer version, or belongs to another model; or the algorithm is
            unknown.
        CatalogueError: the data set has another catalogue.
        SetupError: `algorithm` is no class of an algorithm.
    """
    check_fork("load")
    path = path_of(path)
    kept = path / DATA
    if not isinstance(data, Dataset | None):
        raise DataError(
            f"{type(data).__name__} found where a Dataset is expected; make it by what_next.Dataset.from_frame"
        )
    if algorithm is not None and not (isinstance(algorithm, type) and issubclass(algorithm, Algorithm)):
        raise SetupError(
            f"algorithm is {algorithm!r:.200}; expected the class of an algorithm of your own; leave it out for an "
            "algorithm that the file can name"
        )
    if path.is_dir():
        if not (path / AGENT).is_file():
            raise ModelError(f"{path}: holds no model, which would be {AGENT} there; name the agent's file itself")
        data = data if data is not None or not kept.is_file() else Dataset.read(kept)
        path = path / AGENT
    policy = LearnedPolicy.load(path, data, algorithm=algorithm)
    setup = read_manifest(path, "agent").made_by(algorithm)
    paths = {"data": kept, "model_agent_path": path, "model_critic_path": critic_beside(path)}
    changed = setup.model_copy(update={"train": False, "log": None, "track": None} | paths)
    return Model(policy, changed, **frame_of(path.with_name(FRAME)))


def _opened(data: Any, items: Any, options: Options) -> tuple[Tables | None, Dataset]:
    """The data set, and the tables that it was imported from; None for a data set that was imported before."""
    if isinstance(data, Dataset):
        return None, data
    if isinstance(data, str | Path):
        path = path_of(data)
        if "what_next.format" in footer_of(path):
            return None, Dataset.read(path)
        tables = import_files([path], None if items is None else path_of(items), options)
    else:
        for given in [data] if items is None else [data, items]:
            if not is_frame(given):
                lazy = "; collect it first" if isinstance(given, pl.LazyFrame) else ""
                raise DataError(
                    f"{type(given).__name__} found where a frame of pandas, Polars or pyarrow, or the path of a file "
                    f"is expected{lazy}"
                )
        log = Source(to_polars(data).lazy(), Path("the frame"))
        table = None if items is None else Source(to_polars(items).lazy(), Path("the frame of items"))
        tables = clean([log], table, options)
    return tables, Dataset.from_tables(tables, Path(DATA).stem)


def _recommending_again(setup: Setup, dataset: Dataset, people: Plain) -> Setup:
    """The setup, in which items of the history are recommended, too, if most events are repeats and nothing else was
    said; told to `people`."""
    if not dataset.repetitive or "seen" in setup.evaluation.model_fields_set or setup.algorithm.by_attributes:
        return setup
    people.print(
        f"evaluation_seen True: {dataset.repeats:.0%} of the events are of an item that the user had before; "
        "evaluation_seen=False recommends and judges new items alone"
    )
    return setup.model_copy(update={"evaluation": setup.evaluation.model_copy(update={"seen": True})})


def _setup(algorithm: str | Algorithm | type[Algorithm], settings: Settings, folder: Path) -> Setup:
    """The setup of a run with its files in `folder`."""
    chosen = algorithm.model_validate({}) if isinstance(algorithm, type) else algorithm
    known = type(chosen) if isinstance(chosen, Algorithm) else ALGORITHMS.get(chosen)
    networks = {network for some in (known.updates.values() if known else ()) for network in some}
    others = networks - {"encoder", "actor"} or (known and known.networks is not Algorithm.networks)  # not all learn
    own = {
        "train": True,
        "data": folder / DATA,
        "model_agent_path": folder / AGENT,
        "model_critic_path": folder / "critic.safetensors" if others else None,
    }
    values = nested({**settings}, chosen) | own
    setup = Setup.model_validate(values, context={"entries": {}, "source": "fit"})
    if setup.cluster.name:
        raise SetupError(f"cluster is {setup.cluster.name!r}, which only the command line supports; leave it out")
    return setup


def _keep(folder: Path, tables: Tables, setup: Setup, frame: bytes) -> None:
    """Write the data, how its columns were read, and a setup for the command line if that can name the algorithm."""
    save(tables, folder / DATA)
    own = {folder / SETUP: written(setup, folder).encode()} if setup.algorithm.name in ALGORITHMS else {}
    write_files({folder / FRAME: frame, **own})
