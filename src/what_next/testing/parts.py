"""The contracts of encoders, rewards and worlds. Run them on your own:

from what_next.testing import check_encoder, check_reward, check_world

check_encoder(MyEncoder)
check_reward(MyReward(cost=2))
check_world(MyWorld())
"""

import numpy as np

from what_next.errors import SetupError
from what_next.models.encoders import Encoder, EncoderSizes
from what_next.models.encoders.base import check, made
from what_next.models.items import ItemVectors
from what_next.rewards import Reward
from what_next.rewards import promises as reward_promises
from what_next.worlds import Streams, World
from what_next.worlds import promises as world_promises
from what_next.worlds.promises import USERS, expect, finite, same


def check_encoder(kind: type[Encoder]) -> None:
    """Check encoders of one layer and of two: shapes, no look-ahead, and single steps equal to the pass over a history.

    Training does so, too, before its first step with an encoder of another package.

    Raises:
        SetupError: a check failed; the message says which.
    """
    if not (isinstance(kind, type) and issubclass(kind, Encoder)):
        name = type(kind).__name__
        raise SetupError(f"found an object, {name}; expected a class of encoders: leave out the () behind it")
    for layers in (1, 2):
        check(made(kind, ItemVectors(30, 16), EncoderSizes(16, layers, dropout=0.3, max_length=20)))


def check_reward(reward: Reward) -> None:
    """Check that each event has a reward within the range, padding has none, and no reward depends on later events.

    Training checks all of this but the range, too, before its first step.

    Raises:
        SetupError: a check failed; the message says which.
    """
    given(reward, Reward)
    earned, (low, high) = reward_promises.check_promises(reward), reward.range
    if earned.min() < min(low, 0) - 1e-5 or earned.max() > max(high, 0) + 1e-5:
        found = f"{earned.min():g} to {earned.max():g}"
        raise SetupError(f"{reward.key}: gives {found} for made-up events; its range is {low:g} to {high:g}")


def check_world(world: World) -> None:
    """Check that steps are pure and within bounds, that references choose from the catalogue, and that users are
    independent of each other.

    Training checks all but the last, too, before its first step.

    Raises:
        SetupError: a check failed; the message says which.
    """
    given(world, World)
    world_promises.check_promises(world)
    try:
        _users_are_apart(world)
    except AttributeError as error:
        if not isinstance(error.obj, Streams):
            raise
        raise SetupError(
            f"world {world.known_as}: rng.{error.name} draws for all users at once; draw by uniform, integers or "
            "normal of what_next.worlds.base, such as uniform(rng, users, slots), which give each user a stream"
        ) from error


def given(part: object, kind: type) -> None:
    """Raise a `SetupError` where a part is not an instance of `kind`, for example where it is the class itself."""
    if not isinstance(part, kind):
        found = f"the class {part.__name__}; put () behind it" if isinstance(part, type) else repr(part)
        raise SetupError(f"expected an object of a class of {kind.__name__}; found {found}")


def _users_are_apart(world: World) -> None:
    """A user's random stream is the same alone and in a batch."""
    rng = Streams(np.random.default_rng(0).integers(2**64, size=USERS, dtype=np.uint64))
    singles = [Streams(rng.keys[row : row + 1]) for row in range(USERS)]
    together, alone = world.reset(USERS, rng), [world.reset(1, single) for single in singles]
    chooser, policies = np.random.default_rng(3), [world.random_slates, *world.references().values()]
    for step in range(30):  # the policy draws from another generator than the users
        slates = policies[step % len(policies)](together, chooser)
        together, feedback = world.step(together, slates, rng)
        finite(feedback, world)
        early = together.age >= 11 + np.arange(USERS)  # else users who never leave would all begin anew together
        ended = feedback.terminated | world.truncated(together) | early
        for row, single in enumerate(singles):
            alone[row], one = world.step(alone[row], slates[row : row + 1], single)
            alike = one.rewards[0] == feedback.rewards[row] and one.terminated[0] == feedback.terminated[row]
            expect(bool(alike), world, f"user {row} gets another answer alone than in a batch")
            if ended[row]:
                alone[row] = world.restart(alone[row], np.zeros(1, np.int64), single)
        together = world.restart(together, np.flatnonzero(ended), rng)
        for row in range(USERS):
            unchanged = same(together.rows(np.array([row])), alone[row])
            expect(unchanged, world, f"user {row} becomes another one alone than in a batch")
