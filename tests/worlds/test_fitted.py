"""Worlds that are fitted to logs: of a known truth, and real ones."""

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next import Dataset, Setup
from what_next.cli import app
from what_next.cli.data import _fit_sentence
from what_next.data.decisions.log import DecisionLog
from what_next.data.decisions.reader import read_log
from what_next.errors import DataError, ModelError, SetupError
from what_next.worlds import Episodes, play, preset
from what_next.worlds.fitted import Fitted, write_world
from what_next.worlds.fitting import Vectors, fit

from ..conftest import SetupOf
from ..test_log_learning import log_setup
from ..test_log_learning import run as train

Policy = Callable[[Any, Any], np.ndarray]


def written(folder: Path, **changes: Any) -> Path:
    """A world of two kinds of users and three items, whose scores are seen at once."""
    arrays = {
        "users": np.array([[1, 0], [0, 1]], np.float32),
        "items": np.array([[log(3), 0], [0, 0], [-log(3), log(9)]], np.float32),
        "positions": np.array([0, -log(2)], np.float32),
        "weights": np.array([3, 1], np.float32),
    }
    told = {"kind": "clicks", "items": 3, "positions": 2, "range": [0, 1], "levels": 1, "noise": 0, "leave": 0.25}
    write_world(arrays, told | changes, folder / "world.safetensors")
    return folder / "world.safetensors"


class TestByHand:
    def test_clicks_have_the_chance_of_user_item_and_position(self, tmp_path: Path) -> None:
        world = preset(str(written(tmp_path)), slots=2)
        assert isinstance(world, Fitted)
        state = world.reset(60_000, np.random.default_rng(0))
        first = state.who == 0
        assert first.mean() == pytest.approx(0.75, abs=0.006)
        after, feedback = world.step(state, np.array([[0, 2]]).repeat(60_000, 0), np.random.default_rng(1))
        # Odds of 3 and 1 / 3 / 2; of 1 and 9 / 2.
        assert feedback.clicks[first].mean(0) == pytest.approx([3 / 4, 1 / 7], abs=0.007)
        assert feedback.clicks[~first].mean(0) == pytest.approx([1 / 2, 9 / 11], abs=0.01)
        assert np.array_equal(feedback.rewards, feedback.clicks.sum(1))
        assert feedback.terminated.mean() == pytest.approx(0.25, abs=0.006)
        assert np.array_equal(after.who, state.who)

    def test_ratings_have_the_mean_that_was_foretold(self, tmp_path: Path) -> None:
        changes = {"kind": "ratings", "range": [-1, 3], "levels": 4}
        world = preset(str(written(tmp_path, **changes)), leave=0.0)
        state = world.reset(40_000, np.random.default_rng(0))
        _, feedback = world.step(state, np.zeros((40_000, 1), np.int64), np.random.default_rng(1))
        assert isinstance(world, Fitted)
        assert set(feedback.rewards) <= {-1.0, 0.0, 1.0, 2.0, 3.0}
        assert feedback.rewards[state.who == 0].mean() == pytest.approx(log(3), abs=0.02)
        assert feedback.rewards[state.who == 1].mean() == pytest.approx(0, abs=0.03)
        assert not feedback.terminated.any()

    def test_ratings_without_a_scale_have_normal_noise(self, tmp_path: Path) -> None:
        world = preset(str(written(tmp_path, kind="ratings", range=[-9, 9], levels=0, noise=0.5)))
        state = world.reset(40_000, np.random.default_rng(0)).rows(np.zeros(40_000, np.int64))
        _, feedback = world.step(state, np.ones((40_000, 1), np.int64), np.random.default_rng(1))
        assert (feedback.rewards.mean(), feedback.rewards.std()) == pytest.approx((0, 0.5), abs=0.01)

    def test_references(self, tmp_path: Path) -> None:
        world = preset(str(written(tmp_path)))
        state, rng = world.reset(50, np.random.default_rng(0)), np.random.default_rng(0)
        assert isinstance(world, Fitted)
        assert world.references()["greedy"](state, rng)[:, 0].tolist() == np.where(state.who == 0, 0, 2).tolist()
        # Means of (3/4, 1/2), (1/2, 1/2) and (1/4, 9/10), three of four users being of the first kind.
        assert set(world.references()["popular"](state, rng)[:, 0]) == {0}


def made_up(folder: Path, rows: int = 30_000, **columns: Any) -> tuple[DecisionLog, np.ndarray]:
    """Two kinds of users, four items; the log shows the first item half of the time. And the chances of a click."""
    rng = np.random.default_rng(0)
    odds = np.array([[-1.0, 0.0, 1.0, -2.0], [1.0, -1.0, -2.0, 0.5]])
    kinds, items = rng.integers(2, size=rows), rng.choice(4, size=rows, p=[0.5, 0.2, 0.2, 0.1])
    chances = 1 / (1 + np.exp(-odds))
    frame = pl.DataFrame(
        {
            "item_id": items,
            "reward": (rng.random(rows) < chances[kinds, items]).astype(float),
            "propensity": np.array([0.5, 0.2, 0.2, 0.1])[items],
            "kind": kinds,
            **columns,
        }
    )
    frame.write_parquet(folder / "log.parquet")
    from what_next.data.decisions.log import Roles

    return read_log(folder / "log.parquet", Roles(context=("kind",))), chances


class TestFit:
    def test_finds_the_truth(self, tmp_path: Path) -> None:
        found, chances = made_up(tmp_path)
        arrays, told = fit(found)
        write_world(arrays, told, tmp_path / "world.safetensors")
        world = preset(str(tmp_path / "world.safetensors"))
        assert isinstance(world, Fitted)
        assert (told["kind"], told["users"], told["items"], told["leave"]) == ("clicks", 2, 4, 0.0)
        mine = world.expected(world.user_vectors @ world.item_vectors.T)
        mine = mine if abs(mine[0, 0] - chances[0, 0]) < 0.2 else mine[::-1]
        assert mine == pytest.approx(chances, abs=0.03)
        assert told["loss"] < told["loss_of_the_mean"] - 0.02
        for one in told["calibration"]:
            assert one["predicted"] == pytest.approx(one["observed"], abs=0.05)
        greedy = play(world, world.references()["greedy"], 4_000, np.random.default_rng(0))
        assert greedy.mean / 10 == pytest.approx(chances.max(1).mean(), abs=0.02)

    def test_what_is_told_of_held_out_rows_did_not_choose_their_penalty(self, tmp_path: Path) -> None:
        """Ratings that nothing predicts: the best of seven penalties on the very rows often beats their mean."""
        better = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            frame = pl.DataFrame({"user_id": np.arange(60), "item_id": rng.integers(5, size=60)})
            frame.with_columns(reward=rng.normal(size=60), propensity=0.2).write_parquet(tmp_path / "log.parquet")
            told = fit(read_log(tmp_path / "log.parquet"), seed=seed)[1]
            better.append(told["loss"] < told["loss_of_the_mean"])
        assert sum(better) <= 2

    def test_rows_weigh_one_over_their_chance(self, tmp_path: Path) -> None:
        """Where nothing but the mean can be told, it is that of rows at random: a rating 5 was shown nine times as
        often as a rating 1, and both would be as frequent."""
        ratings = np.tile([5.0] * 9 + [1.0], 300)
        frame = pl.DataFrame(
            {"item_id": np.arange(3_000) // 10 % 2, "reward": ratings, "propensity": np.where(ratings == 5, 0.9, 0.1)}
        )
        frame.write_parquet(tmp_path / "log.parquet")
        log_of = read_log(tmp_path / "log.parquet")
        arrays, told = fit(log_of)
        assert (told["kind"], told["levels"], told["weighted"]) == ("ratings", 4, True)
        scores = arrays["users"] @ arrays["items"].T
        assert scores.mean() == pytest.approx(3.0, abs=0.05)
        plain, _ = fit(read_log(tmp_path / "log.parquet", propensities=False))
        assert (plain["users"] @ plain["items"].T).mean() == pytest.approx(4.6, abs=0.05)

    @pytest.mark.medium
    def test_users_leave_as_the_pauses_tell(self, tmp_path: Path) -> None:
        """Every user comes three times: four rows within minutes, then a pause of a day."""
        rows = np.arange(2_400)
        times = (rows % 12 // 4) * 86_400 + rows % 4 * 60
        found, _ = made_up(tmp_path, 2_400, user_id=rows // 12, timestamp=1_600_000_000 + times)
        assert fit(found)[1]["leave"] == pytest.approx(0.25)

    def test_rewards_that_never_differ_are_refused(self, tmp_path: Path) -> None:
        pl.DataFrame({"item_id": [0, 1], "reward": [1.0, 1.0], "propensity": [0.5, 0.5]}).write_csv(tmp_path / "a.csv")
        with pytest.raises(DataError, match="every reward is 1, so nothing can be predicted"):
            fit(read_log(tmp_path / "a.csv"))

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("users", [6, 30])
    def test_few_rows_of_whom_all_but_one_click(self, tmp_path: Path, users: int) -> None:
        every = np.arange(users)
        frame = pl.DataFrame({"user_id": every, "item_id": every % 2, "reward": every > 0, "propensity": 0.5})
        frame.write_csv(tmp_path / "a.csv")
        told = fit(read_log(tmp_path / "a.csv"))[1]
        assert np.isfinite([told["loss"], told["loss_of_the_mean"]]).all()
        assert sum(one["rows"] for one in told["calibration"]) == users

    def test_too_few_users_are_refused(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(
            {"user_id": [1, 1, 2], "item_id": [0, 1, 1], "reward": [1.0, 0, 0], "propensity": [0.5] * 3}
        )
        frame.write_csv(tmp_path / "a.csv")
        with pytest.raises(DataError, match="has 2 users, too few to fit to some and try on others"):
            fit(read_log(tmp_path / "a.csv"))


@pytest.fixture(scope="module")
def setup(dataset: Dataset, setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Of a model that was trained for a moment."""
    setup = log_setup(setup_of, tmp_path_factory.mktemp("model"))
    train(dataset, setup)
    return setup


class TestModel:
    """Users and items as the vectors of a trained model."""

    def shown(self, folder: Path, users: list[str], items: list[str], chances: np.ndarray) -> DecisionLog:
        """A log of random items; a click has the chance of its user and item."""
        rng, rows = np.random.default_rng(0), 5_000
        who, what = rng.integers(len(users), size=rows), rng.integers(len(items), size=rows)
        columns = {"user_id": np.array(users)[who], "item_id": np.array(items)[what], "propensity": 1 / len(items)}
        clicks = (rng.random(rows) < chances[who, what]).astype(float)
        pl.DataFrame({**columns, "reward": clicks}).write_parquet(folder / "shown.parquet")
        return read_log(folder / "shown.parquet")

    @pytest.mark.medium
    def test_foretells_what_follows_its_inner_products(self, setup: Setup, dataset: Dataset, tmp_path: Path) -> None:
        users, items = dataset.user_ids.to_list(), dataset.catalogue.ids.to_list()
        plain = self.shown(tmp_path, users, items, np.full((60, 80), 0.5))
        found = Vectors.of(setup, plain)
        order = np.argsort([users.index(one) for one in plain.user_ids])
        of_items = np.argsort([items.index(one) for one in plain.items.ids])
        scores = found.points[order] @ found.items[of_items].T
        chances = 1 / (1 + np.exp(1 - 2 * (scores - scores.mean()) / scores.std()))
        arrays, told = fit(self.shown(tmp_path, users, items, chances), model=Vectors.of(setup, plain))
        assert told["loss"] < told["loss_of_the_mean"] - 0.05
        foretold = 1 / (1 + np.exp(-(arrays["users"] @ arrays["items"].T)))
        assert np.sort(foretold.ravel()) == pytest.approx(np.sort(chances.ravel()), abs=0.2)

    def test_unknown_items_and_a_log_without_users_are_refused(self, setup: Setup, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the model does not know the items x1"):
            Vectors.of(setup, self.shown(tmp_path, ["u1", "u2"], ["i1", "x1"], np.full((2, 2), 0.5)))
        log_of, _ = made_up(tmp_path, 100)
        with pytest.raises(DataError, match="has no users, so the model has no histories"):
            Vectors.of(setup, log_of)


class TestMistakes:
    def test_of_files(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"cannot be read as a world .*what-next data world"):
            preset(str(tmp_path / "none.safetensors"))
        (tmp_path / "no.safetensors").write_bytes(b"nothing")
        with pytest.raises(ModelError, match="cannot be read as a world"):
            preset(str(tmp_path / "no.safetensors"))
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match="is no world of format 1"):
            preset(str(tmp_path / "model.safetensors"))

    def test_of_settings(self, tmp_path: Path) -> None:
        path = str(written(tmp_path))
        with pytest.raises(SetupError, match=r"slots is 3, and the log of .* had 2 positions"):
            preset(path, slots=3)
        with pytest.raises(SetupError, match=r"items is 5, and .* has 3"):
            preset(path, items=5)

    def test_of_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made_up(tmp_path, 2_000)
        for words, told in (
            (("log.parquet", "--to", "world.npz"), "world.npz: expected a name that ends in .safetensors"),
            (("none.parquet", "--to", "world.safetensors"), "none.parquet: no such file"),
        ):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setattr("sys.argv", ["what-next", "data", "world", *words])
            assert app.main() == 2
            assert told in capsys.readouterr().err
        monkeypatch.setattr("sys.argv", ["what-next", "data", "world", "log.parquet", "--to", "world.safetensors"])
        assert app.main() == 0
        assert "log loss on held-out rows" in capsys.readouterr().out
        assert preset("world.safetensors").items == 4
        alone = {"kind": "clicks", "users": 1, "items": 1, "loss": 0.5, "loss_of_the_mean": 0.50001}
        assert _fit_sentence(alone).startswith("1 kind of users, 1 item; log loss on held-out rows 0.5, no better")


def fitted_to(log_of: DecisionLog, folder: Path, rows: np.ndarray | None = None, **settings: Any) -> Fitted:
    write_world(*fit(log_of, rows=rows), folder / "world.safetensors")
    world = preset(str(folder / "world.safetensors"), **settings)
    assert isinstance(world, Fitted)
    return world


def mean_of(world: Fitted, policy: Policy, users: int = 4_000) -> tuple[float, float]:
    """Of a slot, and half of its interval."""
    found: Episodes = play(world, policy, users, np.random.default_rng(0))
    assert world.steps is not None
    return found.mean / (world.steps * world.slots), found.margin / (world.steps * world.slots)


class TestRealLogs:
    @pytest.mark.medium
    def test_the_click_rate_of_another_policy_is_foretold_within_its_interval(
        self, shared_data: Path, tmp_path: Path
    ) -> None:
        """Fitted to the log of the random policy of Open Bandit; the other is Thompson sampling's."""
        logs = {
            name: read_log(shared_data / "open-bandit-small" / name / "all" / "all.csv") for name in ("random", "bts")
        }
        world = fitted_to(logs["random"], tmp_path, slots=3)
        for name, log_of in logs.items():
            shares = np.bincount(log_of.actions, minlength=80) / len(log_of)
            rng = np.random.default_rng(1)
            foretold, _ = mean_of(world, lambda state, _: rng.choice(80, size=(len(state.age), 3), p=shares))  # noqa: B023
            rate = log_of.rewards.mean()
            assert abs(foretold - rate) < 1.96 * np.sqrt(rate * (1 - rate) / len(log_of)), name

    @pytest.mark.medium
    def test_the_mean_of_random_ratings_is_foretold_better_than_by_the_naive_mean(
        self, coat: Path, tmp_path: Path
    ) -> None:
        world = fitted_to(read_log(coat), tmp_path)
        foretold, margin = mean_of(world, world.references()["random"])
        assert abs(foretold - 2.229) + margin < abs(2.611 - 2.229)

    @pytest.mark.slow
    def test_five_policies_have_the_same_order_in_five_refits(self, coat: Path, tmp_path: Path) -> None:
        """Each to other users of the log, drawn with replacement."""
        log_of = read_log(coat)
        order = np.argsort(-_means(fitted_to(log_of, tmp_path)), kind="stable")
        some = {"best": order[:1], "upper": order[:150], "all": order, "lower": order[150:], "worst": order[-1:]}
        rng = np.random.default_rng(2)
        for _ in range(5):
            users = rng.integers(log_of.count, size=log_of.count)
            rows = np.concatenate([np.flatnonzero(log_of.units == user) for user in users])
            world = fitted_to(log_of, tmp_path, rows)
            means = [
                mean_of(world, lambda state, _, which=which: rng.choice(which, size=(len(state.age), 1)))[0]
                for which in some.values()
            ]
            assert means == sorted(means, reverse=True)


def _means(world: Fitted) -> np.ndarray:
    """The mean rating of each item."""
    found: np.ndarray = (world.user_vectors @ world.item_vectors.T).mean(0)
    return found


@pytest.fixture(scope="module")
def coat(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of coats that people chose themselves, with the chances that were estimated for them."""
    ratings, propensities = (np.loadtxt(shared_data / "coat" / f"{name}.ascii") for name in ("train", "propensities"))
    users, items = np.nonzero(ratings)
    columns = {"user_id": users, "item_id": items, "rating": ratings[users, items]}
    path = tmp_path_factory.mktemp("coat") / "coat.parquet"
    pl.DataFrame({**columns, "propensity": propensities[users, items] / 24}).write_parquet(path)
    return path
