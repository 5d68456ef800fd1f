"""Where learning from the log could go wrong without a word: it goes right, or says so."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import what_next as wn
from what_next import Agent, Dataset, Environment, State
from what_next.algorithms import NextItem
from what_next.errors import ModelError, SetupError

from .conftest import SetupOf, listening
from .test_log_learning import log_setup, run, weights


class TestEdges:
    def test_target_networks_start_from_the_model_that_training_starts_from(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        from what_next.training.checkpoint import start_from

        setup = log_setup(setup_of, tmp_path, algorithm="dqn")
        run(dataset, setup)
        agent = Agent(setup, State(dataset, setup).space).wake_agent()
        start_from(agent, setup.model_agent_path)
        for name, target in agent.targets.items():
            for one, other in zip(target.parameters(), agent.nets[name].parameters(), strict=True):
                assert torch.equal(one, other)

    def test_inference_takes_ranked_items_in_order(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = log_setup(setup_of, tmp_path, algorithm="dqn")
        environment, _ = run(dataset, setup)
        asked = setup.model_copy(update={"train": False, "user": ("u3",), "slots": 3})
        found = Environment(Agent(asked, environment.state.space), environment.state, asked).run_sim()
        assert [item.propensity for item in found.recommendations[0].items] == [1, 1, 1]

    def test_a_critic_that_recommends_is_loaded_though_the_setup_names_none(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = log_setup(setup_of, tmp_path, algorithm="dqn")
        environment, _ = run(dataset, setup)
        plain = log_setup(setup_of, tmp_path, model_critic_path=None)
        assert "critic" in Agent(plain, environment.state.space).ready_agent().nets
        assert wn.load(setup.model_agent_path).recommend(history=["i1", "i2"], k=3).items

    def test_one_history_is_a_step_at_least(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        _, report = run(dataset, log_setup(setup_of, tmp_path, epochs=1))
        assert len(report.steps) == 1

    def test_a_part_of_a_group_keeps_the_usual_split(self, setup_of: SetupOf, tmp_path: Path) -> None:
        assert log_setup(setup_of, tmp_path, split={"seed": 3}).split.name == "leave_last_out"
        assert log_setup(setup_of, tmp_path, split={"name": "users", "seed": 3}).split.name == "users"

    def test_a_resumed_run_does_not_lose_the_best(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = log_setup(setup_of, tmp_path, passes=3, patience=5, save_every=60, learning_rate=1e-2)
        run(dataset, setup)
        watched = Environment(Agent(setup, State(dataset, setup).space), State(dataset, setup), setup, resume=True)
        report = watched.run_sim()
        from what_next.training.artefacts import read_manifest

        assert read_manifest(setup.model_agent_path).metrics["valid"]["ndcg@10"] == report.valid["ndcg@10"]

    def test_resuming_on_another_split_is_refused(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = log_setup(setup_of, tmp_path)
        run(dataset, setup)
        log, items = listening(events=39)
        other = Dataset.from_frame(log, items, name="other")
        state = State(other, setup)
        state.space = State(dataset, setup).space
        with pytest.raises(ModelError, match="trained on split"):
            Environment(Agent(setup, state.space), state, setup, resume=True).run_sim()

    def test_an_algorithm_that_only_python_knows_is_loaded_too(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        class Mine(NextItem):
            """A name that no setup file may use."""

            name: Literal["mine"] = "mine"  # type: ignore[assignment]

        setup = log_setup(setup_of, tmp_path, algorithm=Mine())
        environment, _ = run(dataset, setup)
        assert Agent(setup, environment.state.space).ready_agent().setup.algorithm.name == "mine"

    @pytest.mark.medium
    def test_rows_that_are_moved_alone_resume_bit_for_bit(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("what_next.training.encoder_learner.SPARSE", 10)
        loss = {"name": "sampled_softmax", "negatives": 16}
        whole, _ = run(dataset, log_setup(setup_of, tmp_path / "whole", loss=loss, patience=None))
        assert "encoder:rows" in whole.agent.optimisers
        setup = log_setup(setup_of, tmp_path / "parts", loss=loss, patience=None)
        environment = Environment(Agent(setup, State(dataset, setup).space), State(dataset, setup), setup)
        environment.done = lambda: environment.agent.steps >= 5  # type: ignore[method-assign]
        environment.run_sim()
        resumed, _ = run(dataset, setup, resume=True)
        one, other = weights(whole.agent), weights(resumed.agent)
        assert all(torch.equal(one[name], other[name]) for name in one)
        cql = log_setup(setup_of, tmp_path / "cql", algorithm="cql", loss={"name": "gbce", "negatives": 16})
        assert "encoder:rows" not in run(dataset, cql)[0].agent.optimisers

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"monitor": "spread"}, "allowed: ndcg@10, hr@10 or dcg@10"),
            ({"model": "transformer", "dim": 15}, "allowed: even numbers"),
            ({"algorithm": "whatnext", "model": "gru"}, "allowed: lstm"),
            ({"algorithm": "whatnext", "monitor": "ndcg@10"}, "allowed: spread"),
        ],
    )
    def test_settings_that_mean_nothing_are_refused(
        self, setup_of: SetupOf, tmp_path: Path, changes: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(SetupError, match=told):
            log_setup(setup_of, tmp_path, **changes)

    def test_inputs_that_the_log_lacks_are_refused(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, _ = listening()
        bare = Dataset.from_frame(log.select("user_id", "item_id"), name="bare")
        for name, told in (("rewards", "no reward column.*kinds of events are no input"), ("gaps", "no times")):
            with pytest.raises(SetupError, match=told):
                State(bare, log_setup(setup_of, tmp_path, inputs={name: True}))

    def test_patience_without_anybody_to_measure_on_is_refused(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        split = {"name": "users", "validation": 0.0}
        with pytest.raises(SetupError, match="no validation users"):
            run(dataset, log_setup(setup_of, tmp_path, patience=3, split=split))


TWICE = """
import sys
from pathlib import Path
import what_next as wn
for compiled in ("no", "yes"):
    overrides = [f"compile={compiled}", "precision=fp32", "dropout=0", "dim=16", "passes=3", "batch_size=16"]
    text = f"train, yes, data, {sys.argv[1]}, algorithm, next_item, model_agent_path, agent.safetensors"
    report = wn.Environment.from_setup(wn.Setup.from_text(text, sys.argv[2], overrides)).run_sim()
    print(*(step.losses["actor"] for step in report.steps))
"""


@pytest.mark.slow
def test_a_compiled_encoder_learns_the_same(log_file: Path, tmp_path: Path) -> None:
    # In a process of its own, since the compiler cannot look through the checks of types that the tests switch on.
    command = [sys.executable, "-c", TWICE, str(log_file), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    plain, compiled = ([float(loss) for loss in line.split()] for line in told)
    assert len(plain) > 3, plain
    assert compiled == pytest.approx(plain, rel=1e-4)
