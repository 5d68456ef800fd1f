"""What a batch tells of the log: returns over all that is known, and where histories are over."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Agent, Dataset, Setup, State
from what_next.cli.app import main
from what_next.errors import SetupError
from what_next.experiments.compare import ShuffledSource
from what_next.policy import LearnedPolicy
from what_next.sources import LogSource, source_of
from what_next.training.artefacts import resume_path
from what_next.training.checkpoint import resume
from what_next.training.transitions import Steps
from what_next.types import Batch, Factors, Transitions

from ..conftest import SetupOf, listening
from ..test_log_learning import log_setup, run


def state_of(rewards: list[list[float]], **changes: Any) -> State:
    """Users with these rewards, one event a minute, of items in turn."""
    log = pl.DataFrame(
        [
            (f"u{user}", f"i{place % 7}", 1_600_000_000 + 60 * place, reward)
            for user, row in enumerate(rewards)
            for place, reward in enumerate(row)
        ],
        ["user_id", "item_id", "timestamp", "reward"],
        orient="row",
    )
    values = {
        "train": True,
        "data": "-",
        "model_agent_path": "a",
        "model_critic_path": "c",
        "algorithm": "sqn",
        "split": {"name": "users", "test": 0.0, "validation": 0.0},
        "dim": 4,
        "batch_size": 2,
        "dropout": 0.0,
        "item_dropout": 0.0,
        "discount": 0.9,
        "device": "cpu",
        "precision": "fp32",
    }
    return State(Dataset.from_frame(log, name="log"), Setup(**(values | changes)))


def a_pass(state: State, kind: type[LogSource] = LogSource) -> dict[tuple[str, int], tuple[float, float, float]]:
    """For each event that another follows (user, place): its return, and the discounts of its transition."""
    agent, source, found = Agent(state.setup, state.space).wake_agent(), kind(state), {}
    policy = LearnedPolicy(agent, state)
    for step in range(len(source.batches)):
        history = source.windows(source.batches.batch(step))
        batch = agent.add_prediction(source.next_batch(policy, np.random.default_rng(0))).batch
        assert isinstance(batch, Transitions)
        owners = [
            (state.dataset.user_ids[int(user)], int(before) + place)
            for user, before, length in zip(history.users, history.before, history.lengths, strict=True)  # type: ignore[arg-type]
            for place in range(length - 1)
        ]
        numbers = torch.stack([batch.returns, batch.discounts, batch.step_discounts], 1).tolist()
        found |= {owner: tuple(row) for owner, row in zip(owners, numbers, strict=True)}
    return found


class TestReturns:
    def test_they_go_on_beyond_the_window(self) -> None:
        """Eleven events that earn 1 follow the ninth of twenty, one of them in its window: (1 - 0.9^11) / 0.1."""
        state = state_of([[1.0] * 20] * 2, max_length=10)
        assert sorted(LogSource(state).batches.lengths.tolist()) == [10, 10, 11, 11]
        assert a_pass(state)["u0", 8][0] == pytest.approx(6.8618940391, abs=1e-5)

    @pytest.mark.parametrize("split", ["users", "leave_last_out"])
    @pytest.mark.parametrize("length", [3, 5, 100])
    def test_they_are_the_sums_of_what_training_knows_to_be_earned_later(self, split: str, length: int) -> None:
        rng = np.random.default_rng(0)
        rewards = [rng.integers(1, 6, count).astype(float).tolist() for count in (4, 9, 17, 40)]
        settings = {"name": "users", "test": 0.0, "validation": 0.0} if split == "users" else split
        found = a_pass(state_of(rewards, max_length=length, split=settings))
        known = [row[: len(row) - 2 * (split != "users")] for row in rewards]
        assert set(found) == {(f"u{user}", place) for user, row in enumerate(known) for place in range(len(row) - 1)}
        for (user, place), (value, *_) in found.items():
            later = known[int(user[1:])][place + 1 :]
            assert value == pytest.approx(sum(0.9**step * reward for step, reward in enumerate(later)), rel=1e-5)

    def test_shuffled_rewards_are_shuffled_beyond_the_window_too(self) -> None:
        rewards = [np.random.default_rng(0).integers(1, 100, 30).astype(float).tolist()] * 2
        state = state_of(rewards, max_length=7)
        found = a_pass(state, ShuffledSource)
        later = ShuffledSource(state).shuffled[:30][9:]
        assert found["u0", 8][0] == pytest.approx(later @ 0.9 ** np.arange(21), rel=1e-5)


class TestEnds:
    LOG = ([[1.0] * 6, [1.0] * 12, [1.0] * 20],)

    def ended(self, **changes: Any) -> set[tuple[str, int]]:
        """The steps after which nothing is worth anything."""
        return {owner for owner, (_, discount, _) in a_pass(state_of(*self.LOG, **changes)).items() if discount == 0}

    def test_a_history_that_is_known_whole_ends(self) -> None:
        assert self.ended(max_length=5) == {("u0", 4), ("u1", 10), ("u2", 18)}

    def test_one_that_goes_on_in_the_events_that_are_held_back_does_not(self) -> None:
        assert self.ended(max_length=5, split="leave_last_out") == set()

    def test_after_a_moment_nobodys_does_lest_training_learn_who_comes_back(self) -> None:
        assert self.ended(split={"name": "time", "quantile": 0.8}) == set()

    def test_the_last_value_of_a_known_part_is_that_of_going_on(self) -> None:
        """Each event earns 1 and another always follows: worth 1 / (1 - 0.5), a bit more for items never tried.
        Taken for an end, the only step of each user would be worth 1."""
        state = state_of(
            [[1.0] * 4] * 8, split="leave_last_out", discount=0.5, learning_rate=0.05, algorithm="dqn", skip="no"
        )
        state.setup = state.setup.model_copy(
            update={"algorithm": state.setup.algorithm.model_copy(update={"tau": 0.2}), "weight_decay": 0.0}
        )
        agent = Agent(state.setup, state.space).wake_agent()
        agent.horizon = 1200
        source, policy = source_of(state), LearnedPolicy(agent, state)
        for _ in range(150):
            shown = agent.propagate(source.next_batch(policy, np.random.default_rng(0)))
        assert shown.value == pytest.approx(2.0, abs=0.3)

    def test_with_more_steps_a_single_one_ends_only_where_the_history_does(self) -> None:
        found = a_pass(state_of([[1.0] * 6] * 2, n_step=3, discount=0.5))
        assert [found["u0", place][1:] for place in range(5)] == [
            (0.125, 0.5),
            (0.125, 0.5),
            (0, 0.5),
            (0, 0.5),
            (0, 0),
        ]


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_reward_of_a_run_is_that_of_a_step_whatever_a_target_sums_up(n_step: int) -> None:
    state = state_of([[1.0] * 6, [3.0] * 6], n_step=n_step)
    agent = Agent(state.setup, state.space).wake_agent()
    batch = LogSource(state).next_batch(LearnedPolicy(agent, state), np.random.default_rng(0))
    assert agent.propagate(batch).reward == 2


class TestRewardsThatKnowTheFuture:
    @pytest.mark.parametrize("reward", ["spread", "profile_correlation", "return_time"])
    def test_they_are_refused_where_returns_are_read(self, dataset: Dataset, setup_of: SetupOf, reward: str) -> None:
        setup = log_setup(setup_of, Path("m"), algorithm="decision_transformer", reward={reward: {"weight": 1.0}})
        with pytest.raises(SetupError, match=rf"decision_transformer reads .* reward\.{reward} knows .* leave"):
            _ = LogSource(State(dataset, setup)).log
        _ = LogSource(
            State(dataset, log_setup(setup_of, Path("m"), algorithm="sqn", reward={reward: {"weight": 1.0}}))
        ).log

    def test_the_command_ends_with_exit_code_2(
        self, log_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "setup.txt").write_text(
            f'train, yes, data, "{log_file}", algorithm, decision_transformer, reward.spread.weight, 1, passes, 1, '
            "dim, 8, model_agent_path, agent.safetensors"
        )
        monkeypatch.setattr("sys.argv", ["what-next", "train", str(tmp_path / "setup.txt")])
        assert main() == 2
        told = capsys.readouterr()
        assert "reward.spread" in told.err + told.out
        assert "Traceback" not in told.err + told.out


@pytest.mark.medium
def test_a_run_saved_without_a_target_encoder_resumes_from_the_encoder(setup_of: SetupOf, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    dataset = Dataset.from_frame(*listening(), name="listening")
    setup = log_setup(setup_of, tmp_path, algorithm="sqn", passes=1)
    run(dataset, setup)
    path = resume_path(setup.model_agent_path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
        kept = {key: file.get_tensor(key) for key in file.keys() if not key.startswith("slow.encoder.")}  # noqa: SIM118
    save_file(kept, path, about)
    agent = Agent(setup, State(dataset, setup).space).wake_agent()
    with pytest.warns(UserWarning, match="without a target network of the encoder"):
        resume(agent, np.random.default_rng(0))
    for one, other in zip(agent.targets["encoder"].parameters(), agent.nets["encoder"].parameters(), strict=True):
        assert torch.equal(one, other)


def test_several_steps_end_with_an_episode_within_the_row() -> None:
    """A source may put sessions side by side: what a step earns is summed up to its session's end, and no further."""
    items, nothing = np.arange(5, dtype=np.int32)[None], np.zeros((1, 5, 0), np.float32)
    batch = Batch(
        items=items,
        factors=Factors(nothing, nothing[..., None], nothing),
        actions=np.array([[1, 2, 3, 4, -1]], np.int32),
        rewards=np.array([[1, 2, 4, 8, 0]], np.float32),
        mask=np.array([[True, True, True, True, False]]),
        discounts=np.array([[0.5, 0, 0.5, 0.25, 0]], np.float32),
        histories=1,
    )
    steps = Steps.of(batch, 3)
    assert steps.summed(batch).tolist() == [1 + 0.5 * 2, 2, 4 + 0.5 * 8, 8]
    assert steps.discounts.tolist() == [0, 0, 0.125, 0.25]
