"""A search for better settings, judged on the validation users alone, by Optuna; the trials are kept (`study`)."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from what_next.agent import Agent
from what_next.data.batches import LEAST
from what_next.data.files import scratch
from what_next.environment import Environment
from what_next.errors import DataError, SetupError, TrainingError
from what_next.experiments.study import is_shared, is_too_many, opened, shown, with_a_place
from what_next.settings import Setup
from what_next.sources import LogSource, source_of
from what_next.state import State

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Value = int | float | str | bool
Settings = dict[str, Value]

COMMON: Mapping[str, Sequence[Value]] = {
    "learning_rate": (3e-4, 1e-2),
    "dropout": (0.0, 0.5),
    "weight_decay": (0.0, 1e-4, 1e-3, 1e-2, 1e-1),
    "batch_size": (8, 16, 32, 64, 128),
}
"""What is searched for every algorithm: a pair of numbers is a range, other values are choices."""
TARGETS = (512, 1024, 2048, 4096, 8192)
"""Of `batch_targets`, which is searched where no `batch_size` is set, and the log has events for larger batches."""
MAGNITUDES = 10
"""A range whose ends are so many times apart is searched by orders of magnitude."""
OWN = "algorithm."
"""What begins the keys of an algorithm's own settings."""
RANDOM = 5
"""How many trials are drawn at random before the sampler learns from them (TPE: Bergstra et al. 2011)."""
NEVER = 2**62
"""Histories between two saves of a trial that nobody will load."""
WAIT = 1.0
"""Seconds between two looks at the trials of other processes, when no more are to be begun."""
MIN_RESOURCE, REDUCTION = 2, 2
"""Of successive halving: validations before a trial may be given up, and of how many one goes on. With 2 and 2 a search
on ml-100k came to the same score in 41 to 54 % of the time of one that gives up none (docs/scale.md, three seeds); with
1 and 4, Optuna's own, in 78 % (one seed): the order after one validation is not that at the end."""
PRUNERS = ("halving", "hyperband")
"""Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943; in the asynchronous form of Li et al. 2020, arXiv
1810.05934), and Hyperband (Li et al. 2018, arXiv 1603.06560), which hedges between several of those."""
FREE = {
    "train", "data", "model_agent_path", "model_critic_path", "log", "user", "slots", "save_every", "threads",
    "world", "server", "loop",  # no trial reads them, and later versions add to them
}  # fmt: skip
"""Settings in which the runs that share a study may differ."""


@dataclass(frozen=True)
class Trial:
    """One training and how it was judged; `score` is minus infinity where the loss was not finite."""

    number: int
    settings: Settings
    score: float
    seconds: float

    def __str__(self) -> str:
        shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in self.settings.values())
        settings = ", ".join(f"{key}={value}" for key, value in zip(self.settings, shown, strict=True))
        return f"{self.score:.4f} with {settings}"


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        study: the file that holds it, or the URL of a database (without its password); `monitor`: what was measured.
        trials: those that were judged, in order; the first is of the setup's own values.
        stopped: by an interrupt; the same call goes on.
    """

    study: Path | str
    monitor: str
    trials: tuple[Trial, ...]
    stopped: bool

    @property
    def best(self) -> Trial | None:
        """The first of the best trials; None where none was judged."""
        return max(self.trials, key=lambda trial: trial.score, default=None)

    def as_json(self) -> dict[str, Any]:
        """What `what-next tune` prints with `--json`."""
        trials = [asdict(one) | {"score": one.score if np.isfinite(one.score) else None} for one in self.trials]
        best = None if self.best is None else self.best.settings
        about = {"study": str(self.study), "monitor": self.monitor, "best": best}
        return about | {"trials": trials, "stopped": self.stopped}


def tune(
    setup: Setup,
    trials: int,
    *,
    seconds: float = 60.0,
    study: Path | str | None = None,
    search: Mapping[str, Sequence[Value]] | None = None,
    prune: str | None = None,
    state: State | None = None,
    tell: Callable[[Trial, Trial], None] = lambda trial, best: None,
) -> Tuned:
    """Try settings until the study holds so many judged trials.

    The first trial is the setup as it is. The draws follow the setup's seed and the number of judged trials, so that a
    study that was interrupted goes on as if it had not been (as far as training for a time is the same twice).

    Args:
        setup: what is tuned; see `search_space` for the settings that change.
        trials: in all, those that the study holds already included.
        seconds: of training in each trial, at most; the learning rate falls over them.
        study: its file, or the URL of a database that several processes share; None: beside the agent's.
        search: these settings alone, each in a range (a pair of numbers) or among other values; None: `search_space`.
        prune: how trials are given up that others were better than after as many validations: one of `PRUNERS`; None:
            none is.
        state: of the setup, where the data are in memory; None: they are read.
        tell: called with each judged trial, and the best so far.

    Raises:
        MissingExtraError: Optuna is not installed.
        DataError: there is no validation user to judge on.
        SetupError: the study is of other settings, or trials are to be pruned without validation.
        SaveError: the study cannot be kept there, or another search works on its file.
    """
    if prune and not setup.patience:
        raise SetupError("trials are pruned by validation during training, and patience is none; set patience=2")
    path = study or setup.model_agent_path.with_suffix(".tuning.jsonl")
    state = state or State.from_setup(setup)
    setup = decided(setup, state)
    by = {"monitor": state.monitored} if state.monitored == "dcg@10" else {}  # which earlier versions had not
    alone = {"search": {key: list(where) for key, where in search.items()}} if search else {}
    made_for = {**_fixed(setup), **by, **alone, "seconds": seconds, "split": state.split.hash}
    place, stopped, space = shown(path), False, search_space(setup, state, search)
    with opened(path, made_for, FREE) as kept:
        while len(judged := _judged(kept)) < trials and not stopped:
            if is_shared(path) and len(with_a_place(kept, seconds)) >= trials:
                time.sleep(WAIT)  # others have the last ones; one of them may be killed
                continue
            _prepare(kept, setup, space, len(judged), shared=is_shared(path), prune=prune)
            most = trials if is_shared(path) else None
            number = _try(kept, setup, state, space, seconds, most, pruned=prune is not None)
            stopped = number is None
            if not stopped:
                found = Tuned(place, state.monitored, tuple(_judged(kept)), False)
                if found.best is not None and len(found.trials) > len(judged):
                    tell(found.trials[-1], found.best)
        return Tuned(place, state.monitored, tuple(_judged(kept)), stopped)


def search_space(
    setup: Setup, state: State | None = None, search: Mapping[str, Sequence[Value]] | None = None
) -> "dict[str, BaseDistribution]":
    """What is searched (`searched`), or `search` in its place; the setup's own values are always among it.

    A range for a setting that is no number now (none, say) is left out.
    """
    found = searched(setup, state) if search is None else search
    own = own_values(setup, found)
    return {
        key: distribution(where, own[key])
        for key, where in found.items()
        if not _is_range(where) or _is_number(own[key])
    }


def searched(setup: Setup, state: State | None = None) -> dict[str, Sequence[Value]]:
    """`COMMON` and what the algorithm's `search` says.

    An algorithm's `search` (a class variable) maps names of its fields to a pair of numbers, which is a range, or to
    other values to choose from. A name that is none of its fields is a setting of the setup (`discount`, say).
    `batch_targets` is left out where the state's log is too small for that to change a batch.
    """
    found = dict(COMMON)
    if setup.batch_size is None:
        del found["batch_size"]
        if state is None or not _bounded(setup, state):
            found["batch_targets"] = TARGETS
    for name, where in type(setup.algorithm).search.items():
        found[OWN + name if name in type(setup.algorithm).model_fields else name] = where
    return found


def _bounded(setup: Setup, state: State) -> bool:
    """Whether a pass over the log has so few targets that its batches hold less than any of `TARGETS` (`LEAST`)."""
    targets = int((state.split.known - 1).clip(0).sum())
    few = targets <= LEAST * min(setup.batch_targets, *TARGETS)
    return few and isinstance(source_of(state), LogSource)


def distribution(where: Sequence[Value], own: Value) -> "BaseDistribution":
    """Where a setting is sought, widened to hold the setup's own value; whole numbers where both ends are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not _is_range(where):
        return CategoricalDistribution(tuple(dict.fromkeys([*where, own])))
    low, high = min(where[0], own), max(where[1], own)
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=low > 0 and high >= MAGNITUDES * low)  # type: ignore[arg-type, operator]


def decided(setup: Setup, state: State) -> Setup:
    """The setup with a dropout, where it leaves that to the log: it is sought in a range."""
    return setup.model_copy(update={"dropout": setup.dropped(state.space)})


def own_values(setup: Setup, keys: Iterable[str]) -> dict[str, Any]:
    """What a setup has for some settings."""
    return {
        key: getattr(setup.algorithm, key.removeprefix(OWN)) if key.startswith(OWN) else getattr(setup, key)
        for key in keys
    }


def with_settings(setup: Setup, settings: Mapping[str, Value]) -> Setup:
    """The setup with some settings changed; keys of its algorithm begin with `algorithm.`."""
    of_algorithm = {key.removeprefix(OWN): value for key, value in settings.items() if key.startswith(OWN)}
    of_setup = {key: value for key, value in settings.items() if not key.startswith(OWN)}
    return setup.model_copy(update={**of_setup, "algorithm": setup.algorithm.model_copy(update=of_algorithm)})


def _fixed(setup: Setup) -> dict[str, Any]:
    """The settings that every trial of a study shares, and the values that the first one has; as JSON."""
    values = {key: value for key, value in setup.as_json().items() if key not in FREE}
    fixed: dict[str, Any] = json.loads(json.dumps(values))
    return fixed


def _judged(study: "optuna.Study") -> list[Trial]:
    """The trials that came to an end, in order, numbered from 1."""
    import optuna

    ends = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    found = [one for one in study.get_trials(deepcopy=False) if one.state in ends]
    return [
        Trial(number, dict(one.params), -np.inf if one.value is None else one.value, one.user_attrs["seconds"])
        for number, one in enumerate(found, start=1)
    ]


def _prepare(
    study: "optuna.Study",
    setup: Setup,
    space: "dict[str, BaseDistribution]",
    judged: int,
    *,
    shared: bool,
    prune: str | None,
) -> None:
    """What draws the next trial, and what gives it up: the setup's own values come first.

    The draws follow the seed and the trials so far; of a shared study they are anybody's, since two processes that ask
    at once would draw the same.
    """
    import optuna

    own = own_values(setup, space)

    class Sampler(optuna.samplers.TPESampler):
        """The first trial of a shared study is the setup's own, whoever takes it."""

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            if shared and trial.number == 0:
                return own[param_name]
            return super().sample_independent(study, trial, param_name, param_distribution)

    seed = None if shared else int(np.random.default_rng([setup.seed, judged]).integers(2**31))
    study.sampler = Sampler(n_startup_trials=RANDOM, constant_liar=shared, seed=seed)
    if not (judged or shared):
        study.enqueue_trial(own)
    study.pruner = optuna.pruners.NopPruner()
    if prune == "halving":
        study.pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=MIN_RESOURCE, reduction_factor=REDUCTION)
    elif prune == "hyperband":
        study.pruner = optuna.pruners.HyperbandPruner(max_resource=setup.passes or "auto")


class _TooManyError(Exception):
    """Other processes have the last trials."""


def _try(
    study: "optuna.Study",
    setup: Setup,
    state: State,
    space: "dict[str, BaseDistribution]",
    seconds: float,
    most: int | None,
    *,
    pruned: bool,
) -> int | None:
    """Take the next trial, train and judge it, and tell the study; its number, or None where an interrupt ended it.

    `most`: trials in all of a study that several processes share.
    """
    import optuna

    asked: list[optuna.Trial] = []

    def objective(trial: optuna.Trial) -> float:
        asked.append(trial)
        if most is not None and is_too_many(study, trial.number, most, seconds):
            trial.set_user_attr("seconds", 0.0)
            raise _TooManyError
        settings = {name: _suggested(trial, name, where) for name, where in space.items()}
        start = time.perf_counter()
        try:
            score = _score(with_settings(setup, settings), state, seconds, *([trial] if pruned else []))
        except TrainingError:
            score = -np.inf
        finally:
            trial.set_user_attr("seconds", time.perf_counter() - start)
        if score is None:
            raise KeyboardInterrupt
        if not np.isfinite(score):  # counts as worse than all others
            raise optuna.TrialPruned
        return score

    try:
        study.optimize(objective, n_trials=1, catch=_TooManyError)
    except KeyboardInterrupt:
        if most is not None and asked:  # others go on: it is theirs
            study.enqueue_trial(asked[0].params)
        return None
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
        late = isinstance(error, optuna.exceptions.UpdateFinishedTrialError) or "Cannot tell" in str(error)
        if most is None or not late:  # late: it gave no sign of life for so long that another process took it up
            raise
    return asked[0].number


def _suggested(trial: "optuna.Trial", name: str, where: "BaseDistribution") -> Any:
    """What a trial has for a setting."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(where, CategoricalDistribution):
        return trial.suggest_categorical(name, where.choices)
    if isinstance(where, IntDistribution):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    assert isinstance(where, FloatDistribution)
    return trial.suggest_float(name, where.low, where.high, log=where.log)


class _Watched(Environment):
    """Tells a trial what the validation users say, once for each save; the trial may be given up by that."""

    trial: "optuna.Trial"
    told, times = -1, 0

    def validate(self) -> dict[str, float]:
        """See `Environment.validate`."""
        import optuna

        found = super().validate()
        if self.agent.steps > self.told and found:
            self.told, self.times = self.agent.steps, self.times + 1
            by = self.state.monitored
            self.trial.report(next(value for name, value in found.items() if name.startswith(by)), self.times)
            if self.trial.should_prune():
                raise optuna.TrialPruned
        return found


def _score(setup: Setup, state: State, seconds: float, trial: "optuna.Trial | None" = None) -> float | None:
    """The monitor after a training in a folder that is then gone; None where an interrupt ended it.

    `trial` hears of every validation, and may give up.
    """
    with scratch("tune") as to:
        paths = {"model_agent_path": to / "agent.safetensors", "model_critic_path": to / "critic.safetensors"}
        saves = {} if setup.patience is not None else {"save_every": NEVER}
        alone = {"train": True, "seconds": seconds, "log": None, "refit": "no"}
        setup = setup.model_copy(update=alone | paths | saves)
        learned = State(state.dataset, setup, state.space)
        kind = Environment if trial is None else _Watched
        environment = kind(Agent(setup, learned.space), learned, setup)
        if isinstance(environment, _Watched) and trial is not None:
            environment.trial = trial
        report = environment.train_agent()
    if report.interrupted:
        return None
    for name, value in (report.valid or {}).items():
        if name.startswith(state.monitored):
            return value
    if (people := len(state.split.validation)) and state.monitored == "spread":
        why = (
            f"none of the {people:,} validation users has {setup.reward.spread.window} events, the length of a window; "
            "lower reward.spread.window"
        )
    else:
        why = "no validation user can be judged on; see `split`"
    raise DataError(f"{setup.data}: {why}, so there is nothing to tune by")


def _is_range(where: Sequence[Value]) -> bool:
    return len(where) == 2 and all(map(_is_number, where))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
