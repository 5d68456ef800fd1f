"""Item vectors: rows agree with the table, and what nothing trains stays useful."""

import numpy as np
import pytest
import torch

from what_next.models.items import ItemVectors


def attributes(items: int = 6, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(items, width)).astype(np.float32)


def kinds() -> list[ItemVectors]:
    table = attributes()
    return [
        ItemVectors(6, 4),
        ItemVectors(6, 4, table, learned=False),
        ItemVectors(6, 4, table),
        ItemVectors(6, 4, table, seen=np.array([0, 3])),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_rows_are_rows_of_the_table_and_padding_is_zero(kind: int) -> None:
    vectors = kinds()[kind]
    with torch.no_grad():
        for parameter in vectors.parameters():
            parameter.normal_()
    ids = torch.tensor([[5, 0, -1], [3, 3, 2]])
    rows = vectors.rows(ids)
    torch.testing.assert_close(rows[ids >= 0], vectors()[ids[ids >= 0]])
    assert (rows[0, 2] == 0).all()


def test_padding_gives_no_gradient_even_to_the_first_item() -> None:
    vectors = ItemVectors(6, 4)
    vectors.rows(torch.tensor([-1, 2])).sum().backward()
    assert vectors.learned is not None
    assert vectors.learned.grad is not None
    assert vectors.learned.grad.sum(1).tolist() == [0, 0, 4, 0, 0, 0]


def test_a_sum_by_hand() -> None:
    vectors = ItemVectors(2, 2, np.array([[1, 2], [0, 1]], np.float32))
    assert vectors.map is not None
    assert vectors.learned is not None
    with torch.no_grad():
        vectors.map.copy_(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
        vectors.learned.copy_(torch.tensor([[10.0, 0.0], [0.0, 20.0]]))
    assert vectors().tolist() == [[11, 5], [0, 21]]


@pytest.mark.parametrize("table", [None, attributes(5000, 7)])
def test_vectors_start_with_a_length_of_one(table: np.ndarray | None) -> None:
    torch.manual_seed(0)
    vectors = ItemVectors(5000, 64, table)
    assert vectors().square().sum(1).mean().item() == pytest.approx(1, rel=0.1)


def test_rows_that_no_event_trains_stay_zero_beside_attributes() -> None:
    """A softmax over the whole catalogue has a gradient for every item; one with attributes alone must not take it."""
    torch.manual_seed(0)
    vectors = ItemVectors(6, 4, attributes(), seen=np.array([0, 3]))
    optimiser = torch.optim.AdamW(vectors.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        loss = torch.logsumexp(vectors() @ torch.ones(4), 0) - vectors.rows(torch.tensor([3]))[0] @ torch.ones(4)
        loss.backward()
        optimiser.step()
    assert vectors.learned is not None
    rows = vectors.learned.detach()
    assert (rows[[1, 2, 4, 5]] == 0).all()
    assert (rows[[0, 3]] != 0).all()
    assert (vectors().norm(dim=1) > 0).all()


def test_the_gradient_of_rows_is_sparse_where_asked_for() -> None:
    vectors = ItemVectors(1000, 4, sparse=True)
    vectors.rows(torch.tensor([7, 9, 7])).sum().backward()
    assert vectors.learned is not None
    gradient = vectors.learned.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert gradient.coalesce().indices().tolist() == [[7, 9]]
    assert gradient.to_dense()[7].tolist() == [2, 2, 2, 2]


def test_the_catalogue_is_not_saved_with_the_model() -> None:
    assert set(ItemVectors(6, 4, attributes(), seen=np.array([1])).state_dict()) == {"learned", "map"}


def test_nothing_to_make_vectors_of_is_refused() -> None:
    with pytest.raises(AssertionError):
        ItemVectors(6, 4, learned=False)
    with pytest.raises(AssertionError):
        ItemVectors(7, 4, attributes())
