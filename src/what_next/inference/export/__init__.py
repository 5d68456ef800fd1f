"""ONNX: the encoder and the actor's head for another runtime, as one pass over histories and as single steps."""

from what_next.inference.export.files import Exported, export

__all__ = ["Exported", "export"]
