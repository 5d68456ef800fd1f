"""What prints for people; names come from users, so nothing in a text is a sign to it."""

from typing import Any

from rich.console import Console


class Plain(Console):
    """Rich's console, without markup and emoji codes: `[/x]` and `:smile:` are printed as they are."""

    def __init__(self, **how: Any) -> None:
        super().__init__(markup=False, emoji=False, **how)
