"""An algorithm that learns from the log goes through the same spine: trained, resumed, loaded, asked."""

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import what_next as wn
from what_next import Agent, Dataset, Environment, State
from what_next.data.batches import Batches, capped, width_of
from what_next.errors import DataError, ModelError, SetupError
from what_next.experiments.models import is_trained
from what_next.training.artefacts import resume_path
from what_next.training.encoder_learner import EncoderLearner

from .conftest import SetupOf, Trained, listening


def log_setup(setup_of: SetupOf, folder: Path, **changes: Any) -> wn.Setup:
    values = {"algorithm": "next_item", "epochs": 180, "batch_size": 16, "window": None, "max_length": 20}
    return setup_of(folder, **(values | changes))


def run(dataset: Dataset, setup: wn.Setup, **more: Any) -> tuple[Environment, wn.Report]:
    state = State(dataset, setup)
    environment = Environment(Agent(setup, state.space), state, setup, **more)
    return environment, environment.run_sim()


def weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name, net in agent.nets.items() for key, value in net.state_dict().items()}


class TestBatches:
    def windows(self, **changes: Any) -> Batches:
        known = np.array([2, 3, 21, 22, 41, 150], np.int64)
        values = {"max_length": 20, "batch_size": 2, "seed": 0}
        return Batches(np.arange(6, dtype=np.int32), known, **(values | changes))

    def test_every_event_but_a_users_first_is_a_target_once(self) -> None:
        batches = self.windows()
        targets = [
            (int(batches.users[one]), int(batches.starts[one]) + step)
            for place in range(len(batches))
            for one in batches.batch(place)
            for step in range(1, int(batches.lengths[one]))
        ]
        known = [2, 3, 21, 22, 41, 150]
        assert sorted(targets) == [(user, event) for user, count in enumerate(known) for event in range(1, count)]

    def test_the_first_window_takes_what_is_left_over(self) -> None:
        batches = self.windows()
        assert batches.lengths[batches.users == 3].tolist() == [2, 21]
        assert batches.starts[batches.users == 3].tolist() == [0, 1]

    def test_of_a_user_who_would_drown_out_the_others_the_latest_windows_count(self) -> None:
        """2,000 users of 3 events and one of 54,000: a hundredth of 60,000 is 600, which are 30 windows."""
        known = np.array([3] * 2000 + [54_000])
        assert capped(known).tolist() == [3] * 2000 + [600]
        users = np.arange(2001, dtype=np.int32)
        batches = Batches(users, known, max_length=20, batch_size=64, seed=0)
        its = batches.users == 2000
        assert its.sum() == 30
        assert (batches.starts[its].min(), batches.starts[its].max()) == (54_000 - 601, 54_000 - 21)
        few = np.array([3, 3, 21, 22, 41, 150])
        assert capped(few).tolist() == few.tolist()  # of six users one has a sixth as a matter of course

    def test_passes_differ_and_are_the_same_for_the_same_seed(self) -> None:
        one, other = self.windows(), self.windows()
        passes = [[one.batch(step).tolist() for step in range(p * len(one), (p + 1) * len(one))] for p in (0, 1)]
        assert passes[0] != passes[1]
        assert [other.batch(step).tolist() for step in range(len(other))] == passes[0]
        assert [self.windows(seed=1).batch(step).tolist() for step in range(len(other))] != passes[0]

    def test_padding_is_under_five_percent_of_a_long_log(self) -> None:
        lengths = 2 + np.random.default_rng(0).geometric(0.01, 2000)
        batches = Batches(np.arange(2000, dtype=np.int32), lengths, max_length=200, batch_size=64, seed=0)
        held = [batches.lengths[batches.batch(step)] for step in range(len(batches))]
        read = sum(len(part) * width_of(int(part.max())) for part in held)
        assert 1 - sum(int(part.sum()) for part in held) / read < 0.05

    @pytest.mark.parametrize(("length", "users"), [(3, 60_000), (9, 20_000), (65, 5000), (401, 2000)])
    def test_a_batch_holds_as_many_targets_however_long_histories_are(self, length: int, users: int) -> None:
        known = np.full(users, length, np.int64)
        batches = Batches(
            np.arange(users, dtype=np.int32), known, max_length=200, batch_size=None, batch_targets=2048, seed=0
        )
        held = [int((batches.lengths[batches.batch(step)] - 1).sum()) for step in range(len(batches))]
        assert sum(held) == users * (length - 1)
        assert 0.9 * 2048 < np.median(held) < 1.1 * 2048

    def test_a_small_log_has_64_batches_in_a_pass(self) -> None:
        known = np.full(640, 11, np.int64)  # 6,400 targets: 100 in a batch, which are 10 histories
        users = np.arange(640, dtype=np.int32)
        batches = Batches(users, known, max_length=200, batch_size=None, batch_targets=2048, seed=0)
        assert (batches.batch_size, len(batches)) == (10, 64)
        assert len(Batches(users[:3], known[:3], max_length=200, batch_size=None, batch_targets=2048, seed=0)) == 3

    def test_widths_are_few_and_never_too_narrow(self) -> None:
        widths = [width_of(length) for length in range(1, 2001)]
        assert all(width >= length for length, width in enumerate(widths, 1))
        assert len(set(widths)) < 270


class TestTraining:
    @pytest.mark.medium
    def test_it_learns_what_follows(self, setup_of: SetupOf, tmp_path: Path) -> None:
        cycle = np.tile(np.arange(12), 4)
        log = pl.DataFrame(
            {
                "user_id": np.repeat(np.arange(40), 30),
                "item_id": np.concatenate([np.roll(cycle, -user)[:30] for user in range(40)]),
            }
        )
        dataset = Dataset.from_frame(log, name="cycle")
        setup = log_setup(setup_of, tmp_path, passes=30, learning_rate=1e-2)
        environment, report = run(dataset, setup)
        assert report.valid["users"] == 40
        found = wn.Recommender(wn.LearnedPolicy(environment.agent.eval(), environment.state)).recommend(
            history=[3, 4, 5], k=1, seen=True
        )
        assert [item.item_id for item in found.items] == ["6"]
        assert found.proposal == {}

    def test_a_pass_trains_on_every_user_once(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        _, report = run(dataset, log_setup(setup_of, tmp_path, passes=2))
        assert report.histories == 2 * 60
        assert report.targets == 2 * 60 * (38 - 1)

    @pytest.mark.medium
    def test_the_same_seed_gives_the_same_weights(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        one, other, third = (
            weights(run(dataset, log_setup(setup_of, tmp_path / str(place), seed=seed, dropout=0.2))[0].agent)
            for place, seed in enumerate((5, 5, 6))
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert not all(torch.equal(one[name], third[name]) for name in one)

    @pytest.mark.medium
    def test_a_resumed_run_is_the_same_bit_for_bit(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        whole, _ = run(dataset, log_setup(setup_of, tmp_path / "whole", algorithm="sqn", dropout=0.2, patience=None))
        setup = log_setup(setup_of, tmp_path / "parts", algorithm="sqn", dropout=0.2, patience=None)
        state = State(dataset, setup)
        environment = Environment(Agent(setup, state.space), state, setup)
        environment.done = lambda: environment.agent.steps >= 7  # type: ignore[method-assign]
        environment.run_sim()
        assert resume_path(setup.model_agent_path).is_file()
        state = State(dataset, setup)
        resumed = Environment(Agent(setup, state.space), state, setup, resume=True)
        resumed.run_sim()
        for one, other in ((whole.agent.nets, resumed.agent.nets), (whole.agent.targets, resumed.agent.targets)):
            for name in one:
                for before, after in zip(one[name].parameters(), other[name].parameters(), strict=True):
                    assert torch.equal(before, after)

    @pytest.mark.medium
    def test_patience_stops_and_keeps_the_best(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        setup = log_setup(setup_of, tmp_path, passes=200, patience=2, save_every=60, learning_rate=1e-2)
        environment, report = run(dataset, setup)
        assert not report.stopped
        assert report.histories < 200 * 60
        ready = Agent(setup, environment.state.space).ready_agent()
        assert ready.histories < report.histories
        told = f"ends after {report.histories:,} histories: the model saved after {ready.histories:,} is still"
        assert f"{told} the best on the validation users, and is kept" in capsys.readouterr().err
        assert Environment(ready, environment.state, setup).validate() == pytest.approx(report.valid)

    @pytest.mark.medium
    @pytest.mark.parametrize("stop", [2, 13, 21])
    def test_an_interrupted_search_for_the_best_comes_to_the_same_end(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, stop: int
    ) -> None:
        """Interrupted before the first save, between two, and after the best."""
        changes = {"passes": 8, "patience": 1, "learning_rate": 3e-2}
        whole, report = run(dataset, log_setup(setup_of, tmp_path / "whole", **changes))
        assert whole.agent.halved > 0
        setup = log_setup(setup_of, tmp_path / "parts", **changes)
        state = State(dataset, setup)
        environment = Environment(Agent(setup, state.space), state, setup)
        cycle = environment._cycle

        def interrupted() -> Any:
            if environment.agent.steps == stop:
                signal.raise_signal(signal.SIGINT)
            return cycle()

        environment._cycle = interrupted  # type: ignore[method-assign]
        assert environment.run_sim().stopped
        assert not is_trained(setup, state)
        resumed, again = run(dataset, setup, resume=True)
        assert is_trained(setup, state)
        assert again.valid == report.valid
        assert not run(dataset, setup, resume=True)[1].steps  # nothing is left
        mine = weights(resumed.agent)
        assert all(torch.equal(value, mine[name]) for name, value in weights(whole.agent).items())

    @pytest.mark.medium
    def test_seconds_end_a_run(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        # The first step of a process may take half a second on a busy machine, and is given up where its time is over.
        _, report = run(dataset, log_setup(setup_of, tmp_path, passes=100_000, seconds=1.5))
        assert 0 < report.histories < 100_000 * 60
        assert report.seconds < 10

    @pytest.mark.medium
    @pytest.mark.parametrize("changes", [{"inputs": {"rewards": True, "gaps": True}}, {"inputs": {"items": "both"}}])
    @pytest.mark.parametrize("model", ["lstm", "gru", "transformer", "mean"])
    def test_every_encoder_reads_every_input(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, model: str, changes: dict[str, Any]
    ) -> None:
        setup = log_setup(setup_of, tmp_path, model=model, epochs=60, **changes)
        environment, _ = run(dataset, setup)
        loaded = wn.load(setup.model_agent_path, dataset)
        users = ["u1", "u2"]
        mine = wn.Recommender(wn.LearnedPolicy(environment.agent.eval(), environment.state)).recommend_users(users)
        assert [one.items for one in loaded.recommend_users(users)] == [one.items for one in mine]

    @pytest.mark.medium
    @pytest.mark.parametrize("loss", ["sampled_softmax", "gbce"])
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_every_loss_goes_down(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, loss: str, precision: str
    ) -> None:
        setup = log_setup(setup_of, tmp_path, loss={"name": loss, "negatives": 32}, precision=precision, epochs=600)
        _, report = run(dataset, setup)
        losses = [step.losses["actor"] for step in report.steps]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])

    @pytest.mark.parametrize(
        ("has", "fast"),
        [
            ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, True),
            ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
            ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
            ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, False),
        ],
    )
    def test_products_are_of_bfloat16_where_the_processor_multiplies_it_faster(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: Any, fast: bool
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
        setup = log_setup(setup_of, tmp_path, device="cpu")
        learner = Agent(setup, State(dataset, setup).space).learner
        assert isinstance(learner, EncoderLearner)
        assert learner.precision == ("bf16" if fast else "fp32")

    @pytest.mark.medium
    def test_gbce_tells_sessions_of_many_items_apart(self, setup_of: SetupOf, tmp_path: Path) -> None:
        """Each session goes on along a ring of 1,000 items. Without `gbce_offset` nearly all scores start too high: the
        loss first lowers all of them together, and the encoder recommends the same to everybody."""
        start = np.random.default_rng(0).integers(1000, size=300)
        items = (start[:, None] + np.arange(8)) % 1000
        log = pl.DataFrame({"user_id": np.repeat(np.arange(300), 8), "item_id": items.ravel()})
        loss = {"name": "gbce", "negatives": 256}
        how = {"passes": 15, "batch_size": 32, "dim": 32, "learning_rate": 1e-2, "dropout": 0.0}
        environment, report = run(Dataset.from_frame(log, name="ring"), log_setup(setup_of, tmp_path, loss=loss, **how))
        assert report.valid["ndcg@10"] > 0.4  # 0.6; 0.01 without the offset
        recommender = wn.Recommender(wn.LearnedPolicy(environment.agent.eval(), environment.state))
        found = recommender.recommend_users([str(user) for user in range(300)], k=1)
        assert len({one.items[0].item_id for one in found}) > 150


class TestFitted:
    """What a setup leaves open follows from the data, is told with its reason, and is kept."""

    def test_the_loss_is_over_all_items_while_they_are_few(self) -> None:
        from what_next.settings import AFFORDABLE

        loss = wn.Setup.from_text("train, yes, data, -, model_agent_path, a, algorithm, next_item").loss
        assert (loss.name, AFFORDABLE) == ("auto", 10_000)
        assert [loss.over(items) for items in (2, 10_000, 10_001)] == ["softmax", "softmax", "sampled_softmax"]
        assert loss.model_copy(update={"name": "softmax"}).over(10**6) == "softmax"

    def test_a_large_catalogue_is_trained_on_drawn_negatives(
        self, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Counted, not timed: how many scores a step makes for each of its targets."""
        from what_next.losses.chunked import chunked_loss

        widths: set[int] = set()

        def counted(points: torch.Tensor, vectors: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
            widths.add(len(vectors))
            return chunked_loss(points, vectors, *args, **more)

        for module in ("sampled", "catalogue"):
            monkeypatch.setattr(sys.modules[f"what_next.losses.{module}"], "chunked_loss", counted)
        for items, most in ((9_000, 9_000), (12_000, 4096)):
            log = pl.DataFrame({"user_id": np.arange(items) // 6, "item_id": np.arange(items)})
            widths.clear()
            run(Dataset.from_frame(log), log_setup(setup_of, tmp_path / str(items), batch_size=None, linear="no"))
            assert widths
            assert max(widths) <= most
            assert (max(widths) == items) == (items == 9_000)

    @pytest.mark.medium
    def test_it_is_told_with_its_reason(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(dataset, log_setup(setup_of, tmp_path, batch_size=None, max_length=200))
        told = capsys.readouterr().err
        assert "loss softmax: 80 items are at most 10,000, up to which a softmax over all of them is affordable" in told
        assert "batch_size 1: about 37 targets, since a history" in told
        assert "has 37.0 on average, and a pass has 64 batches or more" in told
        run(dataset, log_setup(setup_of, tmp_path, loss="sampled_softmax", algorithm="next_item", skip="no"))
        told = capsys.readouterr().err
        assert "sets another" not in told  # nothing was left open

    @pytest.mark.medium
    def test_the_models_file_keeps_it(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        from what_next.training.artefacts import read_manifest

        setup = log_setup(setup_of, tmp_path, batch_size=None)
        run(dataset, setup)
        manifest = read_manifest(setup.model_agent_path)
        assert manifest.metrics["fitted"] == {"loss": "softmax", "batch_size": 2}  # 120 windows, 64 in a pass
        assert manifest.made_by() == setup

    @pytest.mark.medium
    def test_a_resumed_run_has_the_same_batches(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, _ = run(dataset, log_setup(setup_of, tmp_path / "whole", batch_size=None, epochs=75, patience=None))
        setup = log_setup(setup_of, tmp_path / "parts", batch_size=None, epochs=75, patience=None)
        state = State(dataset, setup)
        environment = Environment(Agent(setup, state.space), state, setup)
        environment.done = lambda: environment.agent.steps >= 7  # type: ignore[method-assign]
        environment.run_sim()
        resumed, _ = run(dataset, setup, resume=True)
        assert resumed.agent.steps == whole.agent.steps > 64  # a second pass has begun
        mine = weights(resumed.agent)
        assert all(torch.equal(value, mine[name]) for name, value in weights(whole.agent).items())
        monkeypatch.setattr("what_next.data.batches.LEAST", 8)  # as if another release had another rule
        with pytest.raises(ModelError, match="trained with loss softmax and batch_size 2, and the data decide for"):
            run(dataset, setup, resume=True)

    def test_the_founding_algorithm_says_its_own(self, setup_of: SetupOf, tmp_path: Path) -> None:
        assert wn.Setup.from_text("train, yes, data, -, model_agent_path, a, model_critic_path, b").batch_size == 64
        with pytest.raises(SetupError, match="batch_size is none, and the algorithm whatnext tries items"):
            setup_of(tmp_path, batch_size=None)

    def test_a_founding_run_goes_on_whatever_the_loss_that_it_does_not_read(self, trained: Trained) -> None:
        from what_next.training.checkpoint import progress

        other = trained.setup.loss.model_copy(update={"name": "softmax"})
        assert progress(trained.setup.model_copy(update={"loss": other, "batch_targets": 7})) is not None
        assert progress(trained.setup.model_copy(update={"batch_size": 7})) is None


class TestNewItems:
    def test_one_with_attributes_alone_can_be_recommended(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, items = listening(users=30)
        new = pl.DataFrame({"item_id": ["new"], "title": ["New"], **{n: [0.5] for n in items.columns[2:]}})
        dataset = Dataset.from_frame(log, pl.concat([items, new]), name="grown")
        setup = log_setup(setup_of, tmp_path, inputs={"items": "attributes"})
        run(dataset, setup)
        found = wn.load(setup.model_agent_path).recommend(history=["i1", "new"], k=5, allowed=["new", "i2"], seen=True)
        assert {item.item_id for item in found.items} == {"new", "i2"}

    @pytest.mark.medium
    def test_training_goes_on_with_the_vectors_of_known_items(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, items = listening()
        small = Dataset.from_frame(log, items, name="small")
        setup = log_setup(setup_of, tmp_path)
        before, _ = run(small, setup)
        new = pl.DataFrame({"item_id": ["a new one"], "title": ["New"], **{n: [0.5] for n in items.columns[2:]}})
        grown = Dataset.from_frame(log, pl.concat([new, items]), name="grown")
        state = State(grown, setup)
        agent = Agent(setup, state.space).wake_agent()
        from what_next.training.checkpoint import start_from

        start_from(agent, setup.model_agent_path)
        old, found = before.agent.nets["encoder"].items.learned, agent.nets["encoder"].items.learned
        places = grown.catalogue.index(small.catalogue.ids.to_list())
        assert torch.equal(found[torch.from_numpy(places)], old)


class TestRefusals:
    def test_attributes_are_missing(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, _ = listening()
        setup = log_setup(setup_of, tmp_path, inputs={"items": "both"})
        with pytest.raises(DataError, match=r"set inputs.items to learned"):
            State(Dataset.from_frame(log, name="bare"), setup)

    def test_a_log_without_attributes_is_enough_otherwise(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, _ = listening()
        _, report = run(Dataset.from_frame(log, name="bare"), log_setup(setup_of, tmp_path))
        assert report.histories == 180

    def test_the_critics_path_is_needed_by_a_critic(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log_setup(setup_of, tmp_path, model_critic_path=None)
        with pytest.raises(SetupError, match="model_critic_path"):
            log_setup(setup_of, tmp_path, algorithm="sqn", model_critic_path=None)


def test_a_resumed_run_opens_its_state(log_file: Path, setup_of: SetupOf, tmp_path: Path) -> None:
    setup = log_setup(setup_of, tmp_path)
    run(Dataset.read(log_file), setup)
    state = State.open(setup, resume=True)
    assert np.array_equal(state.space.counts, State.from_setup(setup).space.counts)
