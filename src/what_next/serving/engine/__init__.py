"""The engine of the service: versions, sessions, batches, the safe policy, reasons."""

from what_next.serving.engine.engine import CatalogueItem, Engine
from what_next.serving.engine.live import check_models
from what_next.serving.engine.observer import Observer

__all__ = ["CatalogueItem", "Engine", "Observer", "check_models"]
