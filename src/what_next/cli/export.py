"""`what-next export`: the encoder as ONNX."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from what_next.agent import Agent
from what_next.cli.data import Json
from what_next.cli.guard import emit
from what_next.cli.model import SetupFile
from what_next.inference.export import export as write
from what_next.settings import Setup
from what_next.training.artefacts import catalogue_path, read_manifest, read_models


def export(
    setup: SetupFile,
    to: Annotated[Path, typer.Option(help="The ONNX file to write; that of single steps is written beside it.")] = Path(
        "encoder.onnx"
    ),
    as_json: Json = False,
) -> int:
    """Write encoder and actor as ONNX: a graph of whole histories, and one of single steps."""
    settings = Setup.read(setup, ["train=no"]).model_copy(update={"model_critic_path": None})
    path = settings.model_agent_path
    agent = Agent(settings, read_models(path).space).ready_agent()
    done = write(agent, read_manifest(path, "agent"), to)
    if as_json:
        files = {graph: str(file) for graph, file in done.files.items()}
        signature = {"inputs": dict(done.inputs), "outputs": dict(done.outputs)}
        emit({"files": files, **signature, "scores": done.scores, "metadata": dict(done.metadata)})
        return 0
    say = Console(soft_wrap=True, highlight=False).print
    for graph, file in done.files.items():
        say(f"{file}: {', '.join(done.inputs[graph])} -> {', '.join(done.outputs[graph])}", markup=False)
    say(f"items are counted in the order of {catalogue_path(path)}", markup=False)
    if not done.scores:
        say("the algorithm puts the best items in order anew, so that there are points, but no scores", markup=False)
    return 0
