"""The engine of the service: versions, sessions, batches, the fallback to popular items, reasons."""

from what_next.serving.engine.engine import Engine as Engine
from what_next.serving.engine.live import check_models as check_models
