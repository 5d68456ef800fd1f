"""An agent as ONNX files."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from what_next.agent import Agent
from what_next.data.files import check_paths, write_files
from what_next.errors import MissingExtraError, ModelError
from what_next.inference.export.graphs import Read, ReadHistory, ReadStep
from what_next.training.artefacts import Manifest

OPSET = 20
LIMIT = 2**31 - 1
"""Most bytes of an ONNX file, whose sizes are signed 32-bit numbers."""

Graph = Literal["history", "step"]


@dataclass(frozen=True)
class Exported:
    """The files that `export` wrote.

    Attributes:
        files: by graph: `history` reads whole histories, `step` one more event.
        inputs, outputs: the names of each graph's inputs and outputs, in order.
        scores: whether the graphs output scores of all items; not for an algorithm that reranks the best items.
        metadata: stored in both files.
    """

    files: Mapping[Graph, Path]
    inputs: Mapping[Graph, tuple[str, ...]]
    outputs: Mapping[Graph, tuple[str, ...]]
    scores: bool
    metadata: Mapping[str, str]


def export(agent: Agent, manifest: Manifest, to: Path) -> Exported:
    """Write `encoder.onnx` and, beside it, `encoder.step.onnx`, together.

    Inputs of the first: `items` [batch time], positions in the catalogue (the order of the item table beside the
    agent's file), at least one event, padded at the end with -1; `rewards` and `seconds` (since the previous event; 0
    for the first) of the same shape, if the agent reads them. Outputs: `points` [batch columns]; `scores` [batch
    items]. The second reads one event per row ([batch]) and the state `state_0`, `state_1`, ..., zeros at first, and
    also outputs the next state `next_0`, `next_1`, ... A session is fully described by its row of the state.

    Args:
        agent: ready for inference.
        manifest: of the agent's file; run, version and catalogue are written into the graphs.
        to: the first file; its name ends with `.onnx`.

    Raises:
        MissingExtraError: ONNX is not installed.
        ModelError: the algorithm or encoder cannot be written as ONNX, or is too large for it.
        SaveError: a file could not be written; existing files are unchanged.
    """
    for library in ("onnx", "onnxscript"):
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, "onnx", "what-next export")
    _check(agent)
    if to.suffix != ".onnx":
        raise ModelError(f"{to}: the name of an ONNX file ends with .onnx; take {to.stem or 'encoder'}.onnx")
    paths: dict[Graph, Path] = {"history": to, "step": to.with_suffix(".step.onnx")}
    check_paths(paths.values())
    reads: dict[Graph, Read] = {"history": ReadHistory(agent).eval(), "step": ReadStep(agent).eval()}
    about, inputs, outputs, contents = _metadata(agent, manifest, reads["history"]), {}, {}, {}
    for graph, read in reads.items():
        inputs[graph], outputs[graph] = _names(graph, read)
        contents[paths[graph]] = _serialised(read, graph, inputs[graph], outputs[graph], about | {"graph": graph})
    write_files(contents)
    return Exported(paths, inputs, outputs, reads["history"].has_scores, about)


def _check(agent: Agent) -> None:
    """Raise a `ModelError` if the agent reads something that the graphs have no input for."""
    if agent.setup.algorithm.by_attributes:
        raise ModelError(
            f"algorithm {agent.setup.algorithm.name}: its actor reads statistics of the events so far (means and "
            "spreads, in double precision) that are no part of its network, so that there is no graph of items alone; "
            "export an agent that learns from the log (`what-next list algorithms`)"
        )
    if agent.setup.inputs.context:
        raise ModelError(
            "the agent reads the context of events (inputs.context), for which the graphs have no input; serve it with "
            "`what-next serve`, or train without"
        )


def _metadata(agent: Agent, manifest: Manifest, read: Read) -> dict[str, str]:
    setup = agent.setup
    about = {
        "run": manifest.run,
        "version": manifest.package,
        "catalogue": manifest.catalogue,
        "algorithm": setup.algorithm.name,
        "encoder": setup.model,
        "items": str(len(agent.space.catalogue)),
        "rescored": str(setup.algorithm.rescored),
    }
    # Callers pass the mean reward for an event whose reward is unknown.
    return about | ({"reward_mean": str(read.center)} if read.rewards else {})


def _names(graph: Graph, read: Read) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs and of the outputs."""
    carried = range(len(read.start(1)) if graph == "step" else 0)
    inputs = ("items", *read.numbers, *(f"state_{place}" for place in carried))
    return inputs, ("points", *["scores"] * read.has_scores, *(f"next_{place}" for place in carried))


def _serialised(
    read: Read, graph: Graph, inputs: tuple[str, ...], outputs: tuple[str, ...], about: Mapping[str, str]
) -> bytes:
    """The graph as ONNX bytes, for batch and time of any length, without the exporter's source locations."""
    shape = (3, 5) if graph == "history" else (3,)
    # Clones, because the exporter would merge inputs that share a tensor.
    state = [part.clone() for part in read.start(3)] if graph == "step" else []
    like, device = read.item_vectors.new_zeros, read.item_vectors.device
    examples = (torch.zeros(shape, dtype=torch.int64, device=device), *(like(shape) for _ in read.numbers), *state)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    axes = {0: batch, 1: time} if graph == "history" else {0: batch}
    rest = tuple(axes if place < len(read.numbers) else {0: batch} for place in range(len(examples) - 1))
    shapes = (axes, rest) if rest else (axes,)
    model = _traced(read, examples, shapes, inputs, outputs, about)
    fixed = [
        one.name
        for one in model.graph.input
        if not all(dim.dim_param for dim in one.type.tensor_type.shape.dim[: len(axes)])
    ]
    if fixed:
        raise ModelError(f"encoder {about['encoder']}: its graph reads {', '.join(fixed)} of one length alone")
    _anonymous(model.graph)
    del model.metadata_props[:]
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    if model.ByteSize() > LIMIT:
        raise ModelError(f"the model has {model.ByteSize():,} bytes, and an ONNX file holds {LIMIT:,} at most")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _traced(
    read: Read,
    examples: tuple[torch.Tensor, ...],
    shapes: tuple[Any, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    about: Mapping[str, str],
) -> Any:
    """The graph as an ONNX model object; a `ModelError` if the exporter fails."""
    try:
        with torch.no_grad(), _quietly():
            program = torch.onnx.export(
                read, examples, dynamo=True, dynamic_shapes=shapes, input_names=list(inputs),
                output_names=list(outputs), opset_version=OPSET, verbose=False,
            )  # fmt: skip
        assert program is not None
        return program.model_proto
    except Exception as error:  # torch.onnx wraps errors in its own classes, by stage
        root = error.__cause__ or error
        reason = (str(root).strip().splitlines() or [type(root).__name__])[0]
        raise ModelError(
            f"algorithm {about['algorithm']}, encoder {about['encoder']}: cannot be written as ONNX ({reason}); "
            "serve it with `what-next serve` instead"
        ) from error


def _anonymous(graph: Any) -> None:
    """Remove the exporter's notes about source files."""
    graph.ClearField("metadata_props")
    graph.doc_string = ""
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.doc_string = ""


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporter's warnings about optional libraries, and clear the dispatch cache before and after.

    While it traces, the exporter replaces the kernels of recurrent layers, and the dispatcher caches the kernel that it
    found. Without clearing, a second export in one process would trace PyTorch's own kernel, which fixes the time.
    """
    _forget()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        _forget()


def _forget() -> None:
    for kernel in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        getattr(kernel, "_dispatch_cache", {}).clear()
