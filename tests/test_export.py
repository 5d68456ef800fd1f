"""The encoder as ONNX answers as the agent does, for histories of any length and for sessions step by step."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from what_next import Agent, Dataset, Setup, State
from what_next.baselines.counts import Rows
from what_next.errors import MissingExtraError, ModelError, SaveError
from what_next.retrieval import Exact
from what_next.training import checkpoint
from what_next.training.artefacts import Manifest
from what_next.types import History, Request

from .conftest import SetupOf, Trained
from .shapes import unchecked

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime, which checks what was written, is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

from what_next.cli.model import export as command  # noqa: E402
from what_next.inference.export import Exported, export  # noqa: E402

LENGTHS = (1, 2, 7, 40)
"""Of the histories in a batch; the last is longer than the transformer's band."""
CLOSE = 1e-4
RUN = "0123456789abcdef"


@contextmanager
def traced() -> Iterator[None]:
    """While a graph is traced, sizes are symbols, which the checks of the tests take for no numbers."""
    logging.disable(logging.INFO)  # torch.export writes thousands of lines that nobody reads
    try:
        with unchecked():
            yield
    finally:
        logging.disable(logging.NOTSET)


@dataclass(frozen=True)
class Made:
    """An agent, and the two graphs of it in another runtime."""

    agent: Agent
    state: State
    files: dict[str, Path]
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    history: Any
    step: Any


def text_of(setup: Setup) -> str:
    """What a setup file of an exported agent needs to say."""
    values = setup.model_dump(include={"data", "model_agent_path", "model_critic_path"})
    return "train, no\nalgorithm, next_item\n" + "".join(f"{key}, {value}\n" for key, value in values.items())


def written(agent: Agent, folder: Path) -> Exported:
    manifest = Manifest.of(agent.setup, agent.space, RUN, 5, {})
    with traced():
        return export(agent, manifest, folder / "encoder.onnx")


def with_linear(agent: Agent, items: int) -> None:
    """Let the linear model beside the encoder count, where there is one."""
    if linear := getattr(agent.nets["encoder"], "ridge", None):
        rng = np.random.default_rng(1)
        rank = linear.rank
        shown, strengths = rng.normal(size=(items, rank)).astype(np.float32), rng.random(rank).astype(np.float32)
        linear.learn(shown, strengths, rng.integers(0, 9, items))
        counted = Rows.counted(*rng.integers(0, items, (2, 500), np.int32), items)
        linear.learn_transitions(counted.offsets, counted.columns, counted.values)
        linear.choose(
            weight=3.0, decay=0.8, bias=0.7, replay=3.0, repeat=2.0, repeat_decay=0.9, transition=2.0,
            transition_decay=0.95, temperature=1.5,
        )  # fmt: skip


Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(dataset: Dataset, setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """What the command writes of agents that are not trained; each is made once."""
    kept: dict[str, Made] = {}

    def made(model: str, algorithm: Any = "next_item", **changes: Any) -> Made:
        name = f"{model} {algorithm} {changes}"
        if name not in kept:
            folder = tmp_path_factory.mktemp("onnx")
            values = {"algorithm": algorithm, "model": model, "max_length": 20, "layers": 2, "window": None}
            setup = setup_of(folder, **(values | changes))
            state = State(dataset, setup)
            agent = Agent(setup, state.space).wake_agent().eval()
            with_linear(agent, len(state.space.catalogue))
            checkpoint.save(agent, np.random.default_rng(0), RUN)
            (folder / "setup.txt").write_text(text_of(setup))
            with traced(), redirect_stdout(StringIO()) as told:
                command(folder / "setup.txt", folder / "encoder.onnx", ["threads=1"], as_json=True)
            said = json.loads(told.getvalue())
            files = {graph: Path(path) for graph, path in said["files"].items()}
            sessions = [runtime.InferenceSession(files[graph]) for graph in ("history", "step")]
            kept[name] = Made(agent, state, files, said["inputs"], said["outputs"], *sessions)
        return kept[name]

    return made


def histories(made: Made, lengths: tuple[int, ...] = LENGTHS) -> History:
    count = len(lengths)
    return made.state.histories(np.arange(count, dtype=np.int32), np.zeros(count, np.int64), np.array(lengths))


def numbers(made: Made, history: History) -> dict[str, np.ndarray]:
    """The inputs of the graph beside the items, as one who reads its description gives them."""
    found = {}
    if "rewards" in made.inputs["history"]:
        found["rewards"] = history.rewards
    if "seconds" in made.inputs["history"]:
        assert history.times is not None
        found["seconds"] = np.diff(history.times, axis=1, prepend=history.times[:, :1]).astype(np.float32) / 1e6
    return {name: values.astype(np.float32) for name, values in found.items()}


def wanted(made: Made, history: History) -> tuple[np.ndarray, np.ndarray]:
    """Points and scores of all items, as the agent has them."""
    proposal = made.agent.predict(history)
    assert proposal.ranked is not None
    scores = Exact(proposal.ranked.vectors, proposal.ranked.boosts).scores(proposal.points, Request())
    return proposal.points, scores.numpy()


def alike(made: Made, history: History) -> None:
    points, scores = made.history.run(
        ["points", "scores"], {"items": history.items.astype(np.int64), **numbers(made, history)}
    )
    expected = wanted(made, history)
    np.testing.assert_allclose(points, expected[0], atol=CLOSE)
    np.testing.assert_allclose(scores, expected[1], atol=CLOSE)


def zeros(made: Made, count: int) -> list[np.ndarray]:
    """The state before any event, as one who looks into the file makes it."""
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    inputs = [one for one in made.step.get_inputs() if one.name.startswith("state_")]
    return [
        np.zeros([size if isinstance(size, int) else count for size in one.shape], kinds[one.type]) for one in inputs
    ]


def stepped(made: Made, history: History) -> None:
    """Every prefix by single steps, the state carried outside; rows end at different steps."""
    count = len(history.items)
    names = [name for name in made.inputs["step"] if name.startswith("state_")]
    state = zeros(made, count)
    given = numbers(made, history)
    points, scores = (np.zeros_like(one) for one in wanted(made, history))
    for step in range(history.items.shape[1]):
        items = history.items[:, step].astype(np.int64)
        feed = {"items": items, **{name: values[:, step] for name, values in given.items()}}
        outputs = made.step.run(None, feed | dict(zip(names, state, strict=True)))
        points[items >= 0], scores[items >= 0] = (one[items >= 0] for one in outputs[:2])
        state = outputs[2:]
    for found, expected in zip((points, scores), wanted(made, history), strict=True):
        np.testing.assert_allclose(found, expected, atol=CLOSE)


CASES = [
    pytest.param("lstm", {}, id="lstm", marks=pytest.mark.slow),
    pytest.param("gru", {"inputs": {"rewards": True, "gaps": True, "items": "both"}}, id="gru with numbers"),
    pytest.param("mean", {}, id="mean", marks=pytest.mark.slow),
    pytest.param("transformer", {}, id="transformer", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "changes"), CASES)
class TestAnswers:
    @pytest.mark.medium
    def test_another_runtime_gives_the_same_points_and_scores_at_any_length(
        self, make: Make, model: str, changes: dict[str, Any]
    ) -> None:
        made = make(model, **changes)
        for lengths in (LENGTHS, (40,), (1,), (3, 3, 3)):
            alike(made, histories(made, lengths))

    @pytest.mark.medium
    def test_single_steps_with_the_carried_state_give_what_the_whole_history_gives(
        self, make: Make, model: str, changes: dict[str, Any]
    ) -> None:
        made = make(model, **changes)
        stepped(made, histories(made))


class TestFiles:
    @pytest.mark.medium
    def test_both_files_say_whose_they_are(self, make: Make) -> None:
        made = make("lstm")
        for graph, session in (("history", made.history), ("step", made.step)):
            about = session.get_modelmeta().custom_metadata_map
            assert about["run"] == RUN
            assert about["catalogue"] == made.state.space.catalogue.hash()
            assert (about["algorithm"], about["encoder"], about["graph"]) == ("next_item", "lstm", graph)
            assert about["version"]

    @pytest.mark.medium
    def test_item_vectors_are_a_table_of_the_graph(self, make: Make) -> None:
        made = make("lstm")
        tables = {one.name: tuple(one.dims) for one in onnx.load(made.files["history"]).graph.initializer}
        assert tables["item_vectors"] == (len(made.state.space.catalogue), made.agent.setup.dim)

    @pytest.mark.medium
    def test_the_files_hold_nothing_of_where_they_were_made(self, make: Make) -> None:
        made = make("lstm")
        for path in (made.files["history"], made.files["step"]):
            content = path.read_bytes()
            assert str(Path(__file__).resolve().parents[1]).encode() not in content
            assert b"site-packages" not in content

    @pytest.mark.slow
    def test_a_second_export_is_the_same_byte_for_byte_and_leaves_the_agent_as_it_was(
        self, make: Make, tmp_path: Path
    ) -> None:
        made = make("lstm")
        history = histories(made)
        before = made.agent.predict(history).points
        again = written(made.agent, tmp_path)
        assert again.files["history"].read_bytes() == made.files["history"].read_bytes()
        assert again.files["step"].read_bytes() == made.files["step"].read_bytes()
        assert np.array_equal(made.agent.predict(history).points, before)
        assert all(name.startswith("encoder") for name in (path.name for path in tmp_path.iterdir()))

    def test_a_folder_in_the_way_is_told_and_nothing_is_left(self, make: Make, tmp_path: Path) -> None:
        made = make("lstm")
        (tmp_path / "encoder.step.onnx").mkdir()
        with pytest.raises(SaveError, match=r"encoder\.step\.onnx: cannot be written"):
            written(made.agent, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["encoder.step.onnx"]


class TestRefusals:
    def test_the_founding_actor_has_no_graph_of_items_alone(self, trained: Trained, tmp_path: Path) -> None:
        agent = Agent(trained.setup, trained.state.space).ready_agent()
        with pytest.raises(ModelError, match=r"algorithm whatnext: its actor reads statistics .* learns from the log"):
            written(agent, tmp_path)

    def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = make("lstm")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"needs onnx, .*what-next-rl\[onnx\]"):
            written(made.agent, tmp_path)

    def test_another_ending_is_refused(self, make: Make, tmp_path: Path) -> None:
        made = make("lstm")
        manifest = Manifest.of(made.agent.setup, made.agent.space, "r", 0, {})
        with pytest.raises(ModelError, match=r"encoder\.txt: the name of an ONNX file ends with \.onnx; take encoder"):
            export(made.agent, manifest, tmp_path / "encoder.txt")


@pytest.mark.slow
class TestAlgorithms:
    def test_one_that_puts_the_best_in_order_anew_has_points_and_no_scores(self, make: Make) -> None:
        made = make("gru", {"name": "ddpg", "candidates": 8}, layers=1)
        assert made.outputs["history"] == ["points"]
        history = histories(made)
        (points,) = made.history.run(None, {"items": history.items.astype(np.int64)})
        np.testing.assert_allclose(points, made.agent.predict(history).points, atol=CLOSE)

    @pytest.mark.parametrize("algorithm", ["dqn", "sqn", "decision_transformer", "td3", "hac"])
    def test_each_kind_of_actor_exports(self, make: Make, algorithm: str) -> None:
        made = make("gru", algorithm, layers=1)
        history = histories(made)
        found = made.history.run(None, {"items": history.items.astype(np.int64), **numbers(made, history)})
        np.testing.assert_allclose(found[0], made.agent.predict(history).points, atol=CLOSE)
        if "scores" in made.outputs["history"]:
            np.testing.assert_allclose(found[1], wanted(made, history)[1], atol=CLOSE)


def test_the_command_says_how_to_read_the_files(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"history": ("items",), "step": ("items", "state_0")}
    outputs = {"history": ("points",), "step": ("points", "next_0")}
    files = {"history": Path("a.onnx"), "step": Path("a.step.onnx")}
    done = Exported(files, inputs, outputs, scores=False, metadata={})  # type: ignore[arg-type]
    monkeypatch.setattr("what_next.inference.export.export", lambda *_: done)
    (tmp_path / "setup.txt").write_text(text_of(trained.setup))
    command(tmp_path / "setup.txt", tmp_path / "a.onnx", ["threads=1"])
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["a.onnx: items -> points", "a.step.onnx: items, state_0 -> points, next_0"]
    assert told[2].endswith("agent.catalogue.parquet")
    assert "no scores" in told[3]


def test_masked_rows_of_a_step_keep_their_state(make: Make) -> None:
    made = make("lstm")
    state = [one + one.dtype.type(1) for one in zeros(made, 2)]
    feed = {"items": np.array([3, -1]), **{f"state_{place}": part for place, part in enumerate(state)}}
    after = made.step.run([f"next_{place}" for place in range(len(state))], feed)
    assert len(state) == 4  # two of the cells, the sums and the last items of the linear model
    for old, new in zip(state, after, strict=True):
        assert np.array_equal(old[1], new[1])
        assert not np.array_equal(old[0], new[0])
