"""What a store remembers of itself: short texts by name, in its table `meta`."""

from what_next.serving.store.backend import Backend, Link


def told(link: Link, name: str, ending: str = "") -> str | None:
    """A note; None: there is none. `ending` ends the statement, such as FOR UPDATE."""
    found = link.execute(f"SELECT value FROM meta WHERE name = '{name}'{ending}").fetchone()
    return None if found is None else str(found[0])


def note(backend: Backend, link: Link, name: str, value: str) -> None:
    """Make a note, in place of one that is there."""
    _put(backend, link, name, value, "UPDATE SET value = excluded.value")


def note_once(backend: Backend, link: Link, name: str, value: str) -> None:
    """Make a note where there is none."""
    _put(backend, link, name, value, "NOTHING")


def _put(backend: Backend, link: Link, name: str, value: str, otherwise: str) -> None:
    mark = backend.mark
    sql = f"INSERT INTO meta (name, value) VALUES ({mark}, {mark}) ON CONFLICT (name) DO {otherwise}"
    link.execute(sql, (name, value))
