"""What slates of random items tell of a world, before anything is learned by acting."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64

from what_next.data.clicks import factorised
from what_next.data.space import Space
from what_next.models.belief import Belief
from what_next.models.slates import Pricer
from what_next.worlds import World

EXPLORED = 100
"""Slates of random items of a user, of those that explore."""
PASSES = 10
"""Over the slates, to learn what clicks do; and `ROWS`, slates of a step, and `RATE`, of Adam."""
ROWS = 2_000
RATE = 0.01


@dataclass(frozen=True, eq=False)
class Explored:
    """Slates of random items, by user and then time.

    Attributes:
        slates: the items; `clicks`: which of them were clicked; `users`: by whom, from 0.
        numbers, following: what else was seen of the user, before and after the slate.
    """

    slates: Int64[np.ndarray, "slates slots"]
    clicks: Bool[np.ndarray, "slates slots"]
    users: Int64[np.ndarray, "slates"]
    numbers: Float32[np.ndarray, "slates numbers"]
    following: Float32[np.ndarray, "slates numbers"]

    @property
    def clicked(self) -> tuple[Int32[np.ndarray, "clicks"], Int32[np.ndarray, "clicks"]]:
        """The items that were clicked, in the same order; and whose clicks these are."""
        rows, slots = np.nonzero(self.clicks)
        return self.slates[rows, slots].astype(np.int32), self.users[rows].astype(np.int32)


def explored(world: World, slates: int, rng: np.random.Generator) -> Explored:
    """What users do with slates of random items."""
    users = max(1, round(slates / EXPLORED))
    state, row = world.reset(users, rng), np.arange(users)
    parts, begun, seen = list[tuple[np.ndarray, ...]](), users, world.observe(state).numbers
    for _ in range(max(1, slates // users)):
        shown = world.random_slates(state, rng)
        state, feedback = world.step(state, shown, rng)
        after = world.observe(state).numbers
        parts.append((shown, feedback.clicks, row.copy(), seen, after))
        ended = np.flatnonzero(feedback.terminated | world.truncated(state))
        row[ended] = np.arange(begun, begun := begun + len(ended))
        state = world.restart(state, ended, rng)
        seen = world.observe(state).numbers if len(ended) else after
    whole = [np.concatenate(part) for part in zip(*parts, strict=True)]
    order = np.argsort(whole[2], kind="stable")
    return Explored(*(part[order] for part in whole))


def believe(
    actor: Pricer,
    belief: Belief,
    seen: Explored,
    space: Space,
    given: Float32[np.ndarray, "items attributes"],
    seed: int,
) -> None:
    """Let a belief start from what others clicked, and the actor know what clicks do to the numbers that are seen.

    Args:
        given: attributes of the items, where vectors are made of them.
    """
    scaled = given / np.float32(max(1, given.shape[1]) ** 0.5)
    belief.learn(factorised(seen.slates, seen.clicks, seen.users, scaled, belief.width, seed))
    if not actor.traits:
        return
    center, scale = space.event_center[: actor.traits], space.event_scale[: actor.traits]
    numbers, following = (((one - center) / scale).astype(np.float32) for one in (seen.numbers, seen.following))
    data = [torch.from_numpy(one) for one in (seen.slates, seen.clicks.astype(np.float32), numbers, following)]
    own = () if actor.own is None else (actor.own,)
    optimiser = torch.optim.Adam([*actor.effects.parameters(), *actor.fades.parameters(), *own], RATE)
    generator, device = torch.Generator().manual_seed(seed), belief.items.device
    for turn in range(PASSES):
        optimiser.param_groups[0]["lr"] = RATE * (1 - turn / PASSES)
        for rows in torch.split(torch.randperm(len(numbers), generator=generator), ROWS):
            optimiser.zero_grad()
            left = actor.unexplained(belief.items[:, :-1], *(one[rows].to(device) for one in data))
            torch.autograd.backward(left.mean())
            optimiser.step()
