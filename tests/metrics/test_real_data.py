"""MovieLens 100K: what rules without learning earn, against figures sketched by hand on 150 other users."""

import numpy as np
import pytest

from what_next.baselines.rules import NearestMean, Oracle, RandomItem, Steer, TrueNext
from what_next.data import Dataset, split_users
from what_next.data.public.sets import ml_100k
from what_next.experiments.windows import compare_on_windows
from what_next.metrics.windows import Sampling, draw_windows

SKETCHED = {
    "random": (0.021, 0.003, 0.000),
    "true_next": (0.042, 0.012, 0.000),
    "nearest_mean": (0.044, 0.015, 0.001),
    "steer": (0.20, 0.06, 0.03),
    "oracle": (0.26, 0.16, 0.09),
}


@pytest.fixture(scope="module")
def films(shared_data):
    raw = ml_100k(shared_data / "ml-100k")
    return Dataset.from_frame(raw.log, raw.items, name="ml-100k", attributes=raw.attributes, fill="median")


@pytest.fixture(scope="module")
def result(films, stand_in):
    split = split_users(films)
    seen = np.unique(films.items[np.repeat(split.known > 0, films.lengths)])
    vectors = films.catalogue.standardised(seen).vectors
    sampling, history_of = Sampling(vectors), stand_in(films, vectors)
    training = np.flatnonzero(split.known)[::4].astype(np.int32)
    zeros = np.zeros(len(training), np.int64)
    typical = float(history_of(training, zeros, zeros + 1).sigma.mean())
    windows = {
        length: draw_windows(films, split.test, history_of, length=length, per_user=3, since=split.until)
        for length in (5, 10, 20)
    }
    policies = {
        "random": [RandomItem(len(vectors))] * 3,
        "true_next": [TrueNext({length: part.following for length, part in windows.items()})],
        "nearest_mean": [NearestMean(sampling)],
        "steer": [Steer(sampling, typical)],
        "oracle": [Oracle(sampling)],
    }
    return compare_on_windows(policies, windows, sampling)


@pytest.mark.parametrize("name", SKETCHED)
def test_rules_earn_about_what_was_sketched(result, name):
    told = [result["policies"][name][f"spread@{length}"]["mean"] for length in (5, 10, 20)]
    assert told == pytest.approx(SKETCHED[name], abs=0.025)


def test_there_is_something_to_learn(result):
    random, oracle = (result["policies"][name]["spread@5"] for name in ("random", "oracle"))
    assert oracle["low"] > 5 * random["high"]
    assert result["share_of_oracle"]["steer"]["spread@5"]["low"] > 0.5


def test_random_hits_by_chance_alone_and_covers_what_as_many_draws_cover(result):
    random, draws = result["policies"]["random"], sum(one["windows"] for one in result["windows"].values())
    assert random["window_hr@10"]["mean"] == pytest.approx(10 / 1662, abs=0.004)
    assert random["coverage"]["mean"] == pytest.approx(1 - np.exp(-draws / 1682), abs=0.02)
    assert random["repeats"]["mean"] == pytest.approx(0.06, abs=0.03)


def test_all_are_judged_on_the_same_users(result):
    assert {one["spread@5"]["n"] for one in result["policies"].values()} == {189}
    assert result["windows"]["20"]["users"] + result["windows"]["20"]["too_short"] == 189
