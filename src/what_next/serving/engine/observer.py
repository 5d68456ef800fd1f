"""Who counts what the engine does: the endpoint's metrics, or nobody."""

from typing import Literal

Found = Literal["hit", "fold", "rebuild"]


class Observer:
    """Counts nothing; a subclass counts. Methods are called from several threads."""

    def answered(self, role: str, policy: str, fallback: str | None, seconds: float) -> None:
        """A question was answered, durably, by the model of a role; `seconds` since it was asked."""

    def batch(self, size: int) -> None:
        """So many questions went through the model together."""

    def session(self, found: Found) -> None:
        """A user's session was there, an event was folded in, or it was rebuilt from the store."""

    def swapped(self, version: str) -> None:
        """A version took over."""

    def loaded(self, what: Literal["loaded", "failed", "late"], seconds: float) -> None:
        """A version was loaded or was not, or took too long."""

    def shadow(self, what: Literal["recorded", "dropped", "failed"]) -> None:
        """An answer of the second model, which nobody sees."""

    def overlap(self, share: float) -> None:
        """Such a share of the items that were shown is in the second model's answer, too."""
