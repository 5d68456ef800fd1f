"""The same setup at several weights of the spread: what is trained, on what it is judged, and who is refused."""

from pathlib import Path

import numpy as np
import pytest

from what_next import Environment, Setup, State
from what_next.errors import SetupError
from what_next.experiments.compare import tradeoff, with_spread
from what_next.experiments.models import of_seed, policy
from what_next.experiments.next_items import evaluator_of
from what_next.rewards import Diversity, Logged, Spread
from what_next.settings import RewardSettings

from .conftest import SetupOf
from .test_stages import Told


@pytest.fixture
def setup(setup_of: SetupOf, tmp_path: Path) -> Setup:
    return setup_of(tmp_path, algorithm="sqn", passes=1, split="leave_last_out")


def weights_of(setup: Setup) -> dict[str, float | None]:
    return {type(term).__name__: term.weight for term in setup.reward.terms}


@pytest.mark.medium
def test_each_weight_is_trained_once_beside_the_setup_and_judged_on_the_same_targets(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[Path] = []
    train = Environment.train_agent

    def counted(self: Environment):
        trainings.append(self.setup.model_agent_path.relative_to(tmp_path))
        return train(self)

    monkeypatch.setattr(Environment, "train_agent", counted)
    found = [tradeoff(setup, [50.0, 0.0, 50.0], seeds=[1]) for _ in range(2)][1]
    assert [str(path.parent) for path in trainings] == ["spread-0/seed-1", "spread-50/seed-1"]
    assert not setup.model_agent_path.exists()
    assert [weight for weight, _ in found] == [0, 50]
    (_, without), (_, much) = found
    assert without.result["split"] == much.result["split"]
    assert without.evaluator is much.evaluator
    assert without.result["seeds"] == [1]
    assert [one.log_path.is_file() for verdict in (without, much) for one in verdict.setups["agent"]] == [True, True]
    assert without.result["policies"] != much.result["policies"]
    assert not np.array_equal(without.scores["agent"].slates, much.scores["agent"].slates)


@pytest.mark.medium
def test_a_weight_is_judged_as_its_setup_is(setup: Setup) -> None:
    stages = Told()
    ((_, found),) = tradeoff(setup, [0.5], "validation", stages=stages)
    assert stages.names[0] == "weights of the spread"
    assert stages.came_to_their_ends()
    alone = of_seed(with_spread(setup, 0.5), setup.seed)
    state = State.from_setup(alone)
    evaluator = evaluator_of(state, "validation")
    assert (
        found.result["policies"]["agent"]
        == evaluator.means({"agent": evaluator.score([policy(alone, state)])})[0]["agent"]
    )
    assert (found.result["seeds"], found.result["split"]["part"]) == ([setup.seed], "validation")


def test_what_else_earns_keeps_its_weight(setup: Setup) -> None:
    assert weights_of(with_spread(setup, 0.5)) == {"Spread": 0.5, "Logged": 1}
    assert weights_of(with_spread(setup, 0.0)) == {"Logged": 1}
    only = setup.model_copy(update={"reward": RewardSettings(spread=Spread(weight=3))})
    assert weights_of(with_spread(only, 0.5)) == {"Spread": 0.5, "Logged": 1}
    other = setup.model_copy(update={"reward": RewardSettings(spread=Spread(weight=3), diversity=Diversity(weight=2))})
    assert weights_of(with_spread(other, 0.5)) == {"Spread": 0.5, "Diversity": 2}
    named = setup.model_copy(update={"reward": RewardSettings(logged=Logged(weight=7, play=1))})
    assert weights_of(with_spread(named, 0.5)) == {"Spread": 0.5, "Logged": 7}


def test_the_rest_of_the_setup_stays_and_its_log_of_training_is_not_written_over(setup: Setup, tmp_path: Path) -> None:
    own = setup.model_copy(
        update={"log": tmp_path / "own.jsonl", "reward": RewardSettings(spread=Spread(form="change", window=7))}
    )
    found = with_spread(own, 0.25)
    assert found.log_path == tmp_path / "spread-0.25" / "agent.jsonl"
    assert (found.reward.spread.form, found.reward.spread.window) == ("change", 7)
    assert found.model_critic_path == tmp_path / "spread-0.25" / "critic.safetensors"
    changed = {name for name in Setup.model_fields if getattr(found, name) != getattr(own, name)}
    assert changed == {"log", "reward", "model_agent_path", "model_critic_path"}


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [("next_item", "next_item reads no reward"), ("whatnext", "whatnext has the spread for its whole reward")],
)
def test_who_has_nothing_to_weigh_is_refused(setup_of: SetupOf, tmp_path: Path, algorithm: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        tradeoff(setup_of(tmp_path, algorithm=algorithm, epochs=32), [0.0, 1.0])
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_no_number_and_items_without_attributes_are_refused(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="give finite numbers"):
        tradeoff(setup, [0.0, float("nan")])
    (tmp_path / "bare.csv").write_text("user_id,item_id\n" + "".join(f"{n % 9},{n % 7}\n" for n in range(80)))
    with pytest.raises(SetupError, match=r"reward.spread needs attributes of the items, and bare has none"):
        tradeoff(setup.model_copy(update={"data": tmp_path / "bare.csv"}), [0.0])
