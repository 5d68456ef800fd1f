"""The trained model of the Python interface."""

import json
import os
import shutil
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

import narwhals as nw
import numpy as np
import polars as pl

from what_next.data import html
from what_next.data.dataset import Dataset, is_frame, to_polars
from what_next.data.files import beside, path_of, write_files
from what_next.data.forks import check_fork
from what_next.data.importing.columns import as_reward, recognise
from what_next.data.importing.ids import as_text, check_text, several
from what_next.data.importing.times import read_times
from what_next.data.space import CLOCK
from what_next.data.splits import ON, Part
from what_next.environment import Report
from what_next.errors import CatalogueError, DataError, ModelError, some, told_in_python
from what_next.experiments import by_windows, evaluate_next, evaluate_windows
from what_next.experiments.baselines import EVERY
from what_next.inference.modes import own_draws, own_modes
from what_next.inference.recommendation import Recommendation
from what_next.inference.recommender import Recommender, like
from what_next.policy import LearnedPolicy
from what_next.python.results import Page, Results
from what_next.reporting import check, write_report
from what_next.reporting.bars import Bars
from what_next.settings import ALGORITHMS, Setup
from what_next.settings.reference import written
from what_next.training import checkpoint
from what_next.training.artefacts import Manifest, catalogue_path, read_manifest, resume_path
from what_next.training.boards import add_results
from what_next.training.card import card_path, people
from what_next.training.refit import refit_on

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame
else:
    IntoDataFrame = Any  # a protocol that cannot be checked at run time

AGENT, DATA, SETUP, PAGE, FRAME = "agent.safetensors", "data.parquet", "setup.txt", "report.html", "frame.json"
"""The files of a model's folder."""
TIME = "\0time"
"""The column of times while a frame is put in order."""
Frame = TypeVar("Frame", bound=IntoDataFrame)


class Home:
    """A temporary folder, deleted with this object; copies and forked processes do not delete it."""

    def __init__(self) -> None:
        self.name = mkdtemp(prefix="what-next-")
        weakref.finalize(self, _remove, self.name, os.getpid())


def _remove(folder: str, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


class Model(Recommender):
    """A trained agent with its data: it recommends, can be evaluated on held-out events, and can be saved.

    Attributes:
        setup: all settings, and the paths of the files.
        training: the report of training (`Report`); None for a loaded model.
        columns: the column of each role in the training frame; `time_format`: the format of its times, if given.
        manifest: the manifest of its file when it was trained or opened.
    """

    def __init__(
        self,
        policy: LearnedPolicy,
        setup: Setup,
        *,
        training: Report | None = None,
        columns: Mapping[str, str] | None = None,
        time_format: str | None = None,
        home: Home | None = None,
    ) -> None:
        """`home`: the temporary folder of its files, deleted with the model."""
        super().__init__(policy)
        self.setup, self.training, self._home = setup, training, home
        self.columns, self.time_format = dict(columns or {}), time_format
        self.manifest = read_manifest(setup.model_agent_path, "agent")
        self._judged: dict[tuple[object, ...], Results] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_judged": {}}  # the results hold the data a second time

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "manifest" not in state:  # pickled by a version without manifests
            agent = self.policy.agent
            try:
                self.manifest = read_manifest(self.setup.model_agent_path, "agent")
            except ModelError:
                self.manifest = Manifest.of(self.setup, agent.space, "", agent.histories, {})

    def __repr__(self) -> str:
        facts = "; ".join(f"{name} {value}" if name != "algorithm" else value for name, value in self._facts().items())
        return f"Model({facts})"

    def _repr_html_(self) -> str:
        return html.table("Model", (), list(self._facts().items()))

    def _facts(self) -> dict[str, str]:
        """Short facts about the model, by name."""
        agent, dataset = self.policy.agent, self.state.dataset
        found = {"algorithm": self.setup.algorithm.name, "items": f"{len(self.catalogue):,}"}
        if dataset.users:
            found |= {"users": f"{dataset.users:,}", "events": f"{dataset.events:,}"}
        found["trained on"] = f"{agent.histories:,} {agent.setup.unit}"
        if valid := self.manifest.metrics.get("valid"):
            measured = ", ".join(f"{name} {value:.4g}" for name, value in valid.items() if name != "users")
            found["measured"] = f"{measured}, on {people(valid)}, by events that training never saw"
        if on := refit_on(self.manifest):
            found["then trained on"] = ON[on]
        try:
            folder = self.agent_file().parent
            found["kept in"] = "a temporary folder (save it)" if self._home else str(folder)
        except ModelError:
            found["kept in"] = "no file any more"
        return found

    # Recommending

    @overload
    def recommend(
        self,
        history: Sequence[str | int] | str | int | None = None,
        k: int = 10,
        *,
        user: str | int | None = None,
        seen: bool | None = None,
        context: dict[str, float] | None = None,
        allowed: Iterable[str | int] | None = None,
        blocked: Iterable[str | int] = (),
        rng: np.random.Generator | int | None = None,
    ) -> Recommendation: ...

    @overload
    def recommend(
        self,
        history: Frame,
        k: int = 10,
        *,
        seen: bool | None = None,
        allowed: Iterable[str | int] | None = None,
        blocked: Iterable[str | int] = (),
        rng: np.random.Generator | int | None = None,
    ) -> Frame: ...

    @told_in_python()
    def recommend(
        self,
        history: Any = None,
        k: int = 10,
        *,
        user: str | int | None = None,
        seen: bool | None = None,
        context: dict[str, float] | None = None,
        allowed: Iterable[str | int] | None = None,
        blocked: Iterable[str | int] = (),
        rng: np.random.Generator | int | None = None,
    ) -> Any:
        """Recommend the next items.

        Args:
            history: one of: item ids, oldest first (a list, a series, an array); the id of a user of the data; a frame
                of events of any users, with columns named as in training or by usual names, and sorted by its times if
                it has any, which are parsed as in training, as are its rewards and context (for a list, the usual ones
                are assumed); a frame with only the users of the data.
            k: number of items for each user.
            user: see `Recommender.recommend`; `seen`, `context`, `allowed`, `blocked`, `rng`: likewise.

        Returns:
            A `Recommendation`; for a frame, a frame `user_id, rank, item_id, title` in the same library.

        Raises:
            CatalogueError: the user, or every item of the history, is unknown; or nothing is permitted.
            DataError: a column of the frame or a time in it is missing, or an argument is out of range.
        """
        try:
            rng = None if rng is None else np.random.default_rng(rng)
        except (TypeError, ValueError):
            raise DataError(f"rng is {rng!r}; expected a whole number of at least 0, or a generator of NumPy") from None
        how: dict[str, Any] = {"seen": seen, "allowed": allowed, "blocked": blocked, "rng": rng}
        if is_frame(history):
            if user is not None or context:
                raise DataError("a frame has users of its own, and no context; leave user and context out")
            check_fork("recommend, given a frame,")
            return like(history, self._for_frame(to_polars(history), k, how))
        if isinstance(nw.from_native(history, pass_through=True), nw.LazyFrame):
            raise DataError("the frame is lazy, so its rows are not there yet; collect it first")
        if isinstance(history, set | frozenset):
            raise DataError("a set has no order; give the items of a history oldest first, as a list")
        if isinstance(history, str | int | float | np.number):
            if user is not None:
                raise DataError(f"{history!r} is taken for a user, and user is given, too; a history is a list of ids")
            history, user = None, as_text(history)
        if user is not None and history is None and not self.state.dataset.users:
            raise CatalogueError("the model was loaded without a log, so no user is known; give a history of item ids")
        given = None if history is None else several(history)
        return super().recommend(given, k, user=user, context=context, **how)

    def _for_frame(self, frame: pl.DataFrame, k: int, how: dict[str, Any]) -> pl.DataFrame:
        for name in frame.columns:
            check_text(frame.lazy(), name, "the frame")
        frame = frame.with_columns(pl.selectors.binary().cast(pl.String))  # ids as bytes, which `fit` reads as text
        given = {role: name for role, name in self.columns.items() if name in frame.columns}
        roles = ("user", "item", "time", *(["reward"] if "reward" in self.state.space.event_names else []))
        found = recognise(frame.columns, roles, (), given, "the frame")
        if "user" not in found or ("item" not in found and frame.width > 1):
            lacking = "user" if "user" not in found else "item"
            own = self.columns.get(lacking, f"{lacking}_id")
            raise DataError(f"the frame has no column for the {lacking}; it has {some(frame.columns)}; call it {own!r}")
        users = frame[found["user"]]
        if "item" not in found:
            wanted = users.drop_nulls().unique(maintain_order=True)
            return self.recommend_all(k, users=self.users(wanted.to_list()), **how)
        events = frame.select(pl.col(found["user"]).alias("user_id"), pl.col(found["item"]).alias("item_id"))
        events = events.with_columns(self._numbers(frame, found))
        if "time" in found:
            events = self._in_order(events, frame, found["time"])
            events = (
                events.rename({TIME: "timestamp"}) if CLOCK[0] in self.state.space.event_names else events.drop(TIME)
            )
        return self.with_events(events, k, **how)

    def _numbers(self, frame: pl.DataFrame, found: Mapping[str, str]) -> list[pl.Series]:
        """What the frame tells of its events besides their items, as far as the model was trained with it.

        Raises:
            DataError: the model reads what the frame does not tell.
        """
        space, inputs = self.state.space, self.setup.inputs
        for role, setting, read in (("reward", "inputs_rewards", inputs.rewards), ("time", "inputs_gaps", inputs.gaps)):
            if read and role not in found:
                own = self.columns.get(role, {"time": "timestamp"}.get(role, role))
                raise DataError(
                    f"the frame has no column for the {role}, which the model reads ({setting}); it has "
                    f"{some(frame.columns)}; call it {own!r}"
                )
        names = {name: name for name in space.context_names if name in frame.columns and name not in found.values()}
        names |= {"reward": found["reward"]} if "reward" in found else {}
        numbers = [(name, as_reward(column, frame.schema).cast(pl.Float32)) for name, column in names.items()]
        return list(frame.select(pl.when(one.is_finite()).then(one).alias(name) for name, one in numbers))

    def _in_order(self, events: pl.DataFrame, frame: pl.DataFrame, column: str) -> pl.DataFrame:
        """The events sorted by the frame's column of times; a `DataError` if an event has no valid time."""
        times = read_times(frame.lazy(), column, self.time_format, "the frame")
        # A column without values is read as a literal, which alone would be one row.
        read = frame.select(pl.col(column), times.value.alias(TIME))[TIME]
        dated = events.with_columns(read)
        lost = dated.select(pl.col(TIME).is_null() & ~pl.any_horizontal(pl.col("user_id", "item_id").is_null()))
        if count := int(lost.to_series().sum()):
            row = int(lost.to_series().arg_true()[0])
            raise DataError(
                f"the frame: column {column!r} holds {frame[column][row]!r} in row {row + 1}, which is not a time "
                f"({count:,} of {len(frame):,} rows), so the order of events is not known; correct these rows, or "
                "leave them or the column out"
            )
        return dated.sort(TIME, maintain_order=True)

    # Judging

    @told_in_python()
    @own_modes()
    @own_draws()
    def evaluate(
        self, part: Part = "test", *, baselines: Collection[str] | None = None, anew: bool = False, verbose: bool = True
    ) -> Results:
        """Evaluate it on held-out events, beside baselines and chance, as `what-next evaluate` does.

        Args:
            part: "test" for reporting, "validation" for tuning.
            baselines: names of the baselines to compare with; None: all; (): none.
            anew: evaluate again even if there are results for the same arguments.
            verbose: show progress.

        Raises:
            ModelError: the model has no data to evaluate on, or its files no longer exist (`agent_file`).
            DataError: no user can be evaluated on.
        """
        check_fork("evaluate")
        if part not in get_args(Part):
            raise DataError(f"part is {part!r}; expected {' or '.join(get_args(Part))}")
        baselines = (baselines,) if isinstance(baselines, str) else baselines
        given = None if baselines is None else tuple(baselines)
        wanted, key = EVERY if given is None else given, (part, given)
        if unknown := set(wanted) - set(EVERY):
            raise DataError(
                f"baselines: there is no {some(sorted(unknown))}; there are {', '.join(EVERY)}; () is for none"
            )
        if anew or key not in self._judged:
            setup = self._with_data()
            with Bars(silent=not verbose) as stages:
                windows = evaluate_windows(setup, part, stages=stages) if by_windows(setup) else None
                comparison = evaluate_next(setup, part, baselines=wanted, stages=stages, anew=anew)
            self._judged[key] = Results(comparison, windows)
            add_results(setup, windows, comparison.result)
        return self._judged[key]

    @told_in_python()
    def report(self, path: str | Path | None = None, *, part: Part = "test", verbose: bool = True) -> Page:
        """The results of `evaluate` as an HTML page with charts, which a notebook shows.

        Args:
            path: of the page; None: `report.html` beside the model.
            part: see `evaluate`; `verbose`: likewise.

        Raises:
            ModelError: see `evaluate`.
            MissingExtraError: Matplotlib or Jinja is not installed.
        """
        path = self.agent_file().with_name(PAGE) if path is None else path_of(path)
        check(path)
        results = self.evaluate(part, verbose=verbose)
        write_report(results.comparison, path, windows=results.windows)
        return Page(path, path.read_text(encoding="utf-8"))

    def _with_data(self) -> Setup:
        self.agent_file()
        setup = self.setup.model_copy(update={"train": False})
        if not setup.data.exists():
            raise ModelError(
                f"{setup.model_agent_path}: was saved without its data, so there is nobody to judge it on; load a "
                "folder that was saved with data=True"
            )
        return setup

    # Keeping

    def agent_file(self) -> Path:
        """The agent's file, after a check that it still holds this model.

        Raises:
            ModelError: the files are gone, or another training overwrote them.
        """
        path, mine = self.setup.model_agent_path, self.manifest
        for one in (path, catalogue_path(path)):
            if not one.is_file():
                raise ModelError(
                    f"{one}: the model's files are gone, because a temporary folder is deleted with the model that "
                    "`fit` returned; fit again, and save the model (or give `fit` a folder)"
                )
        found = read_manifest(path, "agent")
        if (found.run, found.histories, found.metrics) != (mine.run, mine.histories, mine.metrics):
            raise ModelError(
                f"{path}: holds another model now, which a later training wrote over this one; fit or load again, and "
                "give each fit a folder of its own"
            )
        return path

    @told_in_python()
    def save(self, folder: str | Path, *, data: bool = True, overwrite: bool = False) -> Path:
        """Write the model into a folder, for `load` and, if a setup can name its algorithm, for the command line.

        Args:
            folder: created if it is missing.
            data: include the event log, which evaluation and user ids need.
            overwrite: overwrite a model of another algorithm or of other data. With data=False, data in the folder are
                deleted; an existing setup.txt is kept.

        Raises:
            ModelError: the folder holds such a model or data; or the model's own files are gone (`agent_file`).
            SaveError: a file cannot be written; existing files stay intact.
        """
        folder, old = path_of(folder), self.setup
        self.agent_file()
        critic = old.model_critic_path and folder / old.model_critic_path.name
        moved = {"data": folder / DATA, "model_agent_path": folder / AGENT, "model_critic_path": critic, "log": None}
        setup = old.model_copy(update=moved)
        data = data and old.data.is_file()  # a large log is a folder, and is not copied
        if not overwrite:
            checkpoint.spare(setup, self.state.dataset.name, self.catalogue)
            spare_data(setup.data, self.state.dataset if data else None)
        files = {critic: old.model_critic_path} if old.model_critic_path and critic else {}
        if data:
            files |= {beside(setup.data, "items"): beside(old.data, "items"), setup.data: old.data}
        files[setup.log_path] = old.log_path
        for of in (card_path, catalogue_path, resume_path):
            files[of(setup.model_agent_path)] = of(old.model_agent_path)
        files[setup.model_agent_path] = old.model_agent_path  # last, because its presence makes the folder a model
        content = {new: path.read_bytes() for new, path in files.items() if path.is_file() and path != new}
        if data and setup.algorithm.name in ALGORITHMS:
            content[folder / SETUP] = written(setup.model_copy(update={"train": True}), folder).encode()
        content[folder / FRAME] = framed(self.columns, self.time_format)
        write_files(content)
        if overwrite and not data and setup.data.is_file():
            for gone in (setup.data, beside(setup.data, "items")):
                gone.unlink(missing_ok=True)
        return folder


def spare_data(path: Path, dataset: Dataset | None) -> None:
    """Refuse to overwrite other data, or to leave data beside a model that is saved without any (None).

    Raises:
        ModelError: other data are there.
    """
    if not path.is_file():
        return
    found = "exists, and the model is to be saved without data"
    if dataset is not None:
        try:
            there = Dataset.read(path)
        except DataError:  # damaged
            return
        mine, theirs = ((one.digest, one.catalogue.hash(), one.user_ids.to_list()) for one in (dataset, there))
        if mine == theirs:
            return
        found = "holds other data than these"
    raise ModelError(f"{path}: {found}; give another folder, or overwrite=True, which replaces what is there")


def framed(columns: Mapping[str, str], time_format: str | None) -> bytes:
    """The facts about the training frame that are saved, so that later frames are read alike, as JSON."""
    return json.dumps({"columns": dict(columns), "time_format": time_format}).encode()


def frame_of(path: Path) -> dict[str, Any]:
    """The facts that `framed` wrote, read from beside a model's file; empty where there is no such file (old models).

    Raises:
        ModelError: the file is damaged.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        form = found["time_format"]
        return {
            "columns": {str(role): str(name) for role, name in found["columns"].items()},
            "time_format": None if form is None else str(form),
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is damaged ({error}); save the model again, or remove this file") from None
