"""A trouble that lasts: told in the log once when it begins, and once when it is over."""

import logging

from what_next.errors import StoreError

logger = logging.getLogger("what_next.serving")


class Episode:
    """Of one kind of work with the store, such as `writing to the store`; for one thread."""

    def __init__(self, work: str) -> None:
        self.work, self.lasts = work, False

    def failed(self, error: StoreError) -> None:
        """It did not work. The error names the database, without a password, and the database's own reason."""
        if not self.lasts:
            logger.warning("%s fails: %s", self.work, error)
        self.lasts = True

    def worked(self) -> None:
        """It did."""
        if self.lasts:
            logger.info("%s works again", self.work)
        self.lasts = False
