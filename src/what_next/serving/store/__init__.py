"""The store of the service: events and impressions, in SQLite or PostgreSQL."""

from what_next.serving.store import export as export
from what_next.serving.store.backend import store_of as store_of
from what_next.serving.store.records import (
    AddEvents as AddEvents,
)
from what_next.serving.store.records import (
    AddFeedback as AddFeedback,
)
from what_next.serving.store.records import (
    AddImpression as AddImpression,
)
from what_next.serving.store.records import (
    AddItems as AddItems,
)
from what_next.serving.store.records import (
    AnsweredBefore as AnsweredBefore,
)
from what_next.serving.store.records import (
    Conflict as Conflict,
)
from what_next.serving.store.records import (
    Deploy as Deploy,
)
from what_next.serving.store.records import (
    Deployment as Deployment,
)
from what_next.serving.store.records import (
    Erased as Erased,
)
from what_next.serving.store.records import (
    EraseUser as EraseUser,
)
from what_next.serving.store.records import (
    EventRow as EventRow,
)
from what_next.serving.store.records import (
    EventsAdded as EventsAdded,
)
from what_next.serving.store.records import (
    FeedbackAdded as FeedbackAdded,
)
from what_next.serving.store.records import (
    FeedbackRow as FeedbackRow,
)
from what_next.serving.store.records import (
    Head as Head,
)
from what_next.serving.store.records import (
    InvalidWrite as InvalidWrite,
)
from what_next.serving.store.records import (
    ItemRow as ItemRow,
)
from what_next.serving.store.records import (
    ItemsAdded as ItemsAdded,
)
from what_next.serving.store.records import (
    KeptResponse as KeptResponse,
)
from what_next.serving.store.records import (
    Key as Key,
)
from what_next.serving.store.records import (
    MarkShown as MarkShown,
)
from what_next.serving.store.records import (
    NotShown as NotShown,
)
from what_next.serving.store.records import (
    Outcome as Outcome,
)
from what_next.serving.store.records import (
    Second as Second,
)
from what_next.serving.store.records import (
    StoredEvent as StoredEvent,
)
from what_next.serving.store.records import (
    StoredItem as StoredItem,
)
from what_next.serving.store.records import (
    UnknownRecommendation as UnknownRecommendation,
)
from what_next.serving.store.records import (
    Withdrawal as Withdrawal,
)
from what_next.serving.store.records import (
    WithdrawItem as WithdrawItem,
)
from what_next.serving.store.records import (
    Withdrawn as Withdrawn,
)
from what_next.serving.store.records import (
    Write as Write,
)
from what_next.serving.store.store import Store as Store
from what_next.serving.store.store import now as now
from what_next.serving.store.writer import Outage as Outage
from what_next.serving.store.writer import Writer as Writer
