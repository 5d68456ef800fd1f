"""`linear`: a model of items by items beside the network, weighed by validation, and the same wherever it is asked."""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import what_next as wn
from what_next import Agent, Environment, LearnedPolicy, Setup, State
from what_next.baselines.counts import Known, Rows
from what_next.data.cooccurrence import directions
from what_next.experiments import models
from what_next.experiments.models import is_trained
from what_next.inference.extend import NewItem, extend
from what_next.inference.recommender import Recommender
from what_next.inference.session import Event, Sessions
from what_next.models import linear as linear_module
from what_next.models.linear import PENALTY, RECALLED, LinearTerm, ranks_of
from what_next.sources import LogSource
from what_next.training import validation
from what_next.training.artefacts import read_manifest, read_models
from what_next.training.weighing import REGRESSION, recent_of, weigh
from what_next.types import Permitted, Product, Proposal, Request

GROUPS, EACH = 12, 6
PENALTIES = [REGRESSION, f"{REGRESSION}, penalty 1", f"{REGRESSION}, penalty 100"]
NEWER = (
    "bias", "next_items", "next_shares", "next_totals", "penalty", "popularity", "repeat", "repeat_decay", "replay",
    "tag_steps", "tags_kept", "transition", "transition_decay", "zero_diagonal",
)  # fmt: skip
"""What the first of such models did not have."""


def hobbies(users: int = 240, heard: int = 5) -> pl.DataFrame:
    """Each user draws items of one hobby, in any order: who had what tells what comes next, and the last item no more
    than the others."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        own = rng.permutation(EACH)[:heard] + EACH * (user % GROUPS)
        rows += [(user, int(item), step) for step, item in enumerate(own)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def setup(folder: Path, *overrides: str, name: str = "agent") -> Setup:
    """A network that learns next to nothing in the time that it has."""
    path = folder / "log.csv"
    hobbies().write_csv(path)
    text = f"train, yes, data, {path}, algorithm, next_item, dim, 4, passes, 1, learning_rate, 1e-6, "
    return Setup.from_text(text + f"inputs.start, random, model_agent_path, {name}.safetensors", folder, overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    made = setup(tmp_path_factory.mktemp("linear"))
    Environment.from_setup(made).run_sim()
    return made


def term() -> LinearTerm:
    """Three items along two directions; gains of 1/2 and 1/3."""
    found = LinearTerm(3)
    columns = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    found.learn(columns, np.array([PENALTY, PENALTY / 2], np.float32), np.array([0, 3, 1]))
    return found


def count_transitions(linear: LinearTerm, steps: np.ndarray) -> None:
    counted = Rows.counted(*steps, len(linear.directions))
    linear.learn_transitions(counted.offsets, counted.columns, counted.values)


def test_what_a_history_points_to_by_hand() -> None:
    """Item 0, then item 2, at a decay of .5: (.5 + .6, .8) by the gains is (.55, .2667), of length 1."""
    linear = term()
    linear.choose(weight=2.0, decay=0.5, temperature=4.0)
    past = linear.past(torch.tensor([0, 2, 1]), torch.tensor([2, 1])).foretold
    wanted = np.array([0.55, 0.8 / 3])
    np.testing.assert_allclose(past[0, :2], wanted / np.linalg.norm(wanted), rtol=1e-6)
    np.testing.assert_allclose(past[1, :2], [0, 1])
    points, columns = linear.extended(torch.tensor([[3.0], [1.0]]), past), linear.columns(torch.ones(3, 1))
    scores = points @ columns.T
    by_hand = (3 + 2 * linear.directions[:, :2].numpy() @ (wanted / np.linalg.norm(wanted))) / 4
    np.testing.assert_allclose(scores[0], by_hand, rtol=1e-6)


def test_with_a_zero_diagonal_it_is_ease() -> None:
    """The whole decomposition of who had what, and the inverse of equation 8 of EASE at the penalty that counts."""
    had = np.random.default_rng(0).random((40, 7)) < 0.4
    _, strengths, rows = np.linalg.svd(had.astype(np.float64), full_matrices=False)
    linear = LinearTerm(7)
    linear.learn(np.float32(rows.T), np.float32(strengths**2), had.sum(0))
    linear.choose(weight=2.0, penalty=0.1, zero_diagonal=1.0)
    inverse = np.linalg.inv(had.T.astype(np.float64) @ had + 0.1 * PENALTY * np.eye(7))
    ease = np.eye(7) - inverse / inverse.diagonal()
    history, others = [1, 4], [0, 2, 3, 5, 6]
    past = linear.past(torch.tensor(history), torch.tensor([2])).foretold
    scores = (linear.extended(torch.zeros(1, 1), past) @ linear.columns(torch.ones(7, 1)).T)[0, others].numpy()
    wanted = ease[history].sum(0)[others]
    np.testing.assert_allclose(scores / scores[0], wanted / wanted[0], rtol=1e-4)
    linear.grow(8)  # about the last of which nothing is known
    columns = linear.columns(torch.ones(8, 1))
    np.testing.assert_allclose((linear.extended(torch.zeros(1, 1), past) @ columns.T)[0, others], scores, rtol=1e-5)
    assert (columns[7, 1:8] == 0).all()


def test_what_is_popular_by_hand() -> None:
    """0, 3 and 1 users: the logarithms of 1, 4 and 2 less their mean, which is that of 2. What comes later has 0."""
    linear = term()
    linear.choose(bias=3.0, temperature=2.0)
    linear.grow(4)
    points, columns = linear.extended(torch.tensor([[5.0]]), torch.zeros(1, 2)), linear.columns(torch.ones(4, 1))
    np.testing.assert_allclose((points @ columns.T)[0], (5 + 3 * np.log([0.5, 2, 1, 1])) / 2, rtol=1e-6)


def test_what_came_next_in_the_history_by_hand() -> None:
    """After 0 came first 1, then 2, then 0 again, and 0 is the last: the item after the latest one counts whole, the
    one before it .8, the first .64, of a sum of 1. In the second history nothing came before."""
    linear = LinearTerm(3)
    linear.choose(replay=3.0, temperature=2.0)
    recent = linear.past(torch.tensor([0, 1, 0, 2, 0, 0, 1, 2]), torch.tensor([6, 2])).recent
    assert recent is not None
    assert recent.tolist() == [[0, 1, 0, 2, 0, 0], [-1, -1, -1, -1, 1, 2]]
    wanted = 3 / 2 * np.array([0, 0.64, 0, 0.8, 0, 1]) / 2.44
    np.testing.assert_allclose(linear.boosts(recent)[1], [wanted, np.zeros(6)], rtol=1e-5)


def test_what_a_history_holds_by_hand() -> None:
    """After 0, 2 and 0 again, where an event counts half of the one after it: 1/4, 1/2 and 1, of a sum of 1."""
    linear = LinearTerm(3)
    linear.choose(repeat=3.0, repeat_decay=0.5, temperature=2.0)
    assert linear.counts
    recent = linear.past(torch.tensor([0, 2, 0, 1]), torch.tensor([3, 1])).recent
    assert recent is not None
    wanted = 3 / 2 * np.array([[1 / 7, 2 / 7, 4 / 7], [0, 0, 1]])
    np.testing.assert_allclose(linear.boosts(recent)[1], wanted, rtol=1e-6)


def test_which_items_came_next_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 0 was followed by 1 twice, by 2 and 3 once, 1 by 0: of 0 there are 2/5 and 1/5, of 1 there is 1/2. After 0
    and then 1 an event counts .8 of the one after it."""
    monkeypatch.setattr("what_next.models.linear.SUCCESSORS", (2, 2))
    linear = LinearTerm(4)
    count_transitions(linear, np.array([[0, 0, 0, 1, 0], [3, 1, 2, 0, 1]], np.int32))
    linear.choose(transition=4.0, transition_decay=0.8, temperature=2.0)
    recent = linear.past(torch.tensor([0, 1]), torch.tensor([2])).recent
    assert recent is not None
    items, amounts = linear.boosts(recent)
    assert items.tolist() == [[0, 1, 1, 2, 0, -1]]
    np.testing.assert_allclose(amounts, 2 * np.array([[0, 0, 0.8 * 2 / 5, 0.8 / 5, 1 / 2, 0]]), rtol=1e-6)
    linear.choose(transition=4.0, repeat=2.0, repeat_decay=1.0)
    _, amounts = linear.boosts(torch.tensor([[-1, 1]]))
    np.testing.assert_allclose(amounts, [[0, 2, 0, 0, 2, 0]])
    linear.grow(5)
    assert linear.next_items[4].tolist() == [-1, -1]


def test_what_a_new_item_comes_next_of_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 0 was followed by 1 twice and by 2 once, 2 by 1 once, 1 by none. Of item 3 tags tell 1 and 2, the former
    thrice as likely; of item 4 nothing."""
    monkeypatch.setattr("what_next.models.linear.SUCCESSORS", (3, 3))
    linear = LinearTerm(3)
    linear.learn(np.eye(3, dtype=np.float32), np.full(3, PENALTY, np.float32), np.ones(3, np.int64))
    count_transitions(linear, np.array([[0, 0, 0, 2], [1, 1, 2, 1]], np.int32))
    linear.tag_steps.fill_(10.0)
    linear.grow(5)
    linear.place(np.arange(3, 5), np.array([0, 2, 2]), np.array([1, 2], np.int32), np.array([0.6, 0.2], np.float32))
    assert linear.directions[3:].tolist() == [[0, 0.75, 0.25], [0, 0, 0]]
    rows = [
        dict(zip(*one, strict=True))
        for one in zip(linear.next_items.tolist(), linear.next_shares.tolist(), strict=True)
    ]
    assert rows[3] == pytest.approx({1: 6 / 9, 2: 2 / 9, -1: 0})
    assert rows[0] == pytest.approx({1: 2 / 4, 2: 1 / 4, 3: 0.75 * 2 / 4 + 0.25 / 4})  # as they do on average
    assert rows[1] == pytest.approx({3: 6 / 7, -1: 0})  # as by tags alone
    assert rows[2] == pytest.approx({1: 1 / 2, 3: 2 / 3, -1: 0})  # the larger of both: .75 / 2 on average
    assert rows[4] == {-1: 0}
    linear.grow(6)
    linear.place(np.array([5]), np.array([0, 1]), np.array([0], np.int32), np.array([0.01], np.float32))
    assert linear.next_items[0].tolist() == [1, 2, 3]  # what came next more often stays
    linear.place(np.array([3]), np.array([0, 1]), np.array([2], np.int32), np.array([0.2], np.float32))  # it is another
    assert linear.directions[3].tolist() == [0, 0, 1]
    assert linear.next_items.tolist()[3] == [2, -1, -1]
    assert [3 in row for row in linear.next_items.tolist()] == [True, False, True, False, False, False]
    linear.place(np.array([3]), np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.float32))  # nothing tells of it
    assert not linear.directions[3].any()
    assert 3 not in linear.next_items
    linear.tag_steps.fill_(0.0)  # tags do not count there
    linear.grow(7)
    linear.place(np.array([6]), np.array([0, 1]), np.array([1], np.int32), np.array([0.6], np.float32))
    assert 6 not in linear.next_items.tolist()[1]


@pytest.mark.parametrize(("transition", "kept"), [(0.0, 0), (1.0, 3)])
def test_transitions_that_do_not_count_are_forgotten(transition: float, kept: int) -> None:
    linear = LinearTerm(3)
    count_transitions(linear, np.array([[0, 1, 2], [1, 2, 0]], np.int32))
    linear.choose(bias=1.0, transition=transition)
    linear.forget()
    assert linear.next_items.shape[1] == linear.next_shares.shape[1] == kept
    linear.tag_steps.fill_(10.0)
    linear.grow(4)
    linear.place(np.array([3]), np.array([0, 1]), np.array([1], np.int32), np.array([0.6], np.float32))
    assert (3 in linear.next_items[1].tolist()) == bool(kept)


def test_only_the_latest_events_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("what_next.models.linear.RECALLED", 3)
    linear = LinearTerm(3)
    linear.choose(replay=1.0)
    found = linear.past(torch.tensor([0, 1, 0, 0, 1, 2, 0]), torch.tensor([3, 4])).recent
    assert found is not None
    assert found.tolist() == [[0, 1, 0], [1, 2, 0]]  # the first 0 is four events ago
    grid = linear.past_on_grid(torch.tensor([[0, 1, 2, 0]])).recent
    assert grid is not None
    assert grid.tolist() == [[[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [1, 2, 0]]]
    assert not linear.boosts(grid[:, 3])[1].any()


@pytest.mark.parametrize(
    ("numbers", "count"),
    [({}, 0), ({"transition": 2.0}, 1), ({"transition_decay": 0.4}, 10), ({"transition_decay": 1.0}, 40)],
)
def test_no_more_is_looked_through_than_counts(
    numbers: dict[str, float], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is added is what a look through seventy events finds, where more of them cannot count."""
    monkeypatch.setattr("what_next.models.linear.MANY", 40 * 5)
    linear, walk = LinearTerm(5), np.random.default_rng(0).integers(0, 5, 99, np.int32)
    count_transitions(linear, np.stack([walk[:-1], walk[1:]]))
    linear.choose(**({"transition": 2.0} | numbers if numbers else {}))
    items = torch.from_numpy(walk[:70]).long()
    recent = linear.past(items, torch.tensor([70])).recent
    assert (0 if recent is None else recent.shape[1]) == linear.recalled == count
    grid = linear.past_on_grid(items[None]).recent
    assert (grid is None) == (recent is None)
    if recent is not None and grid is not None:
        assert grid[0, -1].tolist() == recent[0].tolist() == items[-count:].tolist()
        found, wanted = (torch.zeros(5) for _ in range(2))
        for sums, some in ((found, recent), (wanted, items[None])):
            places, amounts = (one[0] for one in linear.boosts(some))
            sums.index_add_(0, places[places >= 0], amounts[places >= 0])
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert found.any()


def test_transitions_that_were_saved_by_their_earlier_name_count() -> None:
    linear, later = LinearTerm(3), LinearTerm(3)
    count_transitions(linear, np.array([[0, 0, 1], [1, 2, 0]], np.int32))
    linear.choose(transition=4.0, transition_decay=0.95)
    saved = linear.state_dict()
    saved |= {"step": saved.pop("transition"), "step_decay": saved.pop("transition_decay")}
    later.load_state_dict(saved)
    assert later.last == linear.last == RECALLED
    recent = torch.tensor([[1, 0]])
    for found, wanted in zip(later.boosts(recent), linear.boosts(recent), strict=True):
        np.testing.assert_allclose(found, wanted)
    assert later.boosts(recent)[1].any()


def test_what_was_saved_without_a_bias_scores_as_it_did() -> None:
    linear, later = term(), term()
    linear.choose(weight=2.0)
    saved = {name: value for name, value in linear.state_dict().items() if name not in NEWER}
    saved |= {"pull": torch.tensor(2.0), "successors": torch.ones(3, 5)}  # which later versions have no more
    count_transitions(later, np.array([[0], [1]], np.int32))
    later.choose(bias=4.0, replay=4.0, repeat=4.0, transition=4.0)
    later.load_state_dict(saved)
    points, past = torch.ones(1, 1), linear.past(torch.tensor([1]), torch.tensor([1])).foretold
    before, after = ((one.extended(points, past) @ one.columns(torch.ones(3, 1)).T) for one in (linear, later))
    assert not later.bias
    assert not later.replay
    assert not later.repeat
    assert not later.recalled
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_there_are_more_directions_where_there_are_fewer_items() -> None:
    with torch.device("meta"):
        assert [LinearTerm(count).rank for count in (3, 500, 2048, 4096, 10**6)] == [3, 500, 512, 512, 64]
    found = {3: (3,), 800: (512, 800), 4096: (512, 1024), 2**16: (64, 512, 1024), 2**17: (64, 512), 2**17 + 1: (64,)}
    assert {count: ranks_of(count) for count in found} == found


@pytest.mark.parametrize(("strength", "taken"), [(19.0, 3), (21.0, 4)])
def test_still_more_directions_are_tried_where_the_last_one_counts(
    strength: float, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ridge regression keeps 19 / 119 = .16 of the last one, or 21 / 121 = .17."""
    monkeypatch.setattr("what_next.models.linear.RANKS", (3, 3, 4))
    monkeypatch.setattr("what_next.training.weighing.RANKS", (3, 3, 4))
    linear, every = LinearTerm(5), np.eye(5, dtype=np.float32)

    def learn(rank: int) -> None:
        linear.learn(every[:, :rank], np.array([300.0, 200.0, strength, 9.0], np.float32)[:rank], np.ones(5, np.int64))

    learn(3)
    assert weigh(linear, "ndcg@10", lambda: float(linear.rank * (linear.weight > 0)), lambda: 0.0, learn=learn)
    assert linear.rank == taken


def test_a_model_has_as_many_directions_as_it_was_saved_with() -> None:
    saved, later = term().state_dict(), term()
    saved |= {"directions": saved["directions"][:, :2], "gains": saved["gains"][:2]}
    later.load_state_dict(saved)
    assert later.rank == 2
    items, lengths = torch.tensor([0, 2]), torch.tensor([2])
    found, wanted = (one.past(items, lengths).foretold for one in (later, term()))
    np.testing.assert_allclose(found, wanted[:, :2], rtol=1e-6)


def test_on_a_grid_it_is_the_same_after_every_event() -> None:
    linear = term()
    linear.choose(weight=1.0, decay=0.7, replay=1.0, repeat=1.0, repeat_decay=0.9)
    items = torch.tensor([[0, 2, 1, 1, 2, 1], [2, 1, -1, -1, -1, -1]])
    grid = linear.past_on_grid(items)
    assert grid.foretold.shape[2] == linear.rank
    assert grid.recent is not None
    for row, length in ((0, 6), (1, 2)):
        for place in range(length):
            alone = linear.past(items[row, : place + 1], torch.tensor([place + 1]))
            assert alone.recent is not None
            np.testing.assert_allclose(grid.foretold[row, place], alone.foretold[0], atol=1e-6)
            assert grid.recent[row, place].tolist() == [-1] * (5 - place) + alone.recent[0].tolist()


def test_the_directions_are_those_of_the_dense_decomposition() -> None:
    rng = np.random.default_rng(1)
    matrix = (rng.random((30, 9)) < 0.3).astype(np.float64)
    found, strengths = directions(*np.nonzero(matrix), 9, 4, 0)
    _, values, right = np.linalg.svd(matrix)
    np.testing.assert_allclose(strengths, values[:4] ** 2, rtol=1e-3)
    np.testing.assert_allclose(found @ found.T, right[:4].T @ right[:4], atol=2e-2)  # up to signs
    nothing, none = directions(np.zeros(0, np.int64), np.zeros(0, np.int64), 9, 4, 0)
    assert nothing.shape == (9, 0)
    assert not len(none)


def test_where_who_had_what_tells_what_comes_next_it_counts(trained: Setup) -> None:
    """The sixth item of a hobby is one of three that are left of it; the network alone knows nothing yet."""
    alone = setup(trained.model_agent_path.parent, "linear=no", name="alone")
    Environment.from_setup(alone).run_sim()
    with_it, without = (read_manifest(one.model_agent_path).metrics["valid"] for one in (trained, alone))
    assert without["ndcg@10"] < 0.2
    assert with_it["ndcg@10"] > 0.6
    state = State.open(trained)
    policy = LearnedPolicy.load(trained, state.dataset)
    judged = validation.next_items(policy, state.dataset, state.split, state.histories, seed=0)
    assert judged["ndcg@10"] == pytest.approx(with_it["ndcg@10"])


def test_a_softmax_of_the_scores_is_calibrated(trained: Setup) -> None:
    """No other temperature makes what came next much likelier."""
    state = State.open(trained)
    policy = LearnedPolicy.load(trained, state.dataset)
    linear = policy.agent.nets["encoder"].ridge
    assert isinstance(linear, LinearTerm)

    def surprise(factor: float) -> float:
        linear.temperature.mul_(factor)
        found = validation.surprise(policy, state.dataset, state.split, state.histories, seed=0, seen=False)
        linear.temperature.div_(factor)
        return found

    at = surprise(1.0)
    assert at < np.log(GROUPS * EACH) - 0.5
    assert all(surprise(factor) > at - 0.05 for factor in (0.5, 0.8, 1.25, 2.0))
    some = {"seed": 0, "seen": False, "known": np.zeros(len(state.dataset.catalogue), np.bool_)}
    assert validation.surprise(policy, state.dataset, state.split, state.histories, **some) == np.inf, "nothing is left"
    assert surprise(1e-5) > 100, "scores that are far too sure are the worst, though some chances are 0 then"


@pytest.mark.parametrize("random", [True, False])
def test_a_log_that_hardly_tells_what_comes_next_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], random: bool
) -> None:
    made = setup(tmp_path)
    if random:
        items = np.concatenate([np.random.default_rng(user).permutation(40)[:5] for user in range(240)])
        hobbies().with_columns(item_id=pl.Series(items)).write_csv(made.data)
    Environment.from_setup(made).run_sim()
    told = capsys.readouterr().err
    assert ("the log hardly tells which item comes next, so a service with server.temperature 1" in told) == random


def test_items_that_training_does_not_know_do_not_flatten_the_scores(tmp_path: Path) -> None:
    """After three steps of a ring of 30, seven of eight users take what nobody had, whose price no network reads."""
    rows = [(user, (user + step) % 30, step) for user in range(240) for step in range(5)]
    rows = [(user, 100 + user if user % 8 and step > 2 else item, step) for user, item, step in rows]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = log.select(pl.col("item_id").unique().sort()).with_columns(price=pl.int_range(pl.len()) % 7)
    made = setup(tmp_path, "inputs.items=learned")
    state = State(wn.Dataset.from_frame(log, items, name="ring"), made)
    assert state.space.catalogue.informative
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    temperature = read_models(made.model_agent_path).tensors["encoder.ridge.temperature"]
    assert temperature <= 1, "the steps that are known follow the ring, so the scores may be sure"


@pytest.mark.medium
def test_while_it_is_weighed_the_network_reads_every_history_once(trained: Setup, tmp_path: Path) -> None:
    made, read = setup(tmp_path), list[int]()
    environment = Environment.from_setup(made)
    environment.run_sim()
    encoder, linear = environment.agent.nets["encoder"], environment.agent.nets["encoder"].ridge
    assert isinstance(linear, LinearTerm)
    chosen = {name: float(getattr(linear, name)) for name in ("weight", "decay", "transition", "bias", "temperature")}
    encoder.register_forward_hook(lambda net, events, states: read.append(len(states)))
    linear.choose()
    assert environment.weigh()
    assert {name: float(getattr(linear, name)) for name in chosen} == chosen
    judged = len(environment.state.split.validation)
    assert sum(read) == 2 * judged  # for the monitor, and for the surprise
    with torch.no_grad():
        next(encoder.parameters()).mul_(2)  # from here on they may change again
    environment.validate()
    assert sum(read) == 3 * judged


@pytest.mark.parametrize("seen", [True, False])
def test_a_short_list_has_the_best_items_of_all(trained: Setup, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes between two calls, and whether or not all items are looked at again."""
    state, looked = State.open(trained), list[int]()
    policy = LearnedPolicy.load(trained, state.dataset)
    linear = policy.agent.nets["encoder"].ridge
    assert isinstance(linear, LinearTerm)
    monkeypatch.setattr(linear_module, "SUCCESSORS", (1, 1))
    count_transitions(linear, np.random.default_rng(0).integers(GROUPS * EACH, size=(2, 300), dtype=np.int32))
    monkeypatch.setattr(validation, "GATHERED", 1)
    short = validation.Shortlist(policy)
    targets = validation.some_targets(state.dataset, state.split, 0, 100)
    history = state.histories(targets.users, np.zeros_like(targets.before), targets.before)
    original = policy.act

    def act(states: Proposal, request: Request, rng: Any = None) -> Product:
        looked.append(len(request.permitted.sets))
        return original(states, request, rng)

    monkeypatch.setattr(policy, "act", act)
    for weight, transition, remembered in ((1.0, 0.5, False), (1.0, 4.0, True), (8.0, 4.0, False), (1.0, 0.5, True)):
        linear.choose(weight=weight, transition=transition, bias=1.0)
        states = policy.states(history)
        request = Request(3, permitted=Permitted.of(without=None if seen else history.items))
        states = policy.states(history)
        whole, looked[:] = original(states, request), list[int]()
        found = short.act(states, request)
        assert found.items.tolist() == whole.items.tolist()
        assert looked == ([len(targets)] if remembered else [0, len(targets)])
    linear.favour(np.arange(GROUPS * EACH))  # the points are the same, but not the vectors
    whole = original(states := policy.states(history), request)
    assert short.act(states, request).items.tolist() == whole.items.tolist()


@pytest.mark.medium
@pytest.mark.parametrize("patience", ["2", "none"])
def test_interrupted_while_it_is_weighed_a_run_goes_on_with_that_alone(
    tmp_path: Path, patience: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = setup(tmp_path, f"patience={patience}", "passes=3")
    whole = Environment.from_setup(setup(tmp_path, f"patience={patience}", "passes=3", name="whole")).run_sim()

    def pressed(linear: LinearTerm, _: str, score: Callable[[], float], *more: object, **options: object) -> bool:
        linear.choose(weight=4.0)
        signal.raise_signal(signal.SIGINT)
        return bool(score())

    environment = Environment.from_setup(made)
    with monkeypatch.context() as patched:
        patched.setattr("what_next.environment.weigh", pressed)
        stopped = environment.run_sim()
        with pytest.raises(KeyboardInterrupt):
            models.trained(models.beside(made, "judged"), environment.state)
    assert stopped.stopped
    assert "interrupted: stops after this step, and saves; once more stops at once" in capfd.readouterr().err
    assert not is_trained(made, environment.state)
    assert not Agent(made, environment.state.space).ready_agent().nets["encoder"].ridge.counts
    again = Environment.from_setup(made, resume=True).run_sim()
    assert (again.steps, again.stopped, again.idle, again.valid) == ((), False, False, whole.valid)
    assert Environment.from_setup(made, resume=True).run_sim().idle
    assert again.targets * whole.histories == whole.targets * again.histories > 0
    assert is_trained(made, environment.state)
    judged = models.beside(made, "judged")
    run = read_manifest(judged.model_agent_path).run
    assert read_manifest(models.trained(judged, environment.state).model_agent_path).run == run
    assert is_trained(judged, environment.state)


def test_a_model_that_was_killed_while_it_was_weighed_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup(tmp_path, "patience=2", "passes=1", "save_every=100000")
    environment = Environment.from_setup(made)

    def killed(*_: object, **__: object) -> bool:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("what_next.environment.weigh", killed)
        with pytest.raises(SystemExit):
            environment.run_sim()
    run = read_manifest(made.model_agent_path).run
    assert not is_trained(made, environment.state)
    models.trained(made, environment.state)
    assert is_trained(made, environment.state)
    assert read_manifest(made.model_agent_path).run == run


def test_what_helps_nobody_is_left_out() -> None:
    linear = term()
    assert not weigh(linear, "ndcg@10", lambda: 1 - float(linear.weight) / 100, lambda: 0.0)
    assert not linear.counts
    assert weigh(linear, "ndcg@10", lambda: float(linear.bias == 2) - float(linear.weight), lambda: 0.0)
    assert (float(linear.weight), float(linear.bias)) == (0, 2)
    assert weigh(
        linear, "ndcg@10", lambda: 1 - abs(float(linear.weight) - 16), lambda: float(linear.temperature - 2) ** 2
    )
    assert (float(linear.weight), float(linear.decay), float(linear.temperature)) == (16, 1, 2)


@pytest.mark.parametrize(
    ("worth", "words"),
    [
        ({"always": 0.5, "long": 0.80, "short": 0.79}, "short"),  # nearer to what will be recommended, and as good
        ({"always": 0.5, "long": 0.80, "short": 0.70}, "long"),
        ({"always": 0.8, "long": 0.79, "short": 0.80}, "always"),
    ],
)
def test_what_was_popular_of_late_counts_where_it_is_better(worth, words, capsys: pytest.CaptureFixture[str]) -> None:
    linear = term()
    recent = {"long": np.array([0.0, 2.0, 1.0]), "short": np.array([0.0, 0.5, 2.0])}
    shown = {"always": linear.popularity.clone()}
    for name, events in recent.items():
        linear.favour(events)
        shown[name] = linear.popularity.clone()
    linear.popularity.copy_(shown["always"])

    def score() -> float:
        (name,) = (name for name, one in shown.items() if torch.equal(one, linear.popularity))
        return worth[name] - abs(float(linear.bias) - 8) / 1000 if linear.bias else 0.1

    assert weigh(linear, "ndcg@10", score, lambda: 0.0, recent)
    assert torch.equal(linear.popularity, shown[words])
    assert float(linear.bias) == 8
    assert ("short" in capsys.readouterr().err) is (words == "short")


def test_another_penalty_by_hand() -> None:
    """Gains of 1/2 and 1/3 are those of squares of 100 and 50: with a penalty of 30 they are 10/13 and 5/8."""
    linear = term()
    linear.choose(penalty=0.3)
    wanted = np.array([10 / 13, 5 / 8])
    past = linear.past(torch.tensor([0, 1]), torch.tensor([2])).foretold
    np.testing.assert_allclose(past[0, :2], wanted / np.linalg.norm(wanted), rtol=1e-6)


def test_the_penalty_that_is_better_is_taken_with_a_weight_of_its_own() -> None:
    linear = term()
    assert weigh(linear, "ndcg@10", lambda: 1 - abs(float(linear.weight * linear.penalty) - 8 * 0.3) / 9, lambda: 0.0)
    assert (float(linear.weight), float(linear.penalty)) == (8, pytest.approx(0.3))


@pytest.mark.parametrize("better", [True, False])
def test_the_diagonal_goes_where_that_is_better_with_a_weight_and_a_penalty_of_its_own(better: bool) -> None:
    linear = term()

    def score() -> float:
        cleared = bool(linear.zero_diagonal)
        wanted = (72, 0.3) if cleared else (240, 3.0)
        away = abs(np.log(max(float(linear.weight), 1.0) / wanted[0])) + abs(np.log(float(linear.penalty) / wanted[1]))
        return 1 - 0.1 * float(away) + 0.3 * (cleared and better)

    assert weigh(linear, "ndcg@10", score, lambda: 0.0)
    chosen = float(linear.weight), float(linear.penalty), float(linear.zero_diagonal)
    assert chosen == pytest.approx((72, 0.3, 1) if better else (240, 3.0, 0))


def test_where_it_takes_long_it_is_said_and_always_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weigh(term(), "ndcg@10", lambda: 0.1, lambda: 0.0)
    assert capsys.readouterr().err == "counts of the log make nothing better: the network stands alone\n"
    monkeypatch.setattr("what_next.training.weighing.LONG", -1.0)
    clock, each = [0.0], 0.0
    monkeypatch.setattr("what_next.training.weighing.monotonic", lambda: clock[0])

    def score() -> float:
        clock[0] += each
        return 0.1

    weigh(term(), "ndcg@10", score, lambda: 0.0)
    assert "some 70 passes over the validation users, about 0 s\n" in capsys.readouterr().err
    each = 3.0
    weigh(term(), "ndcg@10", score, lambda: 0.0)
    assert "some 70 passes over the validation users, about 4 min\n" in capsys.readouterr().err


def test_the_pass_that_encodes_the_histories_does_not_tell_how_long_all_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 200,000 events a user the first pass took 49 s, and it said 107 min."""
    clock = [0.0]
    monkeypatch.setattr("what_next.training.weighing.monotonic", lambda: clock[0])

    def score() -> float:
        clock[0] += 1.0 if clock[0] else 49.0
        return 0.1

    weigh(term(), "ndcg@10", score, lambda: 0.0)
    assert "some 70 passes over the validation users, about 70 s\n" in capsys.readouterr().err


def test_what_a_history_tells_of_itself_is_tried_where_items_may_come_again() -> None:
    """The larger weight of what it holds is taken, where that is nearly as good as the best."""
    linear = term()
    linear.choose(bias=1.0)

    def score() -> float:
        replayed = 1 - abs(float(linear.replay) - 4) / 9
        held = {4: 0.998, 16: 1.0, 64: 0.997, 256: 0.998, 1024: 0.998}.get(int(linear.repeat), 0.0)
        return replayed + held - abs(float(linear.repeat_decay) - 0.5) / 9

    weigh(linear, "ndcg@10", score, lambda: 0.0)
    assert not linear.recalled
    weigh(linear, "ndcg@10", score, lambda: 0.0, repeats=True)
    assert linear.recalled
    assert [float(one) for one in (linear.replay, linear.repeat, linear.repeat_decay)] == pytest.approx([4, 256, 0.5])


def test_a_larger_weight_of_what_a_history_holds_is_never_worse_than_none() -> None:
    linear = term()
    weigh(linear, "ndcg@10", lambda: {0: 1.0, 1: 1.001}.get(int(linear.repeat), 0.997), lambda: 0.0, repeats=True)
    assert linear.repeat == 1


def test_each_decay_of_what_a_history_holds_is_tried_with_all_weights() -> None:
    """Goods that are bought again after a period: of late is the least likely, and only equal shares are of use."""
    linear = term()
    weigh(linear, "ndcg@10", lambda: 1 + float(linear.repeat * (linear.repeat_decay - 0.95)), lambda: 0.0, repeats=True)
    assert (float(linear.repeat), float(linear.repeat_decay)) == (1024, 1)


def test_which_items_came_next_counts_at_its_own_decay() -> None:
    """None is better at the weight, or the decay, that is tried first."""
    linear = term()
    count_transitions(linear, np.array([[0, 1, 2], [1, 2, 0]], np.int32))

    def score() -> float:
        return 1.0 + float(linear.transition == 16 and abs(float(linear.transition_decay) - 0.4) < 1e-6)

    assert weigh(linear, "ndcg@10", score, lambda: 0.0)
    assert (float(linear.transition), float(linear.transition_decay)) == (16, pytest.approx(0.4))
    assert linear.next_items.shape[1] == 3
    items, amounts = linear.boosts(torch.arange(3).repeat(1, 4))
    assert items.shape == amounts.shape == (1, 12 + 10 * 3)  # of the last ten


@pytest.mark.parametrize(("better", "kept"), [("", 1), ("tags", 2), ("none", -1)])
def test_what_tags_foretell_counts_where_that_is_better(better: str, kept: int, capsys: pytest.CaptureFixture) -> None:
    """After item 0 came item 1; by its tags, item 2."""
    linear = term()
    ways = {
        "": lambda: count_transitions(linear, np.array([[0], [1]], np.int32)),
        "tags": lambda: count_transitions(linear, np.array([[0], [2]], np.int32)),
    }
    wanted = {"": 1, "tags": 2, "none": 9}[better]

    def score() -> float:
        return 2.0 if linear.transition == 4 and linear.next_items[0, 0] == wanted else 1.0 + 0.1 * bool(linear.bias)

    assert weigh(linear, "ndcg@10", score, lambda: 0.0, transitions=ways)
    assert (int(linear.next_items[0, 0]) if linear.next_items.shape[1] else -1) == kept
    assert ("tags" in capsys.readouterr().err) == (better == "tags")


@pytest.mark.parametrize(("best", "tried"), [("", [REGRESSION]), (REGRESSION, PENALTIES), (PENALTIES[2], PENALTIES)])
def test_other_penalties_are_tried_where_what_goes_together_is_better(best: str, tried: list[str]) -> None:
    linear, learned = term(), [""]
    worth = {"": 1.0, REGRESSION: 0.5 if best == "" else 2.0, PENALTIES[1]: 0.5, PENALTIES[2]: 1.5} | {best: 3.0}

    def learn(name: str) -> None:
        learned.append(name)
        count_transitions(linear, np.array([[0], [1]], np.int32))

    def score() -> float:
        weight = 64 if learned[-1] == PENALTIES[2] else 16
        return worth[learned[-1]] * float(linear.transition == weight)

    weighed = weigh(linear, "ndcg@10", score, lambda: 0.0, transitions={name: partial(learn, name) for name in worth})
    assert weighed
    assert (weighed.table, weighed.numbers["transition"]) == (best, 64 if best == PENALTIES[2] else 16)
    assert [name for name in dict.fromkeys(learned) if name] == tried


@pytest.mark.parametrize(("best", "chosen"), [(0.8, 1.0), (0.4, 0.4)])
def test_more_of_a_history_is_looked_up_where_much_of_it_counts(best: float, chosen: float) -> None:
    linear = term()
    count_transitions(linear, np.array([[0, 1, 2], [1, 2, 0]], np.int32))

    def score() -> float:
        decay = round(float(linear.transition_decay), 2)
        return 1.0 if linear.transition != 16 else {best: 2.0, 1.0: 3.0}.get(decay, 1.0)

    assert weigh(linear, "ndcg@10", score, lambda: 0.0)
    assert float(linear.transition_decay) == pytest.approx(chosen)


def test_beside_more_directions_what_came_next_is_weighed_anew() -> None:
    linear, few = LinearTerm(2**17), 64

    def learn(rank: int) -> None:
        linear.learn(np.ones((2**17, rank), np.float32), np.ones(rank, np.float32), np.ones(2**17, np.int64))

    learn(few)
    ways = {"": lambda: count_transitions(linear, np.array([[0], [1]], np.int32))}

    def score() -> float:
        at_best, heavy = {few: (1.0, 64), 512: (2.0, 4)}[linear.rank]
        return at_best + 0.1 * bool(linear.weight) + 0.2 * float(linear.transition == heavy)

    assert weigh(linear, "ndcg@10", score, lambda: 0.0, learn=learn, transitions=ways)
    assert (linear.rank, float(linear.transition)) == (512, 4)


@pytest.mark.parametrize(("gain", "kept"), [(1.01, False), (1.03, True)])
def test_more_directions_must_be_worth_their_columns(gain: float, kept: bool) -> None:
    linear, few = LinearTerm(2**17), 64
    assert linear.rank == few

    def learn(rank: int) -> None:
        linear.learn(np.ones((2**17, rank), np.float32), np.ones(rank, np.float32), np.ones(2**17, np.int64))

    learn(few)

    def score() -> float:
        at_best, heavy = {few: (1.0, 8), 512: (gain, 32)}[linear.rank]
        return at_best - abs(float(linear.weight) - heavy) / 1000 - float(linear.penalty != 1) / 9

    assert weigh(linear, "ndcg@10", score, lambda: 0.0, learn=learn)
    assert (linear.rank, float(linear.weight)) == ((512, 32) if kept else (few, 8))


def test_what_was_popular_of_late_by_hand() -> None:
    """Events that are 0, 2 and 4 days old: the median is 2, so half-lives are 2 days, half a day and so on."""
    day = 24 * 3600 * 10**6
    ago = np.array([4, 2, 0])
    known = Known(2, np.zeros(3, np.int32), np.array([0, 1, 1], np.int32), (9 - ago) * day, np.array([2, 1, 0]))
    found = recent_of(known)
    assert list(found)[:2] == ["popularity half-life 2 days", "popularity half-life 0.5 days"]
    np.testing.assert_allclose(found["popularity half-life 2 days"], [1 / 4, 1 / 2 + 1])
    np.testing.assert_allclose(found["popularity half-life 0.5 days"], [1 / 2**8, 1 / 2**4 + 1])
    sooner = recent_of(replace(known, times=known.times // 10**5))
    assert next(iter(sooner)) == "popularity half-life 1.73 seconds"
    untimed = recent_of(replace(known, times=None))  # what counts is how many events of the user follow
    np.testing.assert_allclose(untimed["popularity half-life 1 events of a user"], [1 / 4, 1 / 2 + 1])
    assert not recent_of(replace(known, times=known.times * 0))


def test_a_step_that_was_seen_once_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of two items; after each of 300 comes one of its own, which training shows once or twice, and a linear
    model of few directions cannot tell apart."""
    monkeypatch.setattr("what_next.models.linear.RANKS", (16, 16, 16))
    rng = np.random.default_rng(0)
    first = rng.permutation(np.repeat(np.arange(300), 3))
    rows = [(user, int(item), step) for user, one in enumerate(first) for step, item in enumerate((one, 300 + one))]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    made = setup(tmp_path, "split=users", "dim=64")
    state = State(wn.Dataset.from_frame(log, None, name="steps"), made)
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    saved = read_models(made.model_agent_path)
    assert saved.tensors["encoder.ridge.transition"] > 0
    policy = LearnedPolicy.load(made, state.dataset)
    assert validation.next_items(policy, state.dataset, state.split, state.histories, seed=0)["ndcg@10"] > 0.6


@pytest.mark.medium
def test_one_successor_of_each_of_many_items_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks of four steps on a permutation of 1,500 items, of which training shows most: columns mix them up."""
    monkeypatch.setattr("what_next.models.linear.RANKS", (8, 8, 8))
    rng = np.random.default_rng(0)
    successor, rows = rng.permutation(1500), list[tuple[int, int, int]]()
    for user in range(1200):
        item = int(rng.integers(1500))
        for step in range(4):
            rows.append((user, item, step))
            item = int(successor[item])
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    made = setup(tmp_path, "split=users")
    state = State(wn.Dataset.from_frame(log, None, name="walks"), made)
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    policy = LearnedPolicy.load(made, state.dataset)
    assert validation.next_items(policy, state.dataset, state.split, state.histories, seed=0)["ndcg@10"] > 0.75


def test_small_sets_in_no_order_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 buyers of three of the four things of one of 250 sets, in no order: columns mix them up, and what came
    right after a thing misses most of what it goes with."""
    monkeypatch.setattr("what_next.models.linear.RANKS", (8, 8, 8))
    rng = np.random.default_rng(0)
    buys = [(user, int(thing)) for user in range(1000) for thing in 4 * (user % 250) + rng.permutation(4)[:3]]
    made = setup(tmp_path, "split=users")
    log = pl.DataFrame(buys, schema=["user_id", "item_id"], orient="row")
    state = State(wn.Dataset.from_frame(log, None, name="sets"), made)
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    assert read_models(made.model_agent_path).tensors["encoder.ridge.transition_decay"] > 0
    policy = LearnedPolicy.load(made, state.dataset)
    assert validation.next_items(policy, state.dataset, state.split, state.histories, seed=0)["ndcg@10"] > 0.65


@pytest.mark.medium
def test_who_plays_a_list_again_is_told_what_comes_next(tmp_path: Path) -> None:
    """Each of 150 users has a list of four items of his own, and plays it in its order, from some place on."""
    rng, rows = np.random.default_rng(0), list[tuple[int, int, int]]()
    for user in range(150):
        items, start = rng.choice(100, 4, replace=False), rng.integers(4)
        rows += [(user, int(items[(start + step) % 4]), step) for step in range(rng.integers(6, 12))]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset, found = wn.Dataset.from_frame(log, None, name="lists"), dict[str, float]()
    for name in ("yes", "no"):
        made = setup(tmp_path, "split=users", "dim=32", f"evaluation.seen={name}", f"linear={name}", name=name)
        state = State(dataset, made)
        Environment(wn.Agent(made, state.space), state, made).run_sim()
        policy = LearnedPolicy.load(made, dataset)
        found[name] = validation.next_items(policy, dataset, state.split, state.histories, seed=0, seen=True)["ndcg@10"]
    assert found["yes"] > 0.9
    assert found["no"] < 0.5


@pytest.mark.medium
def test_who_repeats_what_nobody_else_had_is_told_so(tmp_path: Path) -> None:
    """Each of 200 users has two items of his own, and has them in no order."""
    rng = np.random.default_rng(0)
    rows = [(user, 2 * user + int(rng.integers(2)), step) for user in range(200) for step in range(8)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    made = setup(tmp_path, "split=users", "dim=32", "evaluation.seen=yes")
    dataset = wn.Dataset.from_frame(log, None, name="own")
    state = State(dataset, made)
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    assert read_models(made.model_agent_path).tensors["encoder.ridge.repeat"] > 0
    policy = LearnedPolicy.load(made, dataset)
    assert validation.next_items(policy, dataset, state.split, state.histories, seed=0, seen=True)["ndcg@10"] > 0.6


@pytest.mark.parametrize(("repeats", "told"), [(0.1, False), (0.4, True)])
def test_where_many_come_back_and_may_not_it_is_told(tmp_path: Path, repeats: float, told: bool) -> None:
    rng, rows = np.random.default_rng(0), list[tuple[int, int, int]]()
    for user in range(300):
        for step in range(5):
            rows.append((user, rows[-1][1] if step and rng.random() < repeats else int(rng.integers(2000)), step))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    made = setup(tmp_path)
    _, reasons = LogSource(State(wn.Dataset.from_frame(log, None, name="plays"), made)).chosen
    assert any(reason.startswith("evaluation.seen no") for reason in reasons) == told


def test_where_nothing_heard_is_recommended_nothing_is_kept_of_it(trained: Setup) -> None:
    assert not trained.evaluation.seen
    saved = read_models(trained.model_agent_path).tensors
    assert not saved["encoder.ridge.replay"]
    assert not saved["encoder.ridge.repeat"]


def beside(states: Proposal) -> np.ndarray:
    """What all items have beside the inner product."""
    assert states.ranked is not None
    assert states.ranked.boosts is not None
    return states.ranked.boosts.of(np.arange(GROUPS * EACH)[None].repeat(len(states), 0))


def test_a_session_step_by_step_and_a_batch_of_histories_agree(trained: Setup) -> None:
    policy = LearnedPolicy.load(trained)
    linear = policy.agent.nets["encoder"].ridge
    assert isinstance(linear, LinearTerm)
    count_transitions(linear, np.random.default_rng(0).integers(0, GROUPS * EACH, (2, 300), np.int32))
    linear.choose(weight=1.0, replay=3.0, repeat=2.0, transition=2.0, transition_decay=0.4)
    sessions = Sessions.of(policy.agent)
    events = [Event(item) for item in (3, 5, 1, 40, 3)]
    one = sessions.begin()
    for event in events:
        (one,) = sessions.fold([one], [event])
    both = sessions.states([one, sessions.replay(events[:2])])
    catalogue = policy.state.space.catalogue
    for row, seen in enumerate((events, events[:2])):
        history, _ = policy.state.history_of([catalogue.ids[event.item] for event in seen])
        alone = policy.states(history)
        np.testing.assert_allclose(both.points[row], alone.points[0], atol=1e-5)
        found, wanted = (beside(one) for one in (both, alone))
        np.testing.assert_allclose(found[row], wanted[0], atol=1e-6)


@pytest.mark.medium
def test_items_that_come_later_have_no_part_in_it(trained: Setup, tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": range(GROUPS * EACH), "size": np.linspace(0, 1, GROUPS * EACH)})
    made = setup(tmp_path)
    state = State(wn.Dataset.from_frame(hobbies(), items, name="hobbies"), made)
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    policy = LearnedPolicy.load(made, state.dataset)
    grown = extend(Recommender(policy), [NewItem("new", "new", {"size": 0.5})]).policy
    history, _ = state.history_of(["1", "2"])
    before, after = policy.states(history), grown.states(history)
    np.testing.assert_allclose(after.points, before.points, atol=1e-6)
    assert after.ranked is not None
    assert len(after.ranked.vectors) == GROUPS * EACH + 1


@pytest.mark.medium
def test_an_ended_run_stays_what_it_is_and_another_starts_from_it(trained: Setup, tmp_path: Path) -> None:
    before = read_models(trained.model_agent_path).tensors
    Environment.from_setup(trained, resume=True).run_sim()
    after = read_models(trained.model_agent_path).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert float(before["encoder.ridge.weight"]) > 0
    warm = setup(tmp_path, name="warm")
    state = State.open(warm, origin=trained.model_agent_path)
    Environment(wn.Agent(warm, state.space), state, warm, origin=trained.model_agent_path).run_sim()
    assert read_manifest(warm.model_agent_path).metrics["valid"]["ndcg@10"] > 0.6


def test_a_model_without_it_stays_so(trained: Setup) -> None:
    """As those that were saved before there was one."""
    folder = trained.model_agent_path.parent
    plain = setup(folder, "linear=no", name="plain")
    Environment.from_setup(plain).run_sim()
    asked = setup(folder, name="plain")
    assert asked.linear == "yes"
    assert LearnedPolicy.load(asked).agent.setup.linear == "no"
    Environment.from_setup(asked, resume=True).run_sim()
    assert not [name for name in read_models(asked.model_agent_path).tensors if "ridge" in name]


def test_without_validation_users_nothing_is_weighed(tmp_path: Path) -> None:
    made = setup(tmp_path, "split=users", "split.validation=0", "patience=none")
    Environment.from_setup(made).run_sim()
    assert float(read_models(made.model_agent_path).tensors["encoder.ridge.weight"]) == 0


def test_where_something_else_is_learned_nothing_is_weighed(tmp_path: Path) -> None:
    """As from a service's decisions, whose feedback says other things than what people do by themselves."""

    class Feedback(LogSource):
        foreseen = False

    made = setup(tmp_path)
    state = State.open(made)
    Environment(wn.Agent(made, state.space), state, made, source=Feedback(state)).run_sim()
    assert float(read_models(made.model_agent_path).tensors["encoder.ridge.weight"]) == 0


def test_the_chance_of_a_choice_is_the_same_drawn_and_judged(trained: Setup) -> None:
    policy = LearnedPolicy.load(trained)
    history, _ = policy.state.history_of(["1", "2", "50"])
    states = policy.states(history)
    request = wn.types.Request(5, wn.types.Softmax(0.7))
    slate = policy.act(states, request, np.random.default_rng(0))
    np.testing.assert_allclose(policy.propensities(states, request, slate.items), slate.propensities, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "again", "told"),
    [
        (["evaluation.seen=yes"], 1.0, True),
        (["evaluation.seen=yes"], 0.1, False),  # whatever it earned, hardly anybody comes back
        (["evaluation.seen=yes", "inputs.rewards=yes"], 1.0, False),
        ([], 1.0, False),  # it is not recommended again
    ],
)
def test_where_what_an_event_earned_tells_whether_its_item_comes_again_that_is_said(
    tmp_path: Path, words: list[str], again: float, told: bool
) -> None:
    """Exercises: one that failed comes again, one that was solved does not."""
    rng, rows = np.random.default_rng(0), list[tuple[int, int, int, float]]()
    for user in range(200):
        for step in range(10):
            item, solved = int(rng.integers(500)), float(rng.random() < 0.6)
            if step and rows[-1][3] < 0 and rng.random() < again:
                item = rows[-1][1]
            rows.append((user, item, step, solved or -0.25))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "reward"], orient="row")
    dataset = wn.Dataset.from_frame(log, None, name="exercises")
    _, reasons = LogSource(State(dataset, setup(tmp_path, *words))).chosen
    found = [reason for reason in reasons if reason.startswith("inputs.rewards no")]
    assert len(found) == told
    assert all("came again in 100%, after the others in 0%" in reason for reason in found)
