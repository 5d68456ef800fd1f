"""What rewards read of a data set: words as numbers, and no more of a user than training may know."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from what_next import Dataset
from what_next.errors import SetupError
from what_next.rewards import NEVER, Diversity, Logged, Novelty, ProfileCorrelation, RewardLog, check
from what_next.types import History

LOG = pl.DataFrame(
    {
        "user": [1] * 5 + [2] * 3,
        "item": ["a", "b", "c", "a", "b", "b", "c", "c"],
        "time": [10, 20, 30, 40, 50, 10, 20, 30],
        "event": ["play", "play ", "skip", "add to cart", "skip", "play", "skip", "play"],
        "rating": [5, 4, 1, 5, 2, 3, 3, 5],
    }
)
ITEMS = pl.DataFrame({"item": ["a", "b", "c"], "tempo": [0.0, 3.0, 6.0], "energy": [1.0, 0.0, 2.0]})
VECTORS = np.array([[0, 1], [3, 0], [6, 2]], np.float32)
DATA = Dataset.from_frame(LOG, ITEMS, name="songs")
WORDS = {"play": 1.0, "skip": -1.0, "addtocart": 5.0}


def history(users: list[int], before: list[int], lengths: list[int]) -> History:
    width = max(lengths)
    items = np.full((len(users), width), -1, np.int32)
    for row, (user, start, length) in enumerate(zip(users, before, lengths, strict=True)):
        first = DATA.offsets[user] + start
        items[row, :length] = DATA.items[first : first + length]
    return History(
        users=np.array(users, np.int32),
        items=items,
        lengths=np.array(lengths),
        rewards=np.zeros(items.shape, np.float32),
        context=np.zeros((*items.shape, 0), np.float32),
        sigma=np.ones(len(users), np.float32),
        before=np.array(before),
    )


class TestWords:
    def test_each_word_earns_its_number_whatever_its_case_and_white_space(self) -> None:
        assert DATA.event_words == ("add to cart", "play", "skip")
        assert Logged(**WORDS).of_events(DATA).tolist() == [1, 1, -1, 5, -1, 1, -1, 1]
        assert Logged(**WORDS).range == (-1, 5)

    def test_without_numbers_the_reward_column_counts_and_without_one_every_event_earns_1(self) -> None:
        assert Logged().of_events(DATA).tolist() == [5, 4, 1, 5, 2, 3, 3, 5]
        bare = Dataset.from_frame(LOG.drop("rating"), ITEMS)
        assert Logged().of_events(bare).tolist() == [1] * 8

    def test_the_values_of_the_reward_column_are_words_where_there_are_no_others(self) -> None:
        rated = Dataset.from_frame(LOG.with_columns(rating=pl.col("rating") / 2).drop("event"), ITEMS, name="rated")
        logged = Logged(**{"2.5": 1, "2": 1, "1.5": 0, "1": -1, "0.5": -1})
        assert logged.of_events(rated).tolist() == [1, 1, -1, 1, -1, 0, 0, 1]
        with pytest.raises(SetupError, match=r"no number for '0\.5'; the events of rated are 0\.5, 1, 1\.5, 2, 2\.5;"):
            check([Logged(**{"2": 1}, weight=1)], rated)

    def test_a_word_without_a_number_is_refused_with_the_words_that_the_data_have(self) -> None:
        for refuse in (Logged(play=1, skip=-1).of_events, Logged(play=1, skip=-1).check):
            with pytest.raises(
                SetupError,
                match=r"reward.logged has no number for 'add to cart'; the events of songs are add to cart, "
                r"play, skip; add reward\.logged\.addtocart",
            ):
                refuse(DATA)

    def test_numbers_without_words_are_refused(self) -> None:
        with pytest.raises(SetupError, match=r"numbers for play, and frame has no column of words; .*--event COLUMN"):
            Logged(play=1).check(Dataset.from_frame(LOG.drop("event", "rating"), ITEMS))

    def test_a_word_that_the_data_lack_does_no_harm(self) -> None:
        assert Logged(**WORDS, purchase=9).of_events(DATA).tolist() == Logged(**WORDS).of_events(DATA).tolist()


class TestHeard:
    KNOWN = np.array([4, 0])
    """Training knows four events of the first user; the second is set aside."""

    def log(self, *terms) -> RewardLog:
        return RewardLog.of(DATA, self.KNOWN, VECTORS, Logged(**WORDS), terms)

    def test_a_window_from_the_middle_has_its_own_rewards_times_and_what_follows(self) -> None:
        heard = self.log().events(history([0, 1, 0], [1, 0, 2], [2, 3, 2]))
        assert heard.items.tolist() == [[1, 2, -1], [1, 2, 2], [2, 0, -1]]
        assert heard.rewards.tolist() == [[1, -1, 0], [1, -1, 1], [-1, 5, 0]]
        assert heard.times[:, :2].tolist() == [
            [20 * 10**6, 30 * 10**6],
            [10 * 10**6, 20 * 10**6],
            [30 * 10**6, 40 * 10**6],
        ]
        # The fifth event of the first user is not known to training.
        assert heard.after.tolist() == [40 * 10**6, NEVER, NEVER]

    def test_the_popularity_is_of_training_events_alone(self) -> None:
        popularity = self.log(Novelty()).popularity
        assert popularity is not None
        assert popularity.tolist() == [1 / 2, 1 / 4, 1 / 4]
        assert self.log().popularity is None  # where no reward asks

    def test_the_profile_is_the_mean_of_what_training_may_know_or_all_of_a_user_set_aside(self) -> None:
        rows = history([1, 0], [0, 1], [1, 1])
        heard = self.log(ProfileCorrelation()).events(rows)
        assert heard.profile.tolist() == [[pytest.approx(5), pytest.approx(4 / 3)], [pytest.approx(9 / 4), 1]]
        assert self.log(Diversity()).events(rows).profile is None

    def test_a_log_without_times_has_none(self) -> None:
        timeless = replace(DATA, timestamps=None)
        heard = RewardLog.of(timeless, self.KNOWN, VECTORS, Logged(), ()).events(history([0], [0], [2]))
        assert (heard.times, heard.after) == (None, None)
