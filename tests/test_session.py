"""A person's session: events folded in one by one are a replayed history, and both are what the agent predicts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Agent, Dataset, LearnedPolicy, Setup, State
from what_next.errors import DataError
from what_next.inference.session import Event, Session, Sessions, elapsed
from what_next.models.encoders import ENCODERS
from what_next.sources import source_of
from what_next.types import History, Proposal

from .conftest import SetupOf, listening

BAND = 12  # of the transformer; histories are up to 20 events long
USERS = np.arange(5, dtype=np.int32)
LENGTHS = np.array([1, 2, 11, 13, 20])


@pytest.fixture(scope="module")
def log() -> Dataset:
    """Events with times, rewards and a context, some of them at one moment."""
    events, items = listening()
    rng = np.random.default_rng(1)
    times = events["timestamp"].to_numpy().copy()
    times[5:8] = times[5]
    more = {"timestamp": times, "loud": rng.normal(3, 2, len(events))}
    return Dataset.from_frame(
        events.with_columns(**{n: pl.Series(v) for n, v in more.items()}), items, context=["loud"]
    )


def policy_of(log: Dataset, setup: Setup) -> LearnedPolicy:
    """An agent whose weights are as they start, but for what starts at 0: so every input tells."""
    state = State(log, setup)
    agent = Agent(setup, state.space).wake_agent()
    torch.manual_seed(5)
    with torch.no_grad():
        for net in agent.nets.values():
            for weight in net.parameters():
                weight.add_(torch.randn(weight.shape) * 0.05)
    return LearnedPolicy(agent.eval(), state)


def sessions_of(policy: LearnedPolicy) -> Sessions:
    return Sessions.of(policy.agent)


def states_of(policy: LearnedPolicy, sessions: list[Session], *context: Any) -> Proposal:
    return sessions_of(policy).states(sessions, *context)


def played(policy: LearnedPolicy, user: int, length: int) -> list[Event]:
    """The first events of a user, as a service hears of them."""
    data = policy.state.dataset
    places = range(int(data.offsets[user]), int(data.offsets[user]) + length)
    assert data.timestamps is not None
    assert data.rewards is not None
    return [
        Event(
            int(data.items[place]),
            int(data.timestamps[place]),
            float(data.rewards[place]),
            dict(zip(data.context_names, data.context[place].tolist(), strict=True)),
        )
        for place in places
    ]


def histories(policy: LearnedPolicy) -> History:
    return policy.state.histories(USERS, np.zeros(5, np.int64), LENGTHS)


def same(left: Proposal, right: Proposal) -> None:
    """Points, and what they are ranked by."""
    np.testing.assert_allclose(left.points, right.points, atol=1e-5)
    assert (left.ranked is None) == (right.ranked is None)
    if left.ranked is not None and right.ranked is not None:
        one, other = (torch.from_numpy(side.points) @ side.ranked.vectors.T for side in (left, right))
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
    assert (left.score is None) == (right.score is None)
    if left.score is not None and right.score is not None:
        rows, items = np.arange(5).repeat(80), np.tile(np.arange(80), 5)
        np.testing.assert_allclose(left.score(rows, items), right.score(rows, items), atol=1e-5)


def scores(proposal: Proposal) -> np.ndarray:
    """Of five states by 80 items."""
    if proposal.score is not None:
        return np.asarray(proposal.score(np.arange(5).repeat(80), np.tile(np.arange(80), 5))).reshape(5, 80)
    return (torch.from_numpy(proposal.points) @ columns(proposal).T).numpy()


def columns(proposal: Proposal) -> torch.Tensor:
    """What the points are multiplied with."""
    assert proposal.ranked is not None
    return proposal.ranked.vectors


def folded(policy: LearnedPolicy, lists: list[list[Event]]) -> list[Session]:
    """Event by event: at each step those of one batch that have one more."""
    sessions = [sessions_of(policy).begin() for _ in lists]
    for step in range(max(map(len, lists))):
        rows = [row for row, events in enumerate(lists) if step < len(events)]
        grown = sessions_of(policy).fold([sessions[row] for row in rows], [lists[row][step] for row in rows])
        for row, session in zip(rows, grown, strict=True):
            sessions[row] = session
    return sessions


def agrees(policy: LearnedPolicy) -> None:
    """Replayed, folded, half of each, and the agent's own prediction."""
    lists = [played(policy, user, length) for user, length in zip(USERS.tolist(), LENGTHS.tolist(), strict=True)]
    expected = policy.agent.predict(histories(policy))
    replayed = [sessions_of(policy).replay(events) for events in lists]
    same(states_of(policy, replayed), expected)
    same(states_of(policy, sessions_of(policy).replays(lists)), expected)
    stepped = folded(policy, lists)
    same(states_of(policy, stepped), expected)
    halved = [sessions_of(policy).replay(events[: len(events) // 2]) for events in lists]
    for row, events in enumerate(lists):
        for event in events[len(events) // 2 :]:
            [halved[row]] = sessions_of(policy).fold([halved[row]], [event])
    same(states_of(policy, halved), expected)
    for session, events in zip(stepped, lists, strict=True):
        assert session.items.tolist() == [event.item for event in events]
        assert (len(session), session.time) == (len(events), events[-1].time)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("inputs", ["", "rewards", "gaps", "rewards gaps", "context"])
@pytest.mark.parametrize("model", ENCODERS)
def test_every_encoder_carries_a_session(
    log: Dataset, setup_of: SetupOf, tmp_path: Path, model: str, inputs: str, layers: int
) -> None:
    reads = {name: name in inputs for name in ("rewards", "gaps", "context")}
    agrees(
        policy_of(
            log,
            setup_of(tmp_path, algorithm="next_item", model=model, layers=layers, inputs=reads, max_length=BAND),
        )
    )


@pytest.mark.parametrize("algorithm", ["sac_rec", "sqn", "bcq", "td3_bc", "ddpg", "hac", "decision_transformer"])
@pytest.mark.parametrize("rewards", [False, True])
def test_every_kind_of_algorithm_proposes_by_sessions(
    log: Dataset, setup_of: SetupOf, tmp_path: Path, algorithm: str, rewards: bool
) -> None:
    agrees(policy_of(log, setup_of(tmp_path, algorithm=algorithm, inputs={"rewards": rewards}, max_length=BAND)))


@pytest.mark.parametrize("selection", ["random", "critic"])
@pytest.mark.parametrize("window", [None, 12])
def test_the_founding_algorithm_reads_the_latest_events(
    log: Dataset, setup_of: SetupOf, tmp_path: Path, selection: str, window: int | None
) -> None:
    policy = policy_of(log, setup_of(tmp_path, selection=selection, window=window))
    agrees(policy)
    kept = sessions_of(policy).replay(played(policy, 4, 20)).numbers
    assert len(kept) == (window or 20)


def test_what_is_not_known_of_an_event_stands_at_the_mean(log: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    """As for a history that is given by the ids of its items."""
    for algorithm in ("next_item", "whatnext"):
        inputs = {"rewards": True, "gaps": True} if algorithm == "next_item" else {}
        policy = policy_of(log, setup_of(tmp_path, algorithm=algorithm, inputs=inputs))
        history, _ = policy.state.history_of(["i3", "i9", "i4", "i3"])
        events = [Event(int(item)) for item in history.items[0]]
        expected = policy.agent.predict(history)
        np.testing.assert_allclose(
            states_of(policy, [sessions_of(policy).replay(events)]).points, expected.points, atol=1e-5
        )
        np.testing.assert_allclose(states_of(policy, folded(policy, [events])).points, expected.points, atol=1e-5)


def test_the_clock_of_an_event_is_that_of_its_time_whatever_its_context_says(
    log: Dataset, setup_of: SetupOf, tmp_path: Path
) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm="next_item", inputs={"context": True}))
    event = played(policy, 0, 1)[0]
    odd = replace(event, context={**(event.context or {}), "time_of_day_sin": 9.0, "mood": 2.0})
    one, other = (states_of(policy, [sessions_of(policy).replay([said])]) for said in (event, odd))
    np.testing.assert_array_equal(one.points, other.points)


def test_a_gap_beside_an_event_without_a_time_is_not_known() -> None:
    assert elapsed([]).tolist() == [0]
    assert elapsed([None]).tolist() == [0]
    assert elapsed([7, 9, None, 20, 25, 24, 30]).tolist() == [0, 2, 2, 2, 7, 7, 13]


def test_an_event_without_a_time_is_folded_as_it_is_replayed(log: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm="next_item", inputs={"gaps": True}))
    events = [
        replace(event, time=event.time if place % 3 else None) for place, event in enumerate(played(policy, 0, 9))
    ]
    [session] = folded(policy, [events])
    np.testing.assert_allclose(
        states_of(policy, [session]).points,
        states_of(policy, [sessions_of(policy).replay(events)]).points,
        atol=1e-5,
    )


@pytest.mark.parametrize("algorithm", ["next_item", "whatnext"])
def test_a_session_without_an_event_has_nothing_to_go_by(
    log: Dataset, setup_of: SetupOf, tmp_path: Path, algorithm: str
) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm=algorithm))
    empty, one = sessions_of(policy).replay([]), sessions_of(policy).replay(played(policy, 0, 1))
    assert (len(empty), empty.time) == (0, None)
    with pytest.raises(ValueError, match="session 1 of 2 has no event"):
        states_of(policy, [one, empty])
    assert sessions_of(policy).fold([], []) == []


SITUATED = [
    pytest.param({"algorithm": "whatnext", "selection": "critic"}, id="the founding algorithm"),
    pytest.param({"algorithm": "next_item", "inputs": {"context": True}}, id="an encoder"),
]


@pytest.mark.parametrize("reader", SITUATED)
def test_the_situation_stands_for_that_of_the_last_event(
    log: Dataset, setup_of: SetupOf, tmp_path: Path, reader: dict[str, Any]
) -> None:
    policy = policy_of(log, setup_of(tmp_path, **reader))
    history = policy.state.get_user_history(USERS)
    sessions = [sessions_of(policy).replay(played(policy, user, 40)) for user in USERS.tolist()]
    situation = {"loud": 40.0, "time_of_day_sin": -0.5}
    same(
        states_of(policy, sessions, [situation] * 5),
        policy.agent.predict(policy.state.with_context(history, situation)),
    )
    plain, changed = scores(states_of(policy, sessions)), scores(states_of(policy, sessions, [situation, *[{}] * 4]))
    assert np.abs(plain[0] - changed[0]).max() > 1e-3
    assert plain[1:] == pytest.approx(changed[1:], abs=1e-6)
    with pytest.raises(DataError, match="context 'mood' is unknown; the agent knows loud, time_of_day_sin"):
        states_of(policy, sessions, [{"mood": 1.0}, {}, {}, {}, {}])


def test_a_session_holds_no_memory_but_its_own(log: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm="next_item", model="transformer", max_length=BAND))
    sessions = folded(policy, [played(policy, user, 3) for user in range(5)])
    for session in [*sessions, sessions_of(policy).replay(played(policy, 0, 40))]:
        held = sum(part.untyped_storage().nbytes() for part in (*session.carried, session.output))
        assert held + session.items.nbytes == session.bytes


def test_an_older_session_is_as_it_was_after_a_fold(log: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm="next_item"))
    events = played(policy, 0, 6)
    before = sessions_of(policy).replay(events[:5])
    points = states_of(policy, [before]).points.copy()
    sessions_of(policy).fold([before], events[5:])
    assert np.array_equal(states_of(policy, [before]).points, points)


def test_sessions_follow_an_agent_that_is_built_anew(log: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm="next_item"))
    sessions_of(policy).begin()
    policy.agent.wake_agent().eval()
    agrees(policy)


@pytest.mark.parametrize("algorithm", ["next_item", "td3_bc"])
@pytest.mark.parametrize("items", ["learned", "attributes"])
def test_an_agent_makes_the_vectors_of_items_once_and_anew_when_weights_move(
    log: Dataset, setup_of: SetupOf, tmp_path: Path, algorithm: str, items: str
) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm=algorithm, inputs={"items": items}))
    agent, state = policy.agent, policy.state
    session = sessions_of(policy).replay(played(policy, 0, 9))
    first = columns(states_of(policy, [session]))
    assert columns(states_of(policy, [session])) is first
    before, rng = first.clone(), np.random.default_rng(0)
    agent.propagate(source_of(state).next_batch(policy, rng), rng)
    moved = columns(states_of(policy, [session]))
    assert torch.equal(moved, agent.setup.algorithm.vectors(agent.nets["encoder"].items()))
    assert not torch.equal(moved, before)


def test_vectors_that_are_loaded_are_told_from_the_old(log: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    policy = policy_of(log, setup_of(tmp_path, algorithm="td3_bc"))
    encoder, session = policy.agent.nets["encoder"], sessions_of(policy).replay(played(policy, 0, 9))
    old = columns(states_of(policy, [session])).clone()
    encoder.load_state_dict({name: value + 1 for name, value in encoder.state_dict().items()})
    assert not torch.equal(columns(states_of(policy, [session])), old)
