"""TensorBoard and MLflow (`track`): settings, curves, validation measures, the model card, and evaluation results.

Both libraries write to their usual place: TensorBoard into a folder beside the log of training, MLflow where
MLFLOW_TRACKING_URI says.
"""

import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from what_next.errors import Lines, MissingExtraError, SetupError, without_secrets
from what_next.settings import Setup
from what_next.settings.reference import flat
from what_next.training.artefacts import read_manifest
from what_next.training.card import HERE

EXPERIMENT = "what-next"
"""The MLflow experiment of the runs, unless MLFLOW_EXPERIMENT_NAME names another."""
RUN = "what_next.run"
"""MLflow tag with our own run id, by which a resumed or evaluated run finds its MLflow run."""
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""MLflow's variable for how often it retries a request."""
LONGEST = 500
"""Most characters of a parameter's value in MLflow."""


def _settings(setup: Setup) -> dict[str, str]:
    own = {name: value for name, value in setup.as_json().items() if name not in HERE}
    return {key: str(value)[:LONGEST] for key, value in flat(own) if value not in (None, [], ())}


class TensorBoard:
    """A run in TensorBoard: `add` logs numbers by name, `close` the model card, which is empty if the run failed."""

    def __init__(self, setup: Setup, run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        log = setup.log_path.with_suffix("")
        self.writer = SummaryWriter(str(log.with_name(f"{log.name}.tensorboard")))
        rows = "\n".join(f"| {key} | {value} |" for key, value in _settings(setup).items())
        self.writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}", 0)

    def add(self, values: Mapping[str, float], histories: int) -> None:
        """Log numbers by name, after `histories` histories."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, histories)

    def tell(self, name: str, text: str) -> None:
        """Log a page of Markdown."""
        self.writer.add_text(name, text, 0)
        self.writer.flush()

    def close(self, card: str) -> None:
        """End the run; the model card is empty if it failed."""
        self.tell("model card", card)
        self.writer.close()


class MLflow:
    """A run in MLflow, with the same methods."""

    def __init__(self, setup: Setup, run: str) -> None:
        os.environ.setdefault(RETRIES, "4")  # half a minute; MLflow's own 7 wait five minutes before an error
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self.client, self.metric = MlflowClient(), Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        if found := self.client.search_runs([experiment], f"tags.`{RUN}` = '{run}'", max_results=1):
            self.run = found[0].info.run_id
            return
        title = f"{setup.algorithm.name} on {setup.data.stem}"
        self.run = self.client.create_run(experiment, run_name=title, tags={RUN: run}).info.run_id
        params = [Param(key, value) for key, value in _settings(setup).items()]
        for first in range(0, len(params), 100):  # MLflow's limit per call
            self.client.log_batch(self.run, params=params[first : first + 100])

    def add(self, values: Mapping[str, float], histories: int) -> None:
        """Log numbers by name, after `histories` histories; MLflow allows no `@` in names."""
        now = int(time.time() * 1000)
        named = {name.replace("@", "_at_"): float(value) for name, value in values.items()}
        metrics = [self.metric(name, value, now, histories) for name, value in named.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def tell(self, name: str, text: str) -> None:
        """Log a page of Markdown."""
        self.client.log_text(self.run, text, f"{name}.md")

    def close(self, card: str) -> None:
        """End the run; the model card is empty if it failed."""
        self.tell("README", card)
        self.client.set_terminated(self.run, "FINISHED" if card else "FAILED")


class Board:
    """The board that the setup names, with the same methods; a later failure is reported once and ends nothing else."""

    def __init__(self, setup: Setup, run: str) -> None:
        """Begin.

        Raises:
            SetupError: the library cannot begin, for instance because its server does not answer.
            MissingExtraError: a library is not installed.
        """
        self.name = setup.track
        try:
            kind: type[TensorBoard | MLflow] = TensorBoard if self.name == "tensorboard" else MLflow
            self.shown: TensorBoard | MLflow | None = kind(setup, run)
        except ImportError as error:  # MLflow may be installed without its store's package
            raise MissingExtraError(
                (error.name or str(error)).partition(".")[0], "track", f"`track, {self.name}`"
            ) from error
        except Exception as error:  # each library has its own errors
            raise SetupError(
                f"track, {self.name}: the run cannot be shown there ({_first(error)}); see that it can be reached, or "
                "leave `track` out"
            ) from error

    def add(self, values: Mapping[str, float], histories: int) -> None:
        """Log numbers by name, after `histories` histories."""
        self._try(lambda shown: shown.add(values, histories))

    def tell(self, name: str, text: str) -> None:
        """Log a page of Markdown."""
        self._try(lambda shown: shown.tell(name, text))

    def close(self, card: str) -> None:
        """End the run; the model card is empty if it failed."""
        self._try(lambda shown: shown.close(card))

    def _try(self, do: Callable[[TensorBoard | MLflow], None]) -> None:
        if self.shown is None:
            return
        try:
            do(self.shown)
        except Exception as error:  # a run of hours is worth more than its curves
            self.shown = None
            told = f"warning: track, {self.name}: {_first(error)}; from here on the run is not shown there"
            Lines().print(told, highlight=False)


def _first(error: Exception) -> str:
    return without_secrets(next(iter(str(error).splitlines()), type(error).__name__))


def board_of(setup: Setup, run: str) -> Board | None:
    """The board that the setup's `track` names; `run`: our own id of the run."""
    return None if setup.track is None else Board(setup, run)


def add_results(setup: Setup, *results: Mapping[str, Any] | None) -> None:
    """Add evaluation results (`evaluate_next`) to the model's run: the agent's means, and the whole table."""
    manifest = read_manifest(setup.model_agent_path, "agent")
    board = board_of(setup, manifest.run)
    for found in results:
        if board is None or found is None:
            continue
        part, policies = found["split"]["part"], found["policies"]
        board.add({f"{part}_{metric}": one["mean"] for metric, one in policies["agent"].items()}, manifest.histories)
        metrics = dict.fromkeys(metric for one in policies.values() for metric in one)
        rows = [["metric", *policies], ["---"] * (1 + len(policies))]
        rows += [[metric, *(_text(one.get(metric)) for one in policies.values())] for metric in metrics]
        text = "\n".join(f"|{'|'.join(row)}|" for row in rows)
        board.tell(f"{part}_{'next_items' if 'targets' in found else 'windows'}", text)


def _text(one: Mapping[str, float] | None) -> str:
    """A mean with its interval and its number of users."""
    return "{mean:.4g} [{low:.4g}, {high:.4g}], n {n:,}".format(**one) if one else ""


def check(setup: Setup) -> None:
    """Raise a `MissingExtraError` if the library of the setup's `track` is not installed."""
    if setup.track is not None and find_spec(setup.track) is None:
        raise MissingExtraError(setup.track, "track", f"`track, {setup.track}`")
