"""TensorBoard and MLflow (`track`): settings, curves, what was measured, the model's card, and how it was judged.

Both libraries are asked to write where they would by themselves: TensorBoard into a folder beside the log of training,
MLflow where MLFLOW_TRACKING_URI says.
"""

import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from what_next.errors import MissingExtraError, SetupError, line_console, without_secrets
from what_next.settings import Setup
from what_next.settings.reference import flat
from what_next.training.artefacts import read_manifest
from what_next.training.card import HERE

EXPERIMENT = "what-next"
"""The experiment of MLflow that runs go to, unless MLFLOW_EXPERIMENT_NAME names another."""
RUN = "what_next.run"
"""MLflow's tag with our own id of a run, by which a run that is resumed or judged is found again."""
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""MLflow's name for how often it asks a server that does not answer."""
LONGEST = 500
"""Characters of a setting's value that MLflow takes."""


def _settings(setup: Setup) -> dict[str, str]:
    own = {name: value for name, value in setup.as_json().items() if name not in HERE}
    return {key: str(value)[:LONGEST] for key, value in flat(own) if value not in (None, [], ())}


class TensorBoard:
    """A run as TensorBoard shows it: `add` takes numbers by name, `close` the card, which is empty where it failed."""

    def __init__(self, setup: Setup, run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        log = setup.log_path.with_suffix("")
        self.writer = SummaryWriter(str(log.with_name(f"{log.name}.tensorboard")))
        rows = "\n".join(f"| {key} | {value} |" for key, value in _settings(setup).items())
        self.writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}", 0)

    def add(self, values: Mapping[str, float], histories: int) -> None:
        """Numbers by name, after so many histories."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, histories)

    def tell(self, name: str, text: str) -> None:
        """A page of Markdown."""
        self.writer.add_text(name, text, 0)
        self.writer.flush()

    def close(self, card: str) -> None:
        """The run is over; the card of its model is empty where it failed."""
        self.tell("model card", card)
        self.writer.close()


class MLflow:
    """A run as MLflow shows it, with the same methods."""

    def __init__(self, setup: Setup, run: str) -> None:
        os.environ.setdefault(RETRIES, "4")  # half a minute; by MLflow's own 7 nothing is told for five
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
        for first in range(0, len(params), 100):  # as many as MLflow takes at once
            self.client.log_batch(self.run, params=params[first : first + 100])

    def add(self, values: Mapping[str, float], histories: int) -> None:
        """Numbers by name, in which MLflow has no `@`, after so many histories."""
        now = int(time.time() * 1000)
        named = {name.replace("@", "_at_"): float(value) for name, value in values.items()}
        metrics = [self.metric(name, value, now, histories) for name, value in named.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def tell(self, name: str, text: str) -> None:
        """A page of Markdown."""
        self.client.log_text(self.run, text, f"{name}.md")

    def close(self, card: str) -> None:
        """The run is over; the card of its model is empty where it failed."""
        self.tell("README", card)
        self.client.set_terminated(self.run, "FINISHED" if card else "FAILED")


class Board:
    """Where a run is shown, with the same methods; what fails there later on is told once, and ends nothing else."""

    def __init__(self, setup: Setup, run: str) -> None:
        """Begin.

        Raises:
            SetupError: the library cannot begin: its server does not answer, say.
            MissingExtraError: what the library needs is not installed.
        """
        self.name = setup.track
        try:
            kind: type[TensorBoard | MLflow] = TensorBoard if self.name == "tensorboard" else MLflow
            self.shown: TensorBoard | MLflow | None = kind(setup, run)
        except ImportError as error:  # there is MLflow, say, and not what it keeps runs in
            raise MissingExtraError(
                (error.name or str(error)).partition(".")[0], "track", f"`track, {self.name}`"
            ) from error
        except Exception as error:  # libraries have errors of their own
            raise SetupError(
                f"track, {self.name}: the run cannot be shown there ({_first(error)}); see that it can be reached, or "
                "leave `track` out"
            ) from error

    def add(self, values: Mapping[str, float], histories: int) -> None:
        """Numbers by name, after so many histories."""
        self._try(lambda shown: shown.add(values, histories))

    def tell(self, name: str, text: str) -> None:
        """A page of Markdown."""
        self._try(lambda shown: shown.tell(name, text))

    def close(self, card: str) -> None:
        """The run is over; the card of its model is empty where it failed."""
        self._try(lambda shown: shown.close(card))

    def _try(self, do: Callable[[TensorBoard | MLflow], None]) -> None:
        if self.shown is None:
            return
        try:
            do(self.shown)
        except Exception as error:  # a run of hours is worth more than its curves
            self.shown = None
            told = f"warning: track, {self.name}: {_first(error)}; from here on the run is not shown there"
            line_console().print(told, highlight=False)


def _first(error: Exception) -> str:
    return without_secrets(next(iter(str(error).splitlines()), type(error).__name__))


def board_of(setup: Setup, run: str) -> Board | None:
    """What the setup's `track` names; `run`: our own id of the run."""
    return None if setup.track is None else Board(setup, run)


def add_results(setup: Setup, *results: Mapping[str, Any] | None) -> None:
    """What judging found (`evaluate_next`) joins the model's run: the agent's means, and the whole table."""
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
    """A mean with its interval, and how many users it is of."""
    return "{mean:.4g} [{low:.4g}, {high:.4g}], n {n:,}".format(**one) if one else ""


def check(setup: Setup) -> None:
    """Raises a `MissingExtraError` where the library of the setup's `track` is not installed."""
    if setup.track is not None and find_spec(setup.track) is None:
        raise MissingExtraError(setup.track, "track", f"`track, {setup.track}`")
