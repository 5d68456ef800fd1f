"""The store of the service: events and impressions, in SQLite or PostgreSQL."""

from what_next.serving.store.backend import store_of as store_of
from what_next.serving.store.records import *  # noqa: F403 (writes, their outcomes, and what is read)
from what_next.serving.store.store import Store as Store
from what_next.serving.store.store import now as now
from what_next.serving.store.writer import Outage as Outage
from what_next.serving.store.writer import Writer as Writer
