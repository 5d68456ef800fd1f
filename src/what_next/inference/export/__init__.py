"""ONNX export of the encoder and the actor's head: one graph reads whole histories, the other single events."""

from what_next.inference.export.files import Exported, export

__all__ = ["Exported", "export"]
