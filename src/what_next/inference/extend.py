"""New items in a running service: a recommender with a longer catalogue, without training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor, nn

from what_next.agent import Agent
from what_next.data import Catalogue
from what_next.data.importing.ids import CANONICAL_INTEGER
from what_next.data.space import Space
from what_next.errors import CatalogueError, some
from what_next.inference.recommender import Recommender
from what_next.models.encoders import Encoder
from what_next.models.items import ItemVectors
from what_next.policy import LearnedPolicy
from what_next.state import State

NEIGHBOURS = 10
"""Items whose learned vectors a new item's is the mean of."""
CHUNK = 2**22
"""Distances at work at a time: 16 MB."""
LARGEST = float(np.finfo(np.float32).max)
"""Of an attribute's values."""
UNTOLD = (
    "is new, and the catalogue has no attributes by which it could be recommended; it can be from the next training "
    "on, once events name it"
)
"""What people are told of a new item where items have no attributes."""


@dataclass(frozen=True)
class NewItem:
    """An item to add, or what is now true of one that is there.

    Attributes:
        item_id: as in the item table; `title`: what people call it.
        attributes: all that the catalogue has, by name, in their own units.
    """

    item_id: str
    title: str
    attributes: Mapping[str, float] = field(default_factory=dict)


def extend(recommender: Recommender, items: Sequence[NewItem]) -> Recommender:
    """A recommender with further items at the end of its catalogue, which may be recommended at once.

    Positions of old items stay, and so do sessions: those of the one go on with the other. An id that is known gets the
    new title and attributes; the last of an id counts. The recommender itself is as it was, and may go on answering;
    the two share no memory that either changes.

    Where items are known by their attributes, a new one is as good as any other. Where their vectors are learned and
    nothing else, a new one's is the mean of those of its 10 nearest items (of a training event, where that is known) by
    standardised attributes: a guess, which holds until the next training. Beside attributes, what is learned of a new
    item is nothing.

    Raises:
        CatalogueError: an item lacks an attribute, has one that the catalogue does not know or one that is no number;
            or a new one has none to be told by.
    """
    if not items:
        return recommender
    latest = list({item.item_id: item for item in items}.values())
    check(recommender.catalogue, latest)
    catalogue = extended_catalogue(recommender.catalogue, latest)
    old = recommender.state
    state = State(replace(old.dataset, catalogue=catalogue), old.setup, _space(old.space, catalogue))
    agent = _agent(recommender.policy.agent, catalogue)
    if agent.setup.algorithm.by_attributes:
        _ = state.box  # built here, so that no request waits for it
    return Recommender(LearnedPolicy(agent, state, recommender.policy.search))


def check(catalogue: Catalogue, items: Sequence[NewItem]) -> None:
    """Raises a `CatalogueError` where an item cannot be put into the catalogue."""
    known = set(catalogue.names)
    places = catalogue.index([item.item_id for item in items])
    for item, place in zip(items, places.tolist(), strict=True):
        if unknown := sorted(set(item.attributes) - known):
            raise CatalogueError(
                f"item {item.item_id!r} has attributes that the catalogue does not know: {some(unknown)}; it has "
                f"{some(catalogue.names) or 'none'}"
            )
        if missing := [name for name in catalogue.names if name not in item.attributes]:
            raise CatalogueError(f"item {item.item_id!r} lacks attributes: {some(missing)}; give all of them")
        if wrong := [name for name, value in item.attributes.items() if not abs(value) <= LARGEST]:
            raise CatalogueError(f"item {item.item_id!r}: {some(wrong)} is not a finite number")
        if place < 0 and not known:
            raise CatalogueError(f"item {item.item_id!r} {UNTOLD}")


def misfits(catalogue: Catalogue, items: Sequence[NewItem]) -> frozenset[str]:
    """The ids of those items that cannot be put into the catalogue."""
    try:
        check(catalogue, items)
    except CatalogueError:
        if len(items) == 1:
            return frozenset((items[0].item_id,))
        return frozenset().union(*(misfits(catalogue, [one]) for one in items))
    return frozenset()


def extended_catalogue(catalogue: Catalogue, items: Sequence[NewItem]) -> Catalogue:
    """The catalogue with items of different ids replaced, or added at its end, under the same scaling; tags stay."""
    texts = pl.Series(catalogue.ids.name, [item.item_id for item in items], dtype=pl.String)
    ids, titles = catalogue.ids, pl.Series(catalogue.titles.name, [item.title for item in items], dtype=pl.String)
    if ids.dtype != pl.String and texts.str.contains(CANONICAL_INTEGER).all():
        texts = texts.cast(ids.dtype)
    else:
        ids = ids.cast(pl.String)  # ids are compared as text everywhere
    values = [[item.attributes[name] for name in catalogue.names] for item in items]
    attributes = np.array(values, np.float32).reshape(len(items), len(catalogue.names))
    places, old = catalogue.index([item.item_id for item in items]), len(catalogue)
    places[places < 0] = old + np.arange(np.count_nonzero(places < 0))
    rows = np.arange(max(old, int(places.max()) + 1))
    rows[places] = old + np.arange(len(items))
    tags = catalogue.tags
    if tags is not None:
        tags = tags.extend_constant(None, len(rows) - old)
    return replace(
        catalogue,
        ids=pl.concat([ids, texts]).gather(rows),
        named=pl.concat([catalogue.titles, titles]).gather(rows),
        attributes=np.concatenate([catalogue.attributes, attributes])[rows],
        tags=tags,
    )


def _space(space: Space, catalogue: Catalogue) -> Space:
    """The same with another catalogue: nobody heard the items at its end."""
    counts = space.counts
    if counts is not None:
        counts = np.pad(counts, (0, len(catalogue) - len(counts)))
    return replace(space, catalogue=catalogue, counts=counts)


def _agent(agent: Agent, catalogue: Catalogue) -> Agent:
    """A copy for inference, whose encoder knows all items."""
    new = Agent(agent.setup, _space(agent.space, catalogue))
    known: dict[int, object] = {
        id(net.items): _vectors(net.items, catalogue, agent.space.seen)
        for net in agent.nets.values()
        if isinstance(net, Encoder)
    }
    new.nets = {name: copy.deepcopy(net, known) for name, net in agent.nets.items()}
    for net in new.nets.values():
        if isinstance(net, Encoder) and net.followed is not None:
            net.followed = torch.cat([net.followed, net.followed.new_ones(len(catalogue) - len(net.followed))])
        if isinstance(net, Encoder) and net.ridge is not None:
            net.ridge.grow(len(catalogue))
    new.histories, new.steps = agent.histories, agent.steps
    return new.eval()


def _vectors(old: ItemVectors, catalogue: Catalogue, seen: Int32[np.ndarray, "seen"]) -> ItemVectors:
    """The vectors of the items, the new ones at the end."""
    count, vectors = len(catalogue), catalogue.vectors
    new = copy.deepcopy(old)
    new.count = count
    if old.attributes is not None:
        new.attributes = torch.from_numpy(vectors).to(old.attributes.device)
    if old.learned is not None:
        rows = old.learned.detach()
        added = rows.new_zeros(count - old.count, old.dim)
        if old.attributes is None:
            added = _guessed(rows, vectors, seen)
        new.learned = nn.Parameter(torch.cat([rows, added]), requires_grad=old.learned.requires_grad)
    if old.trained is not None:
        new.trained = torch.cat([old.trained, old.trained.new_zeros(count - old.count, 1)])
    return new


def _guessed(
    rows: Float[Tensor, "old dim"], vectors: Float32[np.ndarray, "items attributes"], seen: Int32[np.ndarray, "seen"]
) -> Float[Tensor, "added dim"]:
    """For each new item the mean of its neighbours' learned vectors."""
    near, new = torch.from_numpy(vectors[seen]), torch.from_numpy(vectors[len(rows) :])
    found = [rows[:0]]
    for part in torch.split(new, max(1, CHUNK // max(1, len(near)))):
        nearest = torch.cdist(part, near).topk(min(NEIGHBOURS, len(near)), largest=False).indices
        found.append(rows[torch.from_numpy(seen).to(rows.device)[nearest.to(rows.device)].long()].mean(1))
    return torch.cat(found)
