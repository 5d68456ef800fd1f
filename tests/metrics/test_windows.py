"""Windows are what an agent reads, and an event follows each of them."""

import numpy as np
import pytest

from what_next.metrics.windows import draw_windows


def test_every_window_is_of_its_length_and_what_follows_is_the_next_event(crowd):
    windows = draw_windows(crowd.dataset, crowd.users, crowd.history_of, length=5)
    assert windows.history.items.shape == (len(windows), 5)
    assert (windows.history.lengths == 5).all()
    for user, items, following in zip(windows.users, windows.history.items, windows.following, strict=True):
        log = crowd.dataset.items[crowd.dataset.offsets[user] : crowd.dataset.offsets[user + 1]].tolist()
        runs = [log[start : start + 6] for start in range(len(log) - 5)]
        assert [*items.tolist(), following] in runs


def test_a_user_gives_at_most_as_many_windows_as_asked_for_and_the_short_ones_are_counted(crowd):
    windows = draw_windows(crowd.dataset, crowd.users, crowd.history_of, length=5, per_user=20)
    assert np.bincount(windows.users, minlength=6).tolist() == [20, 20, 20, 20, 4, 0]
    assert windows.too_short == 1


def test_windows_are_drawn_without_replacement(world):
    known = world([[0], [1]], [0] * 50)
    seen = []

    def history_of(users, starts, lengths):
        seen.extend(starts.tolist())
        return known.history_of(users, starts, lengths)

    draw_windows(known.dataset, known.users, history_of, length=10, per_user=40)
    assert sorted(seen) == list(range(40))


def test_the_seed_fixes_the_windows(crowd):
    def items(seed: int) -> np.ndarray:
        windows = draw_windows(crowd.dataset, crowd.users, crowd.history_of, length=5, per_user=3, seed=seed)
        return windows.history.items

    assert np.array_equal(items(1), items(1))
    assert not np.array_equal(items(1), items(2))


def test_what_follows_lies_in_the_part_of_the_split_that_is_judged(world):
    known = world([[0], [1], [2], [3], [4], [5]], [0, 1, 2, 3, 4, 5])
    since, until = np.array([4]), np.array([5])
    test = draw_windows(known.dataset, known.users, known.history_of, length=2, since=since)
    validation = draw_windows(known.dataset, known.users, known.history_of, length=2, since=since, until=until)
    assert test.following.tolist() == [4, 5]
    assert validation.following.tolist() == [4]


def test_no_windows_where_every_user_is_too_short(crowd):
    windows = draw_windows(crowd.dataset, crowd.users, crowd.history_of, length=30)
    assert len(windows) == 0
    assert windows.too_short == 6


@pytest.mark.parametrize(("item", "heard"), [(3, True), (0, True), (4, False), (-1, False)])
def test_an_item_is_a_repeat_wherever_in_the_whole_history_it_is(world, item, heard):
    known = world([[0], [1], [2], [3], [4]], [4, 4, 4], [0, 1, 2, 3])
    windows = draw_windows(known.dataset, known.users, known.history_of, length=2, per_user=1)
    assert windows.users.tolist() == [0, 1]
    assert windows.heard(np.array([[4, item]], np.int32)).tolist() == [[True, heard]]
