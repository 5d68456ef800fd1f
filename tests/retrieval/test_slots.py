"""Slates slot by slot: an item that was chosen keeps like ones away."""

import numpy as np
import pytest
import torch

from what_next.errors import NotFinite
from what_next.losses.rl import plackett_luce
from what_next.retrieval import Exact, Priced, SlotBySlot
from what_next.types import EpsilonGreedy, Greedy, Permitted, Request, Softmax

VECTORS = torch.tensor([[3.0, 0], [2.5, 0], [2.0, 0], [1.0, 0]])  # the last column is the weight's
TRAITS = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0]])  # 0 and 1 are alike, and 2 and 3


def backend() -> SlotBySlot:
    return SlotBySlot(Exact(VECTORS), TRAITS)


def points(weight: float, rows: int = 1) -> np.ndarray:
    return np.array([[1.0, weight]] * rows, np.float32)


@pytest.mark.parametrize(
    ("weight", "slate"),
    [(0.0, [0, 1, 2, 3]), (1.0, [0, 2, 1, 3]), (3.0, [0, 2, 1, 3]), (-1.0, [0, 1, 2, 3])],
)
def test_the_best_by_hand(weight: float, slate: list[int]) -> None:
    """With a weight of 1, 1 falls to 1.5 once 0 is chosen, below 2; then 3 falls to 0."""
    found = backend().act(points(weight), Request(4, Greedy()), None)
    assert found.items[0].tolist() == slate
    assert found.propensities[0].tolist() == [1.0] * 4


def test_scores_are_those_at_the_time_of_choosing() -> None:
    assert backend().act(points(1.0), Request(4), None).scores[0].tolist() == [3.0, 2.0, 1.5, 0.0]


def test_likeness_is_the_same_whether_it_is_kept_or_made(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, traits = torch.randn(50, 5), torch.randn(50, 3)
    asked = rng.standard_normal((200, 5)).astype(np.float32)
    kept = SlotBySlot(Exact(vectors), traits).act(asked, Request(6), None).items
    monkeypatch.setattr("what_next.retrieval.slots.SQUARE", 10)
    assert np.array_equal(kept, SlotBySlot(Exact(vectors), traits).act(asked, Request(6), None).items)


def test_items_that_are_not_permitted_are_not_chosen_and_keep_nothing_away() -> None:
    permitted = Permitted.of(without=np.array([[0], [2]], np.int32))
    found = backend().act(points(1.0, 2), Request(4, permitted=permitted), None)
    assert found.items.tolist() == [[1, 2, 3, -1], [0, 1, 3, -1]]
    assert found.fallback[:, 3].all()


@pytest.mark.parametrize("sampler", [Greedy(), Softmax(0.7), EpsilonGreedy(0.3)])
def test_the_chance_that_is_told_is_the_one_that_is_judged(sampler: object) -> None:
    request = Request(3, sampler)
    found = backend().act(points(0.8, 20), request, np.random.default_rng(1))
    judged = np.stack(list(backend().chances(points(0.8, 20), request, found.items)), 1)
    own = np.take_along_axis(judged, found.items[..., None].astype(np.int64), 2)[..., 0]
    assert np.allclose(found.propensities, own, atol=1e-6)


def test_draws_have_the_chance_that_the_loss_learns_from() -> None:
    asked = points(0.8, 5)
    found = backend().act(asked, Request(3, Softmax()), np.random.default_rng(2))
    scores = torch.from_numpy(asked) @ VECTORS.T
    logs, _ = plackett_luce(scores, torch.from_numpy(found.items).long(), torch.from_numpy(asked[:, -1]), TRAITS)
    assert np.allclose(np.log(found.propensities).sum(1), logs, atol=1e-5)


def test_slates_are_drawn_as_often_as_their_chance_says() -> None:
    rows, request = 4000, Request(2, Softmax())
    found = backend().act(points(1.0, rows), request, np.random.default_rng(3))
    for slate in ([0, 2], [0, 1], [2, 0]):
        chance = next(iter(found.propensities[(found.items == slate).all(1)])).prod()
        share = (found.items == slate).all(1).mean()
        assert share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / rows) ** 0.5)


def test_rows_may_ask_for_different_numbers() -> None:
    found = backend().act(points(1.0, 2), Request([1, 3], Softmax()), np.random.default_rng(0))
    assert (found.items >= 0).sum(1).tolist() == [1, 3]


def test_a_point_that_is_not_finite_is_named() -> None:
    wrong = points(1.0, 3)
    wrong[1, 0] = np.nan
    with pytest.raises(NotFinite) as error:
        backend().act(wrong, Request(2), None)
    assert error.value.rows == [1]


class TestPriced:
    """Items 0 and 1 do the same to a user, 2 and 3 likewise; log odds of clicks are those of the first column."""

    def backend(self) -> Priced:
        return Priced(Exact(VECTORS[:, :1]), TRAITS)

    @staticmethod
    def by_hand(odds: float, prices: tuple[float, float], weight: float) -> list[int]:
        chances = 1 / (1 + np.exp(-odds * VECTORS[:, 0].numpy()))
        left, slate = 1 - TRAITS.numpy() @ prices, list[int]()
        for _ in range(3):
            scores = np.where(np.isin(np.arange(4), slate), -np.inf, chances * left)
            slate.append(int(scores.argmax()))
            left = left - weight * chances[slate[-1]] * (TRAITS.numpy() @ TRAITS[slate[-1]].numpy())
        return slate

    @pytest.mark.parametrize(
        ("prices", "weight", "slate"),
        [
            ((0.0, 0), 0.0, [0, 1, 2]),
            ((0.5, 0), 0.0, [2, 3, 0]),
            ((0.0, 0), 0.5, [0, 2, 1]),
            ((0.4, 0), 0.9, [2, 0, 3]),
        ],
    )
    def test_the_best_by_hand(self, prices: tuple[float, float], weight: float, slate: list[int]) -> None:
        point = np.array([[1.0, 0, 0, *prices, 0, weight]], np.float32)
        assert self.by_hand(1.0, prices, weight) == slate
        assert self.backend().act(point, Request(3, Greedy()), None).items[0].tolist() == slate

    def test_numbers_as_they_are_cost_as_prices_do(self) -> None:
        asked = np.array([[1.0, 0.4, 0.8, 0, 0, 0.5, 0.7], [1.0, 9, 9, 0.2, 0.4, 0, 0.7]], np.float32)
        found = self.backend().act(asked, Request(4, Greedy()), None)
        assert found.items[0].tolist() == found.items[1].tolist()
        assert found.scores is not None
        assert found.scores[0] == pytest.approx(found.scores[1])

    def test_only_what_is_permitted_and_every_chance_as_it_is_judged(self) -> None:
        point = np.array([[1.0, 0.3, 0, 0.1, 0.2, 0.4, 0.5]] * 2, np.float32)
        permitted = Permitted.of(without=np.array([[0], [2]], np.int32))
        found = self.backend().act(point, Request(4, permitted=permitted), None)
        assert [sorted(row) for row in found.items.tolist()] == [[-1, 1, 2, 3], [-1, 0, 1, 3]]
        request = Request(3, Softmax(0.5))
        found = self.backend().act(point, request, np.random.default_rng(1))
        judged = np.stack(list(self.backend().chances(point, request, found.items)), 1)
        own = np.take_along_axis(judged, found.items[..., None].astype(np.int64), 2)[..., 0]
        assert found.propensities == pytest.approx(own, rel=1e-5)
