"""Settings: `setup.txt`, TOML and `key=value`, read and checked once."""

from what_next.settings.file import read_entries
from what_next.settings.groups import (
    AFFORDABLE,
    COLD,
    DROPOUT,
    LARGE,
    OFTEN,
    RARE,
    SHARE,
    SHORT,
    UNKNOWN,
    Evaluation,
    RewardSettings,
    SplitSettings,
)
from what_next.settings.reference import reference, settings_of, template
from what_next.settings.schema import listed
from what_next.settings.service import HISTORY, LEAST_TEMPERATURE, Server
from what_next.settings.setup import ALGORITHMS, Setup, known_encoders, known_rewards, register

__all__ = [
    "AFFORDABLE",
    "ALGORITHMS",
    "COLD",
    "DROPOUT",
    "HISTORY",
    "LARGE",
    "LEAST_TEMPERATURE",
    "OFTEN",
    "RARE",
    "SHARE",
    "SHORT",
    "UNKNOWN",
    "Evaluation",
    "RewardSettings",
    "Server",
    "Setup",
    "SplitSettings",
    "known_encoders",
    "known_rewards",
    "listed",
    "read_entries",
    "reference",
    "register",
    "settings_of",
    "template",
]
