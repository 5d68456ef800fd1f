"""The agent beside rules and chance: what may be judged, and what comes out."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Dataset, State
from what_next.cli import main
from what_next.cli.options import trained_setup
from what_next.errors import ModelError
from what_next.experiments import by_windows, evaluate_next, evaluate_windows
from what_next.experiments.evaluator import Scores
from what_next.experiments.models import of_seed
from what_next.experiments.next_items import evaluator_of, few_hits, protocol, rules
from what_next.reporting.terminal import measured_on
from what_next.settings import Evaluation, SplitSettings

from .conftest import SetupOf, Trained


def evaluate(setup, *words, **more):
    return evaluate_windows(setup, *words, **more) if by_windows(setup) else evaluate_next(setup, *words, **more).result


def judged_setup(trained: Trained, log_file):
    return trained.setup.model_copy(update={"data": log_file, "train": False})


@pytest.mark.medium
def test_the_result_holds_every_policy_as_plain_json_and_repeats_byte_for_byte(trained: Trained, log_file) -> None:
    setup = judged_setup(trained, log_file)
    result = evaluate(setup)
    assert set(result["policies"]) == {
        "agent", "agent_critic", "untrained", "random", "nearest_mean", "true_next", "steer", "oracle"
    }  # fmt: skip
    assert set(result["policies"]["agent"]["spread@5"]) == {"mean", "low", "high", "n"}
    assert {"agent-random", "agent-untrained", "agent-steer", "agent_critic-steer"} <= set(result["differences"])
    assert json.dumps(evaluate(setup), allow_nan=False) == json.dumps(result, allow_nan=False)


def test_a_model_of_another_split_is_not_judged(trained: Trained, log_file) -> None:
    setup = judged_setup(trained, log_file).model_copy(update={"split": SplitSettings(seed=5)})
    with pytest.raises(ModelError, match=r"was trained on split .* may have seen whom it would be judged on"):
        evaluate(setup)


@pytest.mark.medium
def test_the_seed_is_that_of_the_model(trained: Trained, log_file) -> None:
    assert evaluate(judged_setup(trained, log_file).model_copy(update={"seed": 3}))["seeds"] == [0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["algorithm=next_item"], "with whatnext, and that counts; the setup says next_item"),
        (["algorithm.tau=0.5"], "with algorithm.tau=0.02, and that counts; the setup says algorithm.tau=0.5"),
    ],
)
def test_a_setup_that_names_another_algorithm_than_its_model_is_told(
    trained: Trained, log_file, tmp_path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    names = "".join(f'{name}, "{getattr(trained.setup, name)}"\n' for name in ("model_agent_path", "model_critic_path"))
    (tmp_path / "setup.txt").write_text(f'train, no\ndata, "{log_file}"\n{names}')
    assert trained_setup(tmp_path / "setup.txt", words).algorithm == trained.setup.algorithm
    assert capsys.readouterr().err.endswith(f"agent.safetensors: was trained {told}\n")


@pytest.mark.medium
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
        assert evaluate(setup, seeds=[1, 2])["seeds"] == [1, 2]
    assert trainings == [(1, 32), (2, 32)]
    evaluate(setup.model_copy(update={"epochs": 64}), seeds=[1])
    assert trainings[-1] == (1, 64)
    assert of_seed(setup, 1).model_agent_path.parent.name == "seed-1"


class TestNextItems:
    @pytest.mark.medium
    def test_an_algorithm_that_learns_from_the_log_is_judged_on_next_items_beside_its_rivals(
        self, setup_of: SetupOf, tmp_path
    ) -> None:
        setup = setup_of(tmp_path, algorithm="next_item", passes=1)
        result = evaluate(setup, seeds=[0])
        baselines = ["popular", "popular_recent", "markov", "item_knn", "ease", "slim"]
        assert list(result["policies"]) == ["agent", "untrained", "random", *baselines]
        assert set(result["baselines"]) == set(baselines) - {"popular"}
        names = ["hr", "ndcg", "mrr", "recall", "precision", "map", "novelty", "serendipity", "popularity_lift"]
        names += ["diversity", "coverage", "gini"]
        metrics = {"reward@1", "spread@20", *(f"{name}@10" for name in names)}
        assert all(set(one) == metrics for one in result["policies"].values())
        assert result["split"]["kind"] == "leave_last_out"
        assert result["targets"]["users"] == 60
        assert json.dumps(evaluate(setup, seeds=[0]), allow_nan=False) == json.dumps(result, allow_nan=False)
        assert evaluate(setup, "validation", seeds=[0])["policies"]["popular"] != result["policies"]["popular"]

    def test_popular_counts_training_events_alone(self, setup_of: SetupOf, tmp_path, dataset) -> None:
        setup = setup_of(tmp_path, algorithm="next_item", passes=1)
        state = State(dataset, setup)
        known = np.concatenate(
            [
                dataset.items[start : start + count]
                for start, count in zip(dataset.offsets[:-1], state.split.known, strict=True)
            ]
        )
        assert len(known) == dataset.events - 2 * dataset.users
        counts = np.bincount(known, minlength=80)
        evaluator = evaluator_of(state, "test")
        first = rules(evaluator, state)[0]["popular"].slates[0, :, 0]
        for user, item in enumerate(first):
            heard = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1] - 1]
            assert item not in heard
            assert counts[item] == max(counts[other] for other in range(80) if other not in heard)

    def test_the_protocol_counts_whom_and_what_training_knows_nothing_of(self, setup_of: SetupOf, tmp_path) -> None:
        # User c and the items 2 and 3 come after the cut; the target of user b was heard before.
        events = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 0), ("c", 1), ("c", 3)]
        times = [0, 10, 91, 5, 15, 91, 80, 92]
        log = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row").with_columns(timestamp=pl.Series(times))
        dataset = Dataset.from_frame(log, pl.DataFrame({"item_id": range(4)}), name="few")
        setup = setup_of(tmp_path, algorithm="next_item", passes=1, split=SplitSettings(name="time", quantile=0.75))
        state = State(dataset, setup)
        told = protocol(state, "test", evaluator_of(state, "test"), [3])
        assert told["split"]["hash"] == state.split.hash
        targets = told["targets"]
        assert len(targets.pop("hash")) == 16
        assert targets == {
            "kind": "last", "rows": 3, "users": 3, "items": 3, "held": 1, "cold_users": 1, "cold_items": 2,
            "not_allowed": 0, "without_history": 0,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("last", "seen", "ways"),
        [
            (lambda user: (user + 1) % 4, False, None),  # another user's, whom training knows
            (lambda user: user, False, "`evaluation.seen, yes`"),
            (lambda user: user, True, None),
            (lambda user: 20 + user, True, "items with attributes or tags"),
            (
                lambda user: user if user % 2 else 20 + user,
                False,
                "`evaluation.seen, yes` or items with attributes or tags",
            ),
        ],
    )
    def test_a_table_that_compares_nothing_says_so_and_what_to_do(
        self, setup_of: SetupOf, tmp_path, last, seen: bool, ways: str | None
    ) -> None:
        """The last user has two events, and is not judged."""
        events = [(user, item) for user in range(4) for item in (user, 9, 8, last(user))] + [(4, 0), (4, 9)]
        dataset = Dataset.from_frame(pl.DataFrame(events, schema=["user_id", "item_id"], orient="row"), name="few")
        state = State(dataset, setup_of(tmp_path, algorithm="next_item", evaluation=Evaluation(k=(3,), seen=seen)))
        evaluator = evaluator_of(state, "test")
        *vain, few = rules(evaluator, state, [])[2]
        assert [one.partition("compares nothing; take ")[2] for one in vain] == ([ways] if ways else [])
        assert few.startswith("judged on 4 users, ")
        told = measured_on(protocol(state, "test", evaluator, [0]) | {"seen": seen})
        assert "next items of 4 of 5 users (" in told
        assert "1 user with fewer than three events, for training alone" in told

    def test_tags_name_items_that_training_lacks(self, setup_of: SetupOf, tmp_path) -> None:
        events = [(f"u{user}", item) for user in range(4) for item in (user, 9, 8, 20 + user)]
        log = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row")
        for shared, vain in ((True, False), (False, True)):
            table = pl.DataFrame(
                {"item_id": list(range(24)), "show": [f"s{n % 4 + (0 if shared else n)}" for n in range(24)]}
            )
            dataset = Dataset.from_frame(log, table, name="few", tags=["show"], time="")
            state = State(dataset, setup_of(tmp_path, algorithm="next_item", evaluation=Evaluation(k=(3,), seen=True)))
            notes = rules(evaluator_of(state, "test"), state, [])[2]
            assert any("compares nothing" in one for one in notes) is vain

    def test_slates_that_hold_all_items_are_told(self, setup_of: SetupOf, tmp_path, dataset) -> None:
        state = State(dataset, setup_of(tmp_path, algorithm="next_item", evaluation=Evaluation(k=(5, 79, 80))))
        told = rules(evaluator_of(state, "test"), state, [])[2]
        assert [one.partition(" cannot tell")[0] for one in told if "tell policies apart" in one] == ["hr@80"]
        some = np.arange(80) < 6
        told = rules(evaluator_of(state, "test", some), state, [])[2]
        assert any(one.startswith("hr@79 and hr@80 cannot") and one.endswith("`evaluation.k, 3`") for one in told)

    def test_few_users_with_a_hit_are_told_by_policy(self, setup_of: SetupOf, tmp_path) -> None:
        evaluator = evaluator_of(State.from_setup(setup_of(tmp_path, algorithm="next_item", passes=1)), "test")
        slates, rows = np.zeros((1, len(evaluator.targets), 10), np.int32), np.arange(len(evaluator.targets))
        scores = {f"of {hits}": Scores(slates, {"hr@10": np.where(rows < hits, 1.0, 0.0)}) for hits in (0, 9, 10)}
        (told,) = few_hits(scores, evaluator)
        assert told.startswith("users with a hit (hr@10): of 0 0, of 9 9; with fewer than 10, ")
        assert told.endswith("; judge on more users")
        unknown = replace(evaluator.statistics, counts=np.zeros_like(evaluator.statistics.counts))
        (told,) = few_hits(scores, replace(evaluator, statistics=unknown))
        assert "60 of 60 targets have no training event: learn from later events" in told, "more users would not help"
        assert not list(few_hits({"random": Scores(slates, {"hr@10": np.full(len(rows), 0.01)})}, evaluator))

    def test_the_spread_of_the_top_item_is_the_founding_reward_of_the_last_twenty_events(
        self, setup_of: SetupOf, tmp_path, dataset
    ) -> None:
        state = State(dataset, setup_of(tmp_path, algorithm="next_item", passes=1))
        evaluator = evaluator_of(state, "test")
        judged = rules(evaluator, state)[0]["popular"]
        vectors = torch.from_numpy(state.space.catalogue.vectors).double()
        user, item = 7, judged.slates[0, 7, 0]
        heard = vectors[dataset.items[dataset.offsets[user] : dataset.offsets[user] + 39].tolist()]

        def spread(some: torch.Tensor) -> float:
            return float(torch.pdist(some).std())

        sigma = spread(heard[:38])  # what training may know: all but the last two events
        without, grown = spread(heard[-20:]), spread(torch.cat([heard[-20:], vectors[item : item + 1]]))
        reward = (abs(without - sigma) - abs(grown - sigma)) / sigma
        assert judged.values["spread@20"][user] == pytest.approx(reward, abs=1e-5)

    @pytest.mark.medium
    @pytest.mark.parametrize(("split", "by"), [("leave_last_out", "targets"), ("users", "windows")])
    def test_the_founding_algorithm_is_judged_by_windows_of_users_set_aside(
        self, setup_of: SetupOf, tmp_path, split: str, by: str
    ) -> None:
        assert by in evaluate(setup_of(tmp_path, epochs=32, split=split), seeds=[0])

    def test_items_without_attributes_have_no_spread(
        self, setup_of: SetupOf, tmp_path, dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = pl.DataFrame({"user_id": np.repeat(np.arange(30), 6), "item_id": np.tile(np.arange(20), 9)})
        monkeypatch.setattr(Dataset, "read", lambda path: Dataset.from_frame(log, name="bare"))
        result = evaluate(setup_of(tmp_path, algorithm="next_item", passes=1), seeds=[0])
        assert not {"reward@1", "spread@20", "diversity@10"} & set(result["policies"]["agent"])
        assert {"hr@10", "ndcg@10", "coverage@10"} <= set(result["policies"]["agent"])

    @pytest.mark.medium
    def test_only_permitted_items_are_recommended_and_the_result_says_so(
        self, setup_of: SetupOf, tmp_path, dataset
    ) -> None:
        setup = setup_of(tmp_path, algorithm="next_item", passes=1)
        allowed = np.arange(80) < 5
        verdict = evaluate_next(setup, seeds=[0], allowed=allowed)
        assert all(one.slates.max() < 5 for one in verdict.scores.values())
        assert verdict.result["allowed"] == 5
        assert verdict.result["targets"]["not_allowed"] == (verdict.evaluator.targets.items >= 5).sum()
        assert verdict.result["policies"]["random"]["coverage@10"]["mean"] == 1  # of what may be recommended

    @pytest.mark.medium
    def test_the_settings_of_evaluation_are_those_that_are_judged_by_and_train_nothing_anew(
        self, setup_of: SetupOf, tmp_path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from what_next.environment import Environment

        setup = setup_of(tmp_path, algorithm="next_item", passes=1)
        evaluate(setup, seeds=[0])
        monkeypatch.setattr(Environment, "train_agent", lambda self: pytest.fail("trained again"))
        other = setup.model_copy(update={"evaluation": Evaluation(k=(3, 7), seen=True, targets="last")})
        verdict = evaluate_next(other, seeds=[0])
        assert {"hr@3", "hr@7"} <= set(verdict.result["policies"]["agent"])
        assert verdict.result["k"] == [3, 7]
        targets, slates = verdict.evaluator.targets, verdict.scores["popular"].slates[0]
        state = verdict.state
        history = state.histories(targets.users, np.zeros_like(targets.before), targets.before)
        assert (slates[:, :, None] == history.items[:, None]).any()  # what the user had is recommended, too

    def test_groups_are_judged_apart(self, setup_of: SetupOf, tmp_path) -> None:
        split = {"name": "time", "quantile": 0.9}
        result = evaluate(setup_of(tmp_path, algorithm="next_item", passes=1, split=split), seeds=[0])
        assert {"history length", "item popularity", "activity"} & set(result["groups"])
        for groups in result["groups"].values():
            assert sum(group["rows"] for group in groups.values()) == result["targets"]["rows"]
            assert all({"agent", "ease"} <= set(group["policies"]) for group in groups.values())

    @pytest.mark.medium
    def test_the_command_writes_the_page_and_shows_groups_among_permitted_items(
        self, log_file, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = f'train, yes, data, "{log_file}", algorithm, sqn, passes, 1, seconds, 5, dim, 8'
        (tmp_path / "setup.txt").write_text(
            f"{text}, model_agent_path, a.safetensors, model_critic_path, c.safetensors"
        )
        (tmp_path / "may.txt").write_text("\n".join(f"i{number}" for number in range(40)))
        (tmp_path / "not.txt").write_text("i0\nno such item")
        words = "--seeds 0 --groups --weights 0,1 --allowed may.txt --blocked not.txt --report page.html"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["what-next", "evaluate", "setup.txt", *words.split(" ")])
        assert main() == 0
        shown = capsys.readouterr()
        assert "among 39 permitted items" in shown.out
        assert "ndcg@10 by item popularity" in shown.out
        assert "no such item" in shown.err
        assert "39 items" in (tmp_path / "page.html").read_text()

    @pytest.mark.medium
    def test_the_command_prints_a_table(
        self, log_file, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = f'train, yes, model, gru, data, "{log_file}", algorithm, next_item, passes, 1'
        (tmp_path / "setup.txt").write_text(f"{text}, model_agent_path, a.safetensors")
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["what-next", "evaluate", str(tmp_path / "setup.txt"), "dim=8", "--seeds", "0"])
        assert main() == 0
        shown = capsys.readouterr().out
        for word in ("next items of 60 users", "popular", "agent \N{MINUS SIGN} popular", "reward@1"):
            assert word in shown


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("encoders", {"lstm", "gru", "transformer", "mean"}),
        ("rewards", {"spread", "logged", "novelty"}),
        ("sources", {"log", "decisions", "bandit", "world"}),
        ("metrics", {"hr", "ndcg", "reward", "coverage", "spread"}),
        ("algorithms", {"whatnext", "next_item"}),
    ],
)
def test_what_there_is_can_be_listed(
    kind: str, some: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["what-next", "list", kind, "--json"])
    assert main() == 0
    assert some <= set(json.loads(capsys.readouterr().out)[kind])
