"""Encoders: one pass over a history gives the state after every event, and one step more the next."""

from collections.abc import Mapping
from types import MappingProxyType

from what_next.models.encoders.base import Encoder, EncoderSizes, State
from what_next.models.encoders.mean import MeanEncoder
from what_next.models.encoders.mlp import MlpEncoder
from what_next.models.encoders.recurrent import GruEncoder, LstmEncoder
from what_next.models.encoders.transformer import TransformerEncoder

ENCODERS: Mapping[str, type[Encoder]] = MappingProxyType(
    {"lstm": LstmEncoder, "gru": GruEncoder, "transformer": TransformerEncoder, "mean": MeanEncoder, "mlp": MlpEncoder}
)
"""Encoders by the name that a setup gives."""

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderSizes",
    "GruEncoder",
    "LstmEncoder",
    "MeanEncoder",
    "State",
    "TransformerEncoder",
]
