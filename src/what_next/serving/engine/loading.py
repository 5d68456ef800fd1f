"""A version on its way into memory, in a thread that may be left to itself: what hangs there holds up nobody."""

import threading
import time
from collections.abc import Callable

from what_next.errors import ModelError, WhatNextError
from what_next.serving.engine.active import Active


class Loading:
    """A version that is being loaded.

    Attributes:
        version: what it is called; `began`: when, on the monotonic clock.
        items: number of the last item of the store that it is loaded with.
    """

    def __init__(self, version: str, items: int, seconds: float, load: Callable[[], Active]) -> None:
        """Starts the thread; `load` may take `seconds`."""
        self.version, self.items, self.limit = version, items, seconds
        self.began = time.monotonic()
        self._load = load
        self._found: Active | None = None
        self._error: ModelError | None = None
        self._thread = threading.Thread(target=self._run, name="what-next-loading", daemon=True)
        self._thread.start()

    def over(self, seconds: float) -> bool:
        """Waits for so long at most; whether it is loaded by then, or failed, or takes too long."""
        left = self.began + self.limit - time.monotonic()
        self._thread.join(max(min(seconds, left), 0))
        return not self._thread.is_alive() or left <= seconds

    @property
    def late(self) -> bool:
        """Whether it takes too long."""
        return self._thread.is_alive()

    def result(self) -> Active:
        """The version, once it is over.

        Raises:
            ModelError: a file is missing or damaged, the model does not answer, or loading took too long.
        """
        if self._error is not None:
            raise self._error
        if self._found is None:
            raise ModelError(
                f"{self.version}: was not loaded within {self.limit:g} s; look at the disk that holds it, or allow "
                "more with server.loading"
            )
        return self._found

    def _run(self) -> None:
        try:
            self._found = self._load()
        except ModelError as error:
            self._error = error
        except WhatNextError as error:
            self._error = ModelError(str(error))
        except BaseException as error:
            self._error = ModelError(f"{self.version}: does not answer ({type(error).__name__}: {error}); train again")
            self._error.__cause__ = error
