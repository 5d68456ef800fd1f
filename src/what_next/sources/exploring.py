"""Exploration: slates of random items, shown before anything is learned by acting."""

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
"""Slates of random items per user."""
PASSES = 10
"""Passes over the slates to learn the effects of clicks; `ROWS`: slates per step; `RATE`: Adam's learning rate."""
ROWS = 2_000
RATE = 0.01


@dataclass(frozen=True, eq=False)
class Explored:
    """Slates of random items, ordered by user and then time.

    Attributes:
        slates: the items; `clicks`: which of them were clicked; `users`: the user of each slate, from 0.
        numbers, following: the user's observed numbers before and after the slate.
    """

    slates: Int64[np.ndarray, "slates slots"]
    clicks: Bool[np.ndarray, "slates slots"]
    users: Int64[np.ndarray, "slates"]
    numbers: Float32[np.ndarray, "slates numbers"]
    following: Float32[np.ndarray, "slates numbers"]

    @property
    def clicked(self) -> tuple[Int32[np.ndarray, "clicks"], Int32[np.ndarray, "clicks"]]:
        """The clicked items in the order of the slates, and the user of each click."""
        rows, slots = np.nonzero(self.clicks)
        return self.slates[rows, slots].astype(np.int32), self.users[rows].astype(np.int32)


def explored(world: World, slates: int, rng: np.random.Generator) -> Explored:
    """Show slates of random items to a world's users."""
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
    """Fit a belief's prior to the clicks, and the actor's effects of clicks to the observed numbers.

    Args:
        given: attributes of the items; no columns if the item vectors are to be learned from the clicks.
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
