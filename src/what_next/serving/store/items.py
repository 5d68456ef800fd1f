"""Items within a transaction: those that came, and those that were withdrawn."""

from collections.abc import Sequence

import orjson

from what_next.serving.store import tables
from what_next.serving.store.backend import Backend, Link, alone
from what_next.serving.store.writes import AddItems, ItemsAdded, WithdrawItem


class Items:
    """Items; `now` is in microseconds since 1970 UTC."""

    def __init__(self, backend: Backend, link: Link, now: int) -> None:
        self.backend, self.link, self.now = backend, link, now

    def add(self, writes: Sequence[AddItems]) -> list[ItemsAdded]:
        """Items; each has a number above all that there were, so that whoever asks for what is new finds it."""
        alone(self.backend, self.link, "items")
        (last,) = self.link.execute("SELECT coalesce(max(number), 0) FROM items").fetchone()
        wanted = {row.item_id: row for write in writes for row in write.items}
        chosen = (self.backend.listed(sorted(wanted)),)
        there = f"SELECT item_id FROM items WHERE item_id {self.backend.among()}"
        seen = {one for (one,) in self.link.execute(there, chosen).fetchall()}
        self.link.execute(f"DELETE FROM items WHERE item_id {self.backend.among()}", chosen)
        rows = [
            (number, row.item_id, row.title, orjson.dumps(dict(row.attributes)).decode())
            for number, row in enumerate(wanted.values(), last + 1)
        ]
        self.backend.insert(self.link, tables.items, rows)
        self._change(list(wanted), withdrawn=False)
        results = []
        for write in writes:
            ids = {row.item_id for row in write.items}
            results.append(ItemsAdded(len(ids), len(ids & seen)))
            seen |= ids
        return results

    def withdraw(self, writes: Sequence[WithdrawItem]) -> list[bool]:
        """Items that no answer holds from now on; whether each was not withdrawn yet."""
        changed = self._change(list(dict.fromkeys(write.item_id for write in writes)), withdrawn=True)
        results = []
        for write in writes:
            results.append(write.item_id in changed)
            changed.discard(write.item_id)
        return results

    def _change(self, item_ids: list[str], withdrawn: bool) -> set[str]:
        """Withdraw items, or put them again; returns those for which that was a change.

        The lock keeps out the answers of other processes, which look for withdrawn items (`Answers.add`): none of them
        is committed after this without having seen it.
        """
        alone(self.backend, self.link, "withdrawals", "EXCLUSIVE")
        sql = f"SELECT item_id, withdrawn FROM withdrawals WHERE item_id {self.backend.among()} ORDER BY number"
        state = dict(self.link.execute(sql, (self.backend.listed(item_ids),)).fetchall())
        changed = [one for one in item_ids if bool(state.get(one, False)) != withdrawn]
        if changed:
            (last,) = self.link.execute("SELECT coalesce(max(number), 0) FROM withdrawals").fetchone()
            rows = [(number, one, withdrawn, self.now) for number, one in enumerate(changed, last + 1)]
            self.backend.insert(self.link, tables.withdrawals, rows)
        return set(changed)
