"""The contract of every reward, checked on made-up events."""

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from what_next.errors import SetupError, told_of
from what_next.rewards.base import NEVER, Events, Reward

OPTIONAL = {"attributes": "vectors", "times": "times", "popularity": "popularity", "profile": "profile"}
"""The possible needs of a reward, each with the field of `Events` that satisfies it."""
TIME, ITEMS, ATTRIBUTES = 9, 6, 3


def check_promises(reward: Reward) -> Float[Tensor, "batch time"]:
    """Check a reward on made-up events that hold only what it `needs`: shape, padding, and no look-ahead.

    Returns its values for one batch of events.

    Raises:
        SetupError: it breaks the contract.
    """
    if unknown := sorted(set(reward.needs) - OPTIONAL.keys()):
        raise SetupError(f"{reward.key}: needs has {', '.join(unknown)}; there are {', '.join(OPTIONAL)}")
    try:
        low, high = map(float, reward.range)
    except (TypeError, ValueError):
        raise SetupError(
            f"{reward.key}: range is {reward.range!r}; expected the lowest and the highest value"
        ) from None
    if not low <= high:
        raise SetupError(f"{reward.key}: range is {low:g} to {high:g}; expected the lowest value first")
    events = random_events(0)
    found = _earned(reward, events)
    if not _same(events, random_events(0)):
        raise SetupError(f"{reward.key}: changes the events that it is given; change a copy (`clone`)")
    if not torch.equal(found.nan_to_num(), _earned(reward, events).nan_to_num()):
        raise SetupError(f"{reward.key}: gives the same events other values the second time; it may draw nothing")
    if not found.isfinite().all():
        raise SetupError(f"{reward.key}: a reward is no finite number")
    if found[~events.real].any():
        raise SetupError(f"{reward.key}: padding earns something; multiply by events.real")
    for known in () if reward.reads_future else (1, 4, 8):
        for other in (other_future(events, known), no_future(events, known)):
            if not torch.allclose(found[:, :known], _earned(reward, other)[:, :known], atol=1e-5):
                raise SetupError(
                    f"{reward.key}: reads later events, whether any follow, or a label (sigma, profile, after); look "
                    "at earlier events alone, or say reads_future"
                )
    return found


def random_events(seed: int, scale: float = 1.0) -> Events:
    """Four rows of 1, 4, 8 and 9 events; `scale` of rewards, vectors and labels."""
    rng = torch.Generator().manual_seed(seed)
    items = torch.randint(ITEMS, (4, TIME), generator=rng)
    items[torch.arange(TIME) >= torch.tensor([1, 4, 8, 9])[:, None]] = -1
    times = torch.randint(10**12, (4, TIME), generator=rng).sort(1).values
    return Events(
        items=items,
        rewards=torch.randn(4, TIME, generator=rng) * scale,
        times=times,
        vectors=torch.randn(ITEMS, ATTRIBUTES, generator=rng) * scale,
        popularity=torch.softmax(torch.randn(ITEMS, generator=rng) * scale, 0),
        sigma=torch.rand(4, generator=rng) * scale,
        profile=torch.randn(4, ATTRIBUTES, generator=rng) * scale,
        after=torch.tensor([2 * 10**12, NEVER, 2 * 10**12, NEVER]),
    )


def other_future(events: Events, known: int) -> Events:
    """The same up to `known` events, with other events after them and other labels."""
    other, real = random_events(99), events.real[:, known:]
    changed: dict[str, Any] = {name: getattr(events, name).clone() for name in ("items", "rewards", "times")}
    changed["items"][:, known:] = torch.where(real, (events.items[:, known:] + 1) % ITEMS, -1)
    changed["rewards"][:, known:] += 1
    changed["times"][:, known:] += 10**11
    return replace(events, **changed, sigma=other.sigma, profile=other.profile, after=other.after)


def no_future(events: Events, known: int) -> Events:
    """The same up to `known` events, with padding after them; the labels stay."""
    cut = torch.arange(events.items.shape[1]) >= known
    return replace(events, items=events.items.masked_fill(cut, -1))


def _same(one: Events, other: Events) -> bool:
    """Whether no field differs."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(torch.equal(two, three) for two, three in pairs if isinstance(two, Tensor))


def _earned(reward: Reward, events: Events) -> Float[Tensor, "batch time"]:
    """Its values for events without the fields that it does not need."""
    left: dict[str, Any] = {field: None for name, field in OPTIONAL.items() if name not in reward.needs}
    if "vectors" in left:
        left["vectors"] = events.vectors[:, :0]
    if "times" in left:
        left["after"] = None
    return earned(reward, replace(events, **left))


def earned(reward: Reward, events: Events) -> Float[Tensor, "batch time"]:
    """A reward's values; a `SetupError` if it fails, or does not return a number for each event."""
    needs, shape = ", ".join(reward.needs) or "nothing", tuple(events.items.shape)
    what = f"{reward.key}: fails on events that have what it needs ({needs}), in a grid of {shape[0]} by {shape[1]}"
    with told_of(reward, what, SetupError):
        found = reward.of(events)
    if not isinstance(found, Tensor) or found.shape != events.items.shape:
        given = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise SetupError(f"{reward.key}: gives {given}; expected a tensor of shape {shape}")
    return found.float()
