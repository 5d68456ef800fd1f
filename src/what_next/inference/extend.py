"""New items in a running service: extend a recommender's catalogue without training."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor, nn

from what_next.agent import Agent
from what_next.baselines.counts import Rows
from what_next.baselines.tags import neighbours
from what_next.data import Catalogue
from what_next.data.catalogue import tags_of
from what_next.data.importing.ids import CANONICAL_INTEGER
from what_next.data.space import Space
from what_next.errors import CatalogueError, some
from what_next.inference.recommender import Recommender
from what_next.models.encoders import Encoder
from what_next.models.items import ItemVectors
from what_next.models.linear import mean_of
from what_next.policy import LearnedPolicy
from what_next.state import State

NEIGHBOURS = 10
"""A new item that shares no tag gets the mean of the learned vectors of this many nearest items."""
CHUNK = 2**22
"""Distances computed at a time: 16 MB."""
LARGEST = float(np.finfo(np.float32).max)
"""Largest absolute value of an attribute."""
UNTOLD = (
    "is new, and the catalogue has no attributes by which it could be recommended; it can be from the next training "
    "on, once events name it"
)
"""Message for a new item if the catalogue has neither attributes nor tags."""
UNSHARED = (
    "are those of no item that the model was trained with, and the catalogue has no attributes by which a new item "
    "could be recommended; give one that such an item has, or wait for the next training, once events name it"
)
"""Message for a new item whose tags are all unknown, if the catalogue has no attributes."""


@dataclass(frozen=True)
class NewItem:
    """An item to add, or the new data of a known item.

    Attributes:
        item_id: as in the item table; `title`: for people.
        attributes: a value for every attribute of the catalogue, by name, in the attribute's unit.
        tags: words that items may share, by kind; kinds that the catalogue lacks are ignored. None: keep a known item's
            tags.
    """

    item_id: str
    title: str
    attributes: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, Sequence[str]] | None = None


def extend(recommender: Recommender, items: Sequence[NewItem]) -> Recommender:
    """A recommender with further items at the end of its catalogue, which can be recommended at once.

    Positions of old items do not change, so sessions of the old recommender are valid in the new one. A known id gets
    the new title, attributes and tags; the last entry of an id counts. The old recommender is unchanged and may go on
    answering: the two share no memory that either writes to.

    If item vectors are made of attributes only, a new item is as good as any other. If they are only learned, a new
    item gets the weighted mean of the vectors of items that share its tags, with more weight for a tag that users tend
    to stay with and for a tag that few items share. An item that shares no tag gets the mean of its 10 nearest items by
    standardised attributes, among those with a training event if these are known. (For 200 items of a shop with prices,
    treated as new, the cosine with the learned vector was .42 by brand and category, .25 by price; for 200 news
    articles .59 by tags, .37 by the 200 most frequent keywords as attributes, and less by a mean of both.) The linear
    model predicts a new item's successors from items that share its tags (`LinearTerm.place`), with or without
    attributes. Both are guesses until the next training, and are recomputed whenever an item without a training event
    is changed. If vectors have attributes and a learned part, the learned part of a new item is 0.

    Raises:
        CatalogueError: an item lacks an attribute, or has one that the catalogue does not know or that is not a number;
            or a new item has neither attributes nor known tags.
    """
    if not items:
        return recommender
    latest, old = {item.item_id: item for item in items}, recommender.state
    new_items = list(latest.values())
    for place, name, reason in problems(recommender.policy.agent.space, new_items):
        told = reason if name == "item_id" else f"does not fit the catalogue: {name} {reason}"
        raise CatalogueError(f"item {new_items[place].item_id!r} {told}")
    catalogue = extended_catalogue(recommender.catalogue, new_items)
    state = State(replace(old.dataset, catalogue=catalogue), old.setup, _space(old.space, catalogue))
    new = np.setdiff1d(catalogue.index(list(latest)), recommender.policy.agent.space.seen).astype(np.int64)
    agent = _agent(recommender.policy.agent, catalogue, new)
    if agent.setup.algorithm.by_attributes:
        _ = state.box  # built here, so that no request waits for it
    return Recommender(LearnedPolicy(agent, state, recommender.policy.search))


def misfits(space: Space, items: Sequence[NewItem]) -> frozenset[str]:
    """The ids of the items that cannot be put into the catalogue."""
    return frozenset(items[place].item_id for place, _, _ in problems(space, items))


def known_tags(space: Space, items: Sequence[NewItem] = ()) -> frozenset[str]:
    """The tags of items with a training event, including the tags that `items` now give to these."""
    tags = space.catalogue.tags
    if tags is None:
        return frozenset()
    own = np.isin(space.catalogue.index([item.item_id for item in items]), space.seen)
    new = [_tags(item, space.catalogue.kinds) or () for item, here in zip(items, own, strict=True) if here]
    return frozenset(chain(tags.gather(space.seen).explode().drop_nulls().unique(), *new))


def problems(space: Space, items: Sequence[NewItem], own: int | None = None) -> Iterator[tuple[int, str, str]]:
    """The items that cannot be put into the catalogue: the index in `items`, the field at fault, and the reason.

    `own`: the number of catalogue items from training, which come before the added ones; None: all. An added item that
    is given new tags must share one with a trained item, because it is added from scratch when the model is reloaded.
    """
    catalogue, names, known = space.catalogue, space.catalogue.names, set(space.catalogue.names)
    places, own = catalogue.index([item.item_id for item in items]).tolist(), len(catalogue) if own is None else own
    untold = [
        not names and (place < 0 or (place >= own and item.tags is not None))
        for item, place in zip(items, places, strict=True)
    ]
    tags = known_tags(space, items) if any(untold) else frozenset()
    for place, item in enumerate(items):
        wrong = {
            "missing": [name for name in names if name not in item.attributes],
            "not known": [name for name in item.attributes if name not in known],
            "no finite number of single precision": [
                name for name, value in item.attributes.items() if not abs(value) <= LARGEST
            ],
        }
        reasons = [f"{some(map(repr, found))}: {what}" for what, found in wrong.items() if found]
        if reasons:
            yield place, "attributes", f"{'; '.join(reasons)}; an item has {some(names) or 'none'}"
        elif untold[place] and tags.isdisjoint(_tags(item, catalogue.kinds) or ()):
            yield (place, "tags", UNSHARED) if catalogue.kinds else (place, "item_id", UNTOLD)


def _tags(item: NewItem, kinds: Sequence[str]) -> list[str] | None:
    """The item's tags of the given kinds, in the catalogue's form; None if the item gives none."""
    return None if item.tags is None else tags_of({kind: item.tags[kind] for kind in kinds if kind in item.tags})


def extended_catalogue(catalogue: Catalogue, items: Sequence[NewItem]) -> Catalogue:
    """The catalogue with items of different ids replaced, or added at its end, under the same scaling."""
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
        given = pl.Series(tags.name, [_tags(item, catalogue.kinds) for item in items], tags.dtype)
        stay = np.array([item.tags is None for item in items]) & (places < old)
        kept = rows.copy()
        kept[places[stay]] = places[stay]
        tags = pl.concat([tags, given]).gather(kept)
    return replace(
        catalogue,
        ids=pl.concat([ids, texts]).gather(rows),
        named=pl.concat([catalogue.titles, titles]).gather(rows),
        attributes=np.concatenate([catalogue.attributes, attributes])[rows],
        tags=tags,
    )


def _space(space: Space, catalogue: Catalogue) -> Space:
    """The space with a longer catalogue, whose added items have a count of 0."""
    counts = space.counts
    if counts is not None:
        counts = np.pad(counts, (0, len(catalogue) - len(counts)))
    return replace(space, catalogue=catalogue, counts=counts)


def _agent(agent: Agent, catalogue: Catalogue, new: Int64[np.ndarray, "new"]) -> Agent:
    """A copy for inference whose encoder has vectors for all items; those of the `new` positions are computed."""
    extended = Agent(agent.setup, _space(agent.space, catalogue))
    known: dict[int, object] = {}
    for net in agent.nets.values():
        if not isinstance(net, Encoder):
            continue
        near = _neighbours(net, catalogue, agent.space.seen, new)
        known[id(net.items)] = _vectors(net.items, catalogue, agent.space.seen, new, near)
        if net.ridge is not None:
            known[id(net.ridge)] = ridge = copy.deepcopy(net.ridge)
            ridge.grow(len(catalogue))
            if near is not None:
                ridge.place(new, near.offsets, near.columns, near.values)
    extended.nets = {name: copy.deepcopy(net, known) for name, net in agent.nets.items()}
    for net in extended.nets.values():
        if isinstance(net, Encoder) and net.followed is not None:
            net.followed = torch.cat([net.followed, net.followed.new_ones(len(catalogue) - len(net.followed))])
    extended.histories, extended.steps = agent.histories, agent.steps
    return extended.eval()


def _neighbours(
    net: Encoder, catalogue: Catalogue, seen: Int32[np.ndarray, "seen"], new: Int64[np.ndarray, "new"]
) -> Rows | None:
    """For each new item, the items that share its tags, with their weights; None if the catalogue has no tags."""
    if catalogue.tags is None:
        return None
    ridge, events, chances = net.ridge, np.zeros(net.items.count), np.ones(len(catalogue.kinds))
    if ridge is not None:
        events, kept = (one.double().cpu().numpy() for one in (ridge.popularity, ridge.tags_kept))
        chances = kept if len(kept) == len(chances) else chances
    return neighbours(catalogue, seen, new, chances, events)


def _vectors(
    old: ItemVectors,
    catalogue: Catalogue,
    seen: Int32[np.ndarray, "seen"],
    new: Int64[np.ndarray, "new"],
    near: Rows | None,
) -> ItemVectors:
    """The item vectors, with those of the added items at the end."""
    extended, added = copy.deepcopy(old), len(catalogue) - old.count
    extended.count = len(catalogue)
    if old.attributes is not None:
        extended.attributes = torch.from_numpy(catalogue.vectors).to(old.attributes.device)
    if old.learned is not None:
        rows = old.learned.detach()
        learned = torch.cat([rows, rows.new_zeros(added, old.dim)])
        if old.attributes is None and catalogue.names:
            learned[new] = _guessed(rows, catalogue.vectors, seen, new)
        if old.attributes is None and near is not None:
            alike = torch.from_numpy(np.diff(near.offsets) > 0).to(rows.device)[:, None]
            learned[new] = mean_of(rows, near.offsets, near.columns, near.values).where(alike, learned[new])
        extended.learned = nn.Parameter(learned, requires_grad=old.learned.requires_grad)
    if old.trained is not None:
        extended.trained = torch.cat([old.trained, old.trained.new_zeros(added, 1)])
    return extended


def _guessed(
    rows: Float[Tensor, "old dim"],
    vectors: Float32[np.ndarray, "items attributes"],
    seen: Int32[np.ndarray, "seen"],
    new: Int64[np.ndarray, "new"],
) -> Float[Tensor, "new dim"]:
    """For each new item, the mean of the learned vectors of its nearest items by attributes."""
    near, found = torch.from_numpy(vectors[seen]), [rows[:0]]
    for part in torch.split(torch.from_numpy(vectors[new]), max(1, CHUNK // max(1, len(near)))):
        nearest = torch.cdist(part, near).topk(min(NEIGHBOURS, len(near)), largest=False).indices
        found.append(rows[torch.from_numpy(seen).to(rows.device)[nearest.to(rows.device)].long()].mean(1))
    return torch.cat(found)
