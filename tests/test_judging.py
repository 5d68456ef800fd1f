"""The agent beside rules and chance: what may be judged, and what comes out."""

import json

import pytest

from what_next.errors import ModelError
from what_next.judging import judge, of_seed
from what_next.settings import Split

from .conftest import SetupOf, Trained


def judged_setup(trained: Trained, log_file):
    return trained.setup.model_copy(update={"data": log_file, "train": False})


def test_the_result_holds_every_policy_as_plain_json_and_repeats_byte_for_byte(trained: Trained, log_file) -> None:
    setup = judged_setup(trained, log_file)
    result = judge(setup)
    assert set(result["policies"]) == {
        "agent", "agent_critic", "untrained", "random", "nearest_mean", "true_next", "steer", "oracle"
    }  # fmt: skip
    assert set(result["policies"]["agent"]["spread@5"]) == {"mean", "low", "high", "n"}
    assert {"agent-random", "agent-untrained", "agent-steer", "agent_critic-steer"} <= set(result["differences"])
    assert json.dumps(judge(setup), allow_nan=False) == json.dumps(result, allow_nan=False)


def test_a_model_of_another_split_is_not_judged(trained: Trained, log_file) -> None:
    setup = judged_setup(trained, log_file).model_copy(update={"split": Split(seed=5)})
    with pytest.raises(ModelError, match=r"was trained on split .* may have seen whom it would be judged on"):
        judge(setup)


def test_the_models_of_other_seeds_are_trained_once_and_again_after_a_change(
    setup_of: SetupOf, log_file, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.environment import Environment

    trainings: list[tuple[int, int]] = []
    train = Environment.train_agent

    def counted(self: Environment):
        trainings.append((self.setup.seed, self.setup.epochs))
        return train(self)

    monkeypatch.setattr(Environment, "train_agent", counted)
    setup = setup_of(tmp_path, data=log_file, epochs=32)
    for _ in range(2):
        assert judge(setup, seeds=[1, 2])["seeds"] == [1, 2]
    assert trainings == [(1, 32), (2, 32)]
    judge(setup.model_copy(update={"epochs": 64}), seeds=[1])
    assert trainings[-1] == (1, 64)
    assert of_seed(setup, 1).model_agent_path.parent.name == "seed-1"
