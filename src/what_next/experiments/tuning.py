"""Hyper-parameter search on the validation users by Optuna; the trials are kept (`study`)."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
"""Search space for every algorithm: a pair of numbers is a range, other values are choices."""
TARGETS = (512, 1024, 2048, 4096, 8192)
"""Candidate values of `batch_targets`, searched unless `batch_size` is set or the log is too small for large
batches."""
MAGNITUDES = 10
"""A range whose ends are at least this factor apart is searched on a logarithmic scale."""
OWN = "algorithm."
"""Prefix of the keys of an algorithm's own settings."""
RANDOM = 5
"""Random trials before the sampler learns from trials (TPE: Bergstra et al. 2011)."""
NEVER = 2**62
"""`save_every` for a trial whose checkpoints nobody will load."""
WAIT = 1.0
"""Seconds between polls of other processes' trials, once no more trials are to begin."""
MIN_RESOURCE, REDUCTION = 2, 2
"""Successive halving: validations before a trial may be stopped, and the reduction factor. With 2 and 2 a search on
ml-100k reached the same score in 41 to 54 % of the time of a search without pruning (docs/scale.md, three seeds); with
1 and 4, Optuna's defaults, in 78 % (one seed): the order after one validation differs from the final one."""
Pruner = Literal["halving", "hyperband"]
"""Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943; in the asynchronous form of Li et al. 2020, arXiv
1810.05934), and Hyperband (Li et al. 2018, arXiv 1603.06560), which hedges between several reduction schedules."""
FREE = {
    "train", "data", "model_agent_path", "model_critic_path", "log", "user", "slots", "save_every", "threads",
    "world", "server", "loop",  # no trial reads them, and later versions add to them
}  # fmt: skip
"""Settings that may differ between runs that share a study."""


@dataclass(frozen=True)
class Trial:
    """One training and its score, which is minus infinity where the loss was not finite."""

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
    """The result of a search.

    Attributes:
        study: the file that holds it, or the URL of a database (without its password); `monitor`: the metric.
        trials: the judged trials, in order; the first has the setup's own values.
        stopped: whether it was interrupted; the same call continues it.
    """

    study: Path | str
    monitor: str
    trials: tuple[Trial, ...]
    stopped: bool

    @property
    def best(self) -> Trial | None:
        """The first of the best trials; None if none was judged."""
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
    prune: Pruner | None = None,
    state: State | None = None,
    tell: Callable[[Trial, Trial], None] = lambda trial, best: None,
) -> Tuned:
    """Try settings until the study holds `trials` judged trials.

    The first trial has the setup's own values. Draws depend only on the setup's seed and the number of judged trials,
    so an interrupted study continues as if it had not been interrupted (as far as timed training is reproducible).

    Args:
        setup: the setup to tune; see `search_space` for the settings that change.
        trials: in total, including those that the study holds already.
        seconds: longest training of each trial; the learning rate decays over this time.
        study: its file, or the URL of a database that several processes share; None: beside the agent's.
        search: only these settings, each in a range (a pair of numbers) or among other values; None: `search_space`.
        prune: how to stop trials early that are worse than others after as many validations: see `Pruner`; None: no
            pruning.
        state: of the setup, if the data is in memory already; None: it is read.
        tell: called with each judged trial, and the best so far.

    Raises:
        MissingExtraError: Optuna is not installed.
        DataError: there is no validation user to judge on.
        SetupError: the study has other settings, or `prune` is given without validation during training.
        SaveError: the study cannot be kept there, or another search uses its file.
    """
    if prune and not setup.patience:
        raise SetupError("trials are pruned by validation during training, and patience is none; set patience=2")
    path = study or setup.model_agent_path.with_suffix(".tuning.jsonl")
    state = state or State.from_setup(setup)
    setup = decided(setup, state)
    # No study of an earlier version has dcg@10.
    by = {"monitor": state.monitored} if state.monitored == "dcg@10" else {}
    alone = {"search": {key: list(where) for key, where in search.items()}} if search else {}
    made_for = {**_fixed(setup), **by, **alone, "seconds": seconds, "split": state.split.hash}
    place, stopped, space = shown(path), False, search_space(setup, state, search)
    with opened(path, made_for, FREE) as kept:
        while len(judged := _judged(kept)) < trials and not stopped:
            if is_shared(path) and len(with_a_place(kept, seconds)) >= trials:
                time.sleep(WAIT)  # other processes have the last trials; one of them may be killed
                continue
            _prepare(kept, setup, space, len(judged), shared=is_shared(path), prune=prune)
            most = trials if is_shared(path) else None
            stopped = _try(kept, setup, state, space, seconds, most, pruned=prune is not None)
            if not stopped:
                found = Tuned(place, state.monitored, tuple(_judged(kept)), False)
                if found.best is not None and len(found.trials) > len(judged):
                    tell(found.trials[-1], found.best)
        return Tuned(place, state.monitored, tuple(_judged(kept)), stopped)


def search_space(
    setup: Setup, state: State | None = None, search: Mapping[str, Sequence[Value]] | None = None
) -> "dict[str, BaseDistribution]":
    """The distributions of `searched`, or of `search` in its place; each includes the setup's own value.

    A range is left out for a setting whose value is not a number (none, say).
    """
    found = searched(setup, state) if search is None else search
    own = own_values(setup, found)
    return {
        key: distribution(where, own[key])
        for key, where in found.items()
        if not _is_range(where) or _is_number(own[key])
    }


def searched(setup: Setup, state: State | None = None) -> dict[str, Sequence[Value]]:
    """`COMMON` and the algorithm's `search`.

    An algorithm's `search` (a class variable) maps names of its fields to a pair of numbers, which is a range, or to
    other values to choose from. Names that are not its fields are settings of the setup (`discount`, say).
    `batch_targets` is left out where the state's log is too small for it to change a batch.
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
    """Whether a pass over the log has so few targets that its batches are smaller than any of `TARGETS` (`LEAST`)."""
    targets = int((state.split.known - 1).clip(0).sum())
    few = targets <= LEAST * min(setup.batch_targets, *TARGETS)
    return few and isinstance(source_of(state), LogSource)


def distribution(where: Sequence[Value], own: Value) -> "BaseDistribution":
    """The distribution of a setting, widened to include the setup's own value; integers where both ends are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not _is_range(where):
        return CategoricalDistribution(tuple(dict.fromkeys([*where, own])))
    low, high = min(where[0], own), max(where[1], own)
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=low > 0 and high >= MAGNITUDES * low)  # type: ignore[arg-type, operator]


def decided(setup: Setup, state: State) -> Setup:
    """The setup with an explicit dropout, because its search range must include the setup's own value."""
    return setup.model_copy(update={"dropout": setup.dropped(state.space)})


def own_values(setup: Setup, keys: Iterable[str]) -> dict[str, Any]:
    """The setup's values of some settings."""
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
    """The settings that all trials of a study share, and the values of the first trial; as JSON."""
    values = {key: value for key, value in setup.as_json().items() if key not in FREE}
    fixed: dict[str, Any] = json.loads(json.dumps(values))
    return fixed


def _judged(study: "optuna.Study") -> list[Trial]:
    """The completed trials, in order, numbered from 1."""
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
    prune: Pruner | None,
) -> None:
    """Set the study's sampler and pruner, and queue the setup's own values as the first trial.

    The draws depend on the seed and the trials so far; in a shared study they are not reproducible, because two
    processes that ask at the same time would draw the same.
    """
    import optuna

    own = own_values(setup, space)

    class Sampler(optuna.samplers.TPESampler):
        """Gives the first trial of a shared study the setup's own values, whichever process takes it."""

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
) -> bool:
    """Take the next trial, train and judge it, and tell the study; returns whether it was interrupted.

    `most`: trials in total in a study that several processes share.
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
            score = _score(with_settings(setup, settings), state, seconds, trial if pruned else None)
        except TrainingError:
            score = -np.inf
        finally:
            trial.set_user_attr("seconds", time.perf_counter() - start)
        if score is None:
            raise KeyboardInterrupt
        if not np.isfinite(score):  # ranks below all others
            raise optuna.TrialPruned
        return score

    try:
        study.optimize(objective, n_trials=1, catch=_TooManyError)
    except KeyboardInterrupt:
        if most is not None and asked:  # queues the trial for the other processes
            study.enqueue_trial(asked[0].params)
        return True
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
        late = isinstance(error, optuna.exceptions.UpdateFinishedTrialError) or "Cannot tell" in str(error)
        if most is None or not late:  # late: without a heartbeat for so long that another process took it over
            raise
    return False


def _suggested(trial: "optuna.Trial", name: str, where: "BaseDistribution") -> Any:
    """A trial's value of a setting."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(where, CategoricalDistribution):
        return trial.suggest_categorical(name, where.choices)
    if isinstance(where, IntDistribution):
        return trial.suggest_int(name, where.low, where.high, log=where.log)
    assert isinstance(where, FloatDistribution)
    return trial.suggest_float(name, where.low, where.high, log=where.log)


class _Watched(Environment):
    """Reports the validation metric to its trial, if it has one, at each save; the trial may be pruned by it."""

    trial: "optuna.Trial | None" = None
    told, times = -1, 0

    def validate(self) -> dict[str, float]:
        """See `Environment.validate`."""
        import optuna

        found = super().validate()
        if self.trial is not None and self.agent.steps > self.told and found:
            self.told, self.times = self.agent.steps, self.times + 1
            by = self.state.monitored
            self.trial.report(next(value for name, value in found.items() if name.startswith(by)), self.times)
            if self.trial.should_prune():
                raise optuna.TrialPruned
        return found


def _score(setup: Setup, state: State, seconds: float, trial: "optuna.Trial | None" = None) -> float | None:
    """The monitor after training in a temporary folder; None after an interrupt.

    `trial` receives every validation, and may be pruned.
    """
    with scratch("tune") as to:
        paths = {"model_agent_path": to / "agent.safetensors", "model_critic_path": to / "critic.safetensors"}
        saves = {} if setup.patience is not None else {"save_every": NEVER}
        alone = {"train": True, "seconds": seconds, "log": None, "refit": "no"}
        setup = setup.model_copy(update=alone | paths | saves)
        learned = State(state.dataset, setup, state.space)
        environment = _Watched(Agent(setup, learned.space), learned, setup)
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
