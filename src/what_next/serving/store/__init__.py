"""The store of the service: events and impressions, in SQLite or PostgreSQL."""

from what_next.serving.store import export as export
from what_next.serving.store.backend import store_of as store_of
from what_next.serving.store.records import (
    AddEvents as AddEvents,
    AddFeedback as AddFeedback,
    AddImpression as AddImpression,
    AddItems as AddItems,
    AnsweredBefore as AnsweredBefore,
    Conflict as Conflict,
    Deploy as Deploy,
    Deployment as Deployment,
    Erased as Erased,
    EraseUser as EraseUser,
    EventRow as EventRow,
    EventsAdded as EventsAdded,
    FeedbackAdded as FeedbackAdded,
    FeedbackRow as FeedbackRow,
    Head as Head,
    InvalidWrite as InvalidWrite,
    ItemRow as ItemRow,
    ItemsAdded as ItemsAdded,
    KeptResponse as KeptResponse,
    Key as Key,
    MarkShown as MarkShown,
    NotShown as NotShown,
    Outcome as Outcome,
    StoredEvent as StoredEvent,
    StoredItem as StoredItem,
    UnknownRecommendation as UnknownRecommendation,
    Withdrawal as Withdrawal,
    WithdrawItem as WithdrawItem,
    Withdrawn as Withdrawn,
    Write as Write,
)
from what_next.serving.store.store import Store as Store, now as now
from what_next.serving.store.writer import Outage as Outage, Writer as Writer
