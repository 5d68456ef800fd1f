"""The store of the service: events and impressions, in SQLite or PostgreSQL."""

from what_next.server.store import export as export
from what_next.server.store.episode import Episode
from what_next.server.store.place import store_of
from what_next.server.store.rows import Deployment, Head, Key, StoredEvent, StoredImpression, StoredItem
from what_next.server.store.store import Store, now
from what_next.server.store.writer import Writer
from what_next.server.store.writes import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    Deploy,
    Erased,
    EraseUser,
    EventRow,
    EventsAdded,
    FeedbackAdded,
    FeedbackRow,
    ItemRow,
    ItemsAdded,
    NotShown,
    Outcome,
    Unfit,
    UnknownRecommendation,
    Write,
)

__all__ = [
    "AddEvents",
    "AddFeedback",
    "AddImpression",
    "AddItems",
    "Deploy",
    "Deployment",
    "Episode",
    "EraseUser",
    "Erased",
    "EventRow",
    "EventsAdded",
    "FeedbackAdded",
    "FeedbackRow",
    "Head",
    "ItemRow",
    "ItemsAdded",
    "Key",
    "NotShown",
    "Outcome",
    "Store",
    "StoredEvent",
    "StoredImpression",
    "StoredItem",
    "Unfit",
    "UnknownRecommendation",
    "Write",
    "Writer",
    "now",
    "store_of",
]
