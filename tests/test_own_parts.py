"""Encoders, rewards, worlds and sources of one's own: what breaks a promise is told in one message."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from what_next import Agent, Dataset, Environment, play
from what_next import State as Data
from what_next.algorithms import Sqn
from what_next.errors import DataError, SetupError, TrainingError
from what_next.models.encoders import ENCODERS, Encoder, EncoderSizes
from what_next.models.items import ItemVectors
from what_next.models.linear import LinearTerm
from what_next.policy import LearnedPolicy
from what_next.rewards import REWARDS, Events, Reward
from what_next.sources import Mixture, Source
from what_next.testing import Rig, check_encoder, check_reward, check_world
from what_next.training.step import Step
from what_next.types import Batch, History
from what_next.worlds import Draws, Feedback, Observation, State, World
from what_next.worlds.base import Reference, integers

from .conftest import SetupOf
from .forked import Forked
from .shapes import unchecked


class LastTwo(Encoder):
    """A linear map of the last input and the one before it."""

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        self.both = nn.Linear(2 * sizes.dim, sizes.dim)

    def encode(self, inputs: Tensor) -> Tensor:
        return self.both(torch.cat([inputs, nn.functional.pad(inputs, (0, 0, 1, 0))[:, :-1]], -1))

    def start(self, batch: int) -> tuple[Tensor, ...]:
        return (self._zeros(batch, self.sizes.dim),)

    def advance(self, state: tuple[Tensor, ...], inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.both(torch.cat([inputs, state[0]], -1)), (inputs,)


@pytest.mark.parametrize("kind", [LastTwo, *ENCODERS.values()])
def test_an_encoder_that_keeps_its_promises_passes(kind: type[Encoder]) -> None:
    check_encoder(kind)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"encode": lambda self, inputs: inputs.flip(1).cumsum(1).flip(1)}, "changes with later events"),
        ({"encode": lambda self, inputs: inputs + torch.rand(())}, r"other states the second time; dropout must end"),
        ({"encode": lambda self, inputs: inputs.mean(0).expand_as(inputs)}, "or other histories"),
        (
            {"encode": lambda self, inputs: inputs[:, 1:]},
            r"encode gives a tensor of shape \(3, 39, 16\); expected .*40",
        ),
        ({"encode": lambda self, inputs: inputs.double()}, "encode gives torch.float64; expected torch.float32"),
        (
            {"advance": lambda self, state, inputs: (LastTwo.advance(self, state, inputs)[0].double(), (inputs,))},
            "advance gives torch.float64; expected torch.float32",
        ),
        ({"encode": lambda self, inputs: (inputs, inputs)}, "encode gives a tuple; expected"),
        ({"start": lambda self, batch: torch.zeros(batch, 16)}, "a state is a tuple of tensors"),
        ({"start": lambda self, batch: (torch.zeros(1, batch, 16),)}, "whose first axis is the batch"),
        ({"start": lambda self, batch: ()}, r"and of one at least \(self._zeros\(batch, 1\), where nothing"),
        ({"start": lambda self, batch: (torch.ones(batch, 16),)}, "after 1 events, advance has come to another state"),
        (
            {"advance": lambda self, state, inputs: (LastTwo.advance(self, state, inputs)[0], state)},
            "after 2 events, advance has come to another state than encode",
        ),
        ({"encode": lambda self, inputs: inputs.mul_(0.5)}, "encode changes the inputs that it is given"),
        (
            {"advance": lambda self, state, inputs: (self.encode(inputs[:, None])[:, 0], (state[0].copy_(inputs),))},
            "advance changes the state or the inputs that it is given",
        ),
        ({"__init__": lambda self, items: None}, r"cannot be made \(.*its __init__ takes \(items, sizes\)"),
        ({"__init__": lambda self, items, sizes: None}, r"begins with super\(\).__init__\(items, sizes\)"),
        ({"start": Encoder.start, "advance": Encoder.advance}, "defines no start and no advance"),
        (
            {"encode": lambda self, inputs: inputs @ torch.ones(7, 7)},
            r"encode fails where states have 16 columns: RuntimeError.*test_own_parts.py, line \d",
        ),
    ],
)
def test_an_encoder_that_breaks_one_is_told_which(method: dict[str, Callable[..., Any]], told: str) -> None:
    with pytest.raises(SetupError, match=f"the encoder Broken.*{told}"):
        check_encoder(type("Broken", (LastTwo,), method))


class Liked(Reward):
    """1 for what is rated above 0."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def of(self, events: Events) -> Tensor:
        return (events.rewards > 0).float() * events.real


def last_of(events: Events) -> Tensor:
    """Of each history, which event is the last."""
    return torch.arange(events.items.shape[1]) == events.real.sum(1, keepdim=True) - 1


@pytest.mark.parametrize("kind", [Liked, *REWARDS.values()])
def test_a_reward_that_keeps_its_promises_passes(kind: type[Reward]) -> None:
    check_reward(kind())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"of": lambda self, events: events.real.float()[:, 1:]}, r"gives a tensor of shape \(4, 8\)"),
        ({"of": lambda self, events: events.real.numpy()}, "gives a ndarray; expected a tensor of shape"),
        ({"of": lambda self, events: 1.0}, "gives a float; expected a tensor"),
        ({"of": lambda self, events: torch.ones(events.items.shape)}, "padding earns something"),
        ({"of": lambda self, events: events.real / 0}, "no finite number"),
        ({"of": lambda self, events: events.rewards.flip(1) * events.real}, "reads later events"),
        ({"of": lambda self, events: events.real * last_of(events)}, "whether any follow"),
        ({"of": lambda self, events: events.real / (1 + events.real.sum(1, keepdim=True))}, "whether any follow"),
        ({"of": lambda self, events: events.sigma[:, None] * events.real}, "or a label"),
        ({"of": lambda self, events: (events.times > 0) * 1.0}, r"fails on events that have what it needs \(nothing\)"),
        ({"of": lambda self, events: 2.0 * events.real}, "gives 0 to 2 for made-up events; its range is 0 to 1"),
        ({"of": lambda self, events: torch.rand(events.items.shape) * events.real}, "other values the second time"),
        (
            {"of": lambda self, events: events.items.clamp_(min=0) * 0.0},
            r"changes the events .* change a copy \(`clone`\)",
        ),
        ({"bounds": (1.0, 0.0)}, "range is 1 to 0; expected the lowest value first"),
        ({"needs": ("time",)}, "needs has time; there are attributes, times"),
    ],
)
def test_a_reward_that_breaks_one_is_told_which(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SetupError, match=told):
        check_reward(type("Broken", (Liked,), {"__annotations__": {"needs": ClassVar}, **changes})())


@dataclass(frozen=True, eq=False)
class Taste(State):
    """Of each user, whether odd items are liked."""

    odd: np.ndarray


class Parity(World):
    """Half of the users click even items alone, half of them odd ones."""

    name: Literal["parity"] = "parity"
    slots: int = 2
    items: int = 20
    steps: int | None = 10

    @cached_property
    def item_vectors(self) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[np.arange(self.items) % 2]

    def reset(self, users: int, rng: Draws) -> Taste:
        nothing = np.full((users, self.slots), -1, np.int64)
        return Taste(np.zeros(users, np.int32), nothing, nothing >= 0, integers(rng, users, 2))

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        clicks = slates % 2 == state.odd[:, None]
        state = replace(state, age=state.age + 1, shown=slates, clicks=clicks)
        return state, Feedback(clicks, clicks.sum(1).astype(np.float32), np.zeros(len(slates), np.bool_))

    def observe(self, state: Taste, ideal: bool = False) -> Observation:
        odd = state.odd[:, None] if ideal else np.zeros((len(state.odd), 0))
        return Observation(state.shown, state.clicks, odd.astype(np.float32))

    def bounds(self, ideal: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(int(ideal), np.float32), np.ones(int(ideal), np.float32)

    def references(self) -> dict[str, Reference]:
        return {"random": self.random_slates}


class Ageless(Parity):
    """Whose users do not grow older."""

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        after, feedback = super().step(state, slates, rng)
        return replace(after, age=state.age), feedback


class InPlace(Parity):
    """Whose steps write into the state."""

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        state.age[:] += 1
        return super().step(replace(state, age=state.age - 1), slates, rng)


class Crowd(Parity):
    """Whose users like what the first of them likes."""

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        return super().step(replace(state, odd=np.full_like(state.odd, state.odd[0])), slates, rng)


class Beyond(Parity):
    """Which shows more than its bounds say."""

    def bounds(self, ideal: bool = False) -> tuple[np.ndarray, np.ndarray]:
        low, high = super().bounds(ideal)
        return low, high / 2


class Ended(Parity):
    """Where nobody begins anew."""

    def restart(self, state: Taste, rows: np.ndarray, rng: Draws) -> Taste:
        return state


class Remembering(Parity):
    """Whose new users were shown what those before them were."""

    def restart(self, state: Taste, rows: np.ndarray, rng: Draws) -> Taste:
        return replace(super().restart(state, rows, rng), shown=state.shown)


class Nowhere(Parity):
    """Whose items are at no point."""

    @cached_property
    def item_vectors(self) -> np.ndarray:
        return np.full((self.items, 2), np.nan, np.float32)


class Worthless(Parity):
    """Whose fifth rewards are no numbers."""

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        after, feedback = super().step(state, slates, rng)
        return after, replace(feedback, rewards=np.where(after.age > 4, np.float32(np.nan), feedback.rewards))


class Bare(Parity):
    """Whose steps give the clicks alone."""

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        after, feedback = super().step(state, slates, rng)
        return after, feedback.clicks  # type: ignore[return-value]


class Drawing(Parity):
    """Which draws for all users at once."""

    def reset(self, users: int, rng: Draws) -> Taste:
        return replace(super().reset(users, rng), odd=rng.random(users) < 0.5)  # type: ignore[union-attr]


class Foreign(Parity):
    """Whose new users have seen an item that is not there."""

    def reset(self, users: int, rng: Draws) -> Taste:
        return replace(super().reset(users, rng), shown=np.full((users, 2), 777))


class Single(Parity):
    """Whose reference shows one slate to all."""

    def references(self) -> dict[str, Reference]:
        return {"same": lambda state, rng: np.zeros((1, 2), np.int64)}


class Trio(Parity):
    """Whose step gives a third thing, too."""

    def step(self, state, slates, rng):  # type: ignore[no-untyped-def, override]
        return *super().step(state, slates, rng), {}


class Later(Parity):
    """Whose second step is in place; the first would change nothing."""

    def step(self, state: Taste, slates: np.ndarray, rng: Draws) -> tuple[Taste, Feedback]:
        state.odd[state.age > 0] = 0
        return super().step(state, slates, rng)


class Wilful(Parity):
    """Whose reference changes the users that it looks at."""

    def references(self) -> dict[str, Reference]:
        def same(state: Any, rng: np.random.Generator) -> np.ndarray:
            state.odd[:] = 1 - state.odd
            return np.ones((len(state.age), 2), np.int64)

        return {"same": same}


class Planned(Parity):
    """Whose reference knows a slate for each step before the time limit, and no more."""

    def references(self) -> dict[str, Reference]:
        plan = np.ones((self.steps or 0, 2), np.int64)
        return {"planned": lambda state, rng: plan[state.age]}


class Flat(Parity):
    """Whose reward is one number for all users."""

    def step(self, state, slates, rng):  # type: ignore[no-untyped-def, override]
        after, feedback = super().step(state, slates, rng)
        return after, Feedback(feedback.clicks, 1.0, feedback.terminated)  # type: ignore[arg-type]


class Endless(Parity):
    """Whose numbers have no bounds."""

    def bounds(self, ideal: bool = False):  # type: ignore[no-untyped-def]
        return np.full(int(ideal), -np.inf, np.float32), np.full(int(ideal), np.inf, np.float32)


class Pointless(Parity):
    """Whose bounds are two numbers."""

    def bounds(self, ideal: bool = False):  # type: ignore[no-untyped-def]
        return 0, 1


def test_a_world_that_keeps_its_promises_passes() -> None:
    check_world(Parity())
    check_world(Planned())


@pytest.mark.parametrize(
    ("world", "told"),
    [
        (Ageless(), "after a step, `shown`, `clicks` or `age` are not the step's"),
        (InPlace(), "a step changes the state that it was given"),
        (Crowd(), "alone than in a batch"),
        (Beyond(), "out of bounds, with ideal=True"),
        (Ended(), "after restart, `age` or `shown` of who begins anew are not as reset makes them"),
        (Remembering(), "after restart, `age` or `shown`"),
        (Nowhere(), "item_vectors has what is no finite number"),
        (Worthless(), "a reward is not a number"),
        (Bare(), "a step gives a State, and Feedback with clicks of the shape of the slates"),
        (Endless(), r"bounds of \[-inf\] and \[inf\], with ideal=True; expected two arrays of finite numbers"),
        (Pointless(), "bounds of 0 and 1, with ideal=False; expected two arrays"),
        (Trio(), "a step gives a pair, the next State and Feedback; found something else"),
        (Foreign(), r"shows int64 of shape \(5, 2\), 10 of which are no items of the catalogue \[777 777 777\]"),
        (Later(), "a step changes the state that it was given"),
        (Wilful(), "a reference changes the state that it was given"),
        (Single(), "a reference gives 1 slates for 5 users"),
        (Drawing(), r"rng.random draws for all users at once; draw by uniform, .* uniform\(rng, users, slots\)"),
    ],
)
def test_a_world_that_breaks_one_is_told_which(world: World, told: str) -> None:
    with pytest.raises(SetupError, match=f"world parity: .*{told}"):
        check_world(world)


@pytest.mark.parametrize("use", [check_world, lambda world: play(world.references()["random"], world, episodes=5)])
def test_a_world_that_breaks_one_is_not_played(use: Callable[[World], Any]) -> None:
    with unchecked(), pytest.raises(SetupError, match="world parity: a step gives a State, and Feedback with clicks"):
        use(Flat())


CALLS = """
from typing import ClassVar

from what_next.algorithms import Sqn
from what_next.errors import SetupError
from what_next.models.encoders import ENCODERS, EncoderSizes
from what_next.models.items import ItemVectors
from what_next.rewards import REWARDS
from what_next.settings import register
from what_next.testing import check_algorithm, check_encoder, check_reward, check_world
from what_next.worlds import OWN

GRU = ENCODERS["gru"]


class Single(REWARDS["repeat"]):
    range: ClassVar = 1


for call, told in (
    (lambda: check_algorithm(Sqn), "expected an object of a class of Algorithm; found the class Sqn; put () behind it"),
    (lambda: check_world(OWN["choice"]), "expected an object of a class of World; found the class Choice; put ()"),
    (lambda: check_reward(REWARDS["repeat"]), "of Reward; found the class Repeat; put () behind it"),
    (lambda: check_reward(Single()), "range is 1; expected the lowest and the highest value"),
    (lambda: register(Single()), "a source or a world; give the class: Single"),
    (lambda: check_reward(5), "expected an object of a class of Reward; found 5"),
    (lambda: check_encoder(GRU(ItemVectors(30, 16), EncoderSizes(16))), "expected a class of encoders"),
    (lambda: check_encoder(GRU(1, 2)), "made of item vectors and EncoderSizes; check_encoder takes the class"),
):
    try:
        call()
        raise AssertionError(told)
    except SetupError as error:
        assert told in str(error), error
"""


def test_a_class_for_an_object_or_an_object_for_a_class_is_told(forked: Forked, tmp_path: Path) -> None:
    """In another process: here types are checked before."""
    found = forked.run(code=CALLS, folder=tmp_path)
    assert found.returncode == 0, found.stderr


class Sessions(Source):
    """Three sessions, and what is changed of their batch."""

    def __init__(self, state: Data, **changes: Any) -> None:
        super().__init__(state)
        self.changes = changes

    def resume(self, histories: int, steps: int) -> None:
        """Nothing is remembered."""

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        history = History.of([[3, 1, 4], [1, 5], [2, 0, 1]], [[1, 2, 3], [4, 5], [6, 7, 8]])
        batch = Batch.following(history, policy.agent.factorize(history), history.rewards, 0.5)
        return replace(batch, **{name: change(getattr(batch, name)) for name, change in self.changes.items()})


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig(Sqn())


def test_of_nobody_there_is_an_empty_history() -> None:
    assert History.of([]).items.shape == (0, 0)
    assert History.of([[], [2]], [[], [0.5]]).items.tolist() == [[-1], [2]]


def cycle(rig: Rig, source: Source) -> Step:
    return Environment(rig.agent, rig.state, rig.setup, source=source, quiet=True)._cycle()


def test_sessions_become_a_batch_in_which_what_came_next_was_chosen(rig: Rig) -> None:
    batch = Sessions(rig.state).next_batch(rig.policy, rig.rng)
    assert batch.items.tolist() == [[3, 1, 4], [1, 5, -1], [2, 0, 1]]
    assert batch.actions.tolist() == [[1, 4, -1], [5, -1, -1], [0, 1, -1]]
    assert batch.rewards.tolist() == [[2, 3, 0], [5, 0, 0], [7, 8, 0]]
    assert batch.discounts.tolist() == [[0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0, 0.5]]
    assert batch.returns is not None
    assert batch.returns.tolist() == [[2 + 0.5 * 3, 3, 0], [5, 0, 0], [7 + 0.5 * 8, 8, 0]]
    assert cycle(rig, Sessions(rig.state)).targets == 5


def test_counts_of_the_log_do_not_stand_beside_what_was_learned_from_elsewhere(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = list[object]()
    monkeypatch.setattr(LinearTerm, "learn_transitions", lambda *what, **more: counted.append(what))
    environment = Environment(rig.agent, rig.state, rig.setup, source=Sessions(rig.state), quiet=True)
    environment.source.prepare(rig.agent)
    assert not environment.weigh()
    rig.source.prepare(rig.agent)
    Environment(rig.agent, rig.state, rig.setup, source=rig.source, quiet=True).weigh()
    assert counted


@pytest.mark.parametrize("within", [None, list])
def test_the_next_batch_of_a_generator_that_has_none_is_told(rig: Rig, within: Any) -> None:
    class Ended(Sessions):
        def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
            return within(next(iter(())) for _ in range(2)) if within else next(iter(()))

    with pytest.raises(DataError, match=r"the source Ended has come to its end after .* histories; lower passes"):
        cycle(rig, Ended(rig.state))


def test_another_error_of_a_source_stays_as_it_is(rig: Rig) -> None:
    class Failing(Sessions):
        def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        cycle(rig, Failing(rig.state))


class Of(Sessions):
    """These sessions, again and again."""

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        history = History.of(self.changes["sessions"])
        return Batch.following(history, policy.agent.factorize(history), history.rewards, 0.5)


def test_a_batch_without_an_event_is_told(rig: Rig) -> None:
    with pytest.raises(DataError, match=r"items of shape \(0, 0\), which are no events"):
        cycle(rig, Of(rig.state, sessions=[]))


@pytest.mark.parametrize("algorithm", ["sqn", "ddpg"])
def test_batches_without_a_step_are_told(setup_of: SetupOf, dataset: Dataset, tmp_path: Path, algorithm: str) -> None:
    """One may have none by chance: then it teaches nothing."""
    setup = setup_of(tmp_path, algorithm=algorithm, window=None, passes=1)
    state = Data(dataset, setup)
    source = Of(state, sessions=[[3], [1]])
    with pytest.raises(TrainingError, match=r"\d+ batches had no step that counts"):
        Environment(Agent(setup, state.space), state, setup, source=source, quiet=True).run_sim()


@pytest.mark.parametrize(
    ("field", "change", "told"),
    [
        (
            "items",
            lambda items: items + np.int32(18) * (items > 4),
            "items has a number that is no place in the catalogue",
        ),
        ("items", lambda items: items[:, ::-1], r"items has padding \(-1\) before an event"),
        ("mask", np.ones_like, "mask counts a step without an event"),
        ("actions", lambda actions: actions - 5, "actions has no item of the catalogue at a step that mask counts"),
        ("rewards", lambda rewards: rewards / 0, "rewards has a value that is no finite number"),
        ("discounts", lambda discounts: 3 * discounts, "discounts is below 0 or above 1"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_batch_that_cannot_be_learned_from_is_told(
    rig: Rig, field: str, change: Callable[[np.ndarray], np.ndarray], told: str
) -> None:
    source = Sessions(rig.state, **{field: change})
    for one in (source, Mixture({source: 1.0})):
        with pytest.raises(DataError, match=told):
            cycle(rig, one)


def test_a_mask_of_numbers_is_told(rig: Rig) -> None:
    """It was an IndexError of NumPy, once the steps were taken."""
    with unchecked(), pytest.raises(DataError, match="a batch has a mask of float32; expected True or False"):
        cycle(rig, Sessions(rig.state, mask=lambda mask: mask.astype(np.float32)))
