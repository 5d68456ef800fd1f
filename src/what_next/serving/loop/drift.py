"""An alarm where what answers earn falls, or where people turn to items that the model does not know."""

from collections.abc import Iterable
from typing import Any

from what_next.errors import MissingExtraError


def adwin(delta: float) -> Any:
    """The detector, which has read nothing yet.

    Raises:
        MissingExtraError: river is not installed.
    """
    try:
        from river.drift import ADWIN
    except ImportError:
        raise MissingExtraError("river", "loop", "the alarm at a drift (loop.drift, 0 does without)") from None
    return ADWIN(delta=delta)  # type: ignore[no-untyped-call]


def change(values: Iterable[float], delta: float) -> tuple[int, float, float] | None:
    """The last place at which the mean of a stream of numbers changed, as ADWIN saw it (Bifet and Gavaldà 2007).

    ADWIN compares all recent parts of a window with what lies before them, and cuts the window where they differ by
    more than a bound that takes the many comparisons into account: there is no window to choose, and `delta` bounds the
    false alarms of each comparison. It is fed anew at each look, so that nothing of it has to be kept.

    Args:
        values: in the order of time; of 0 .. 1, or of a size like that.
        delta: the smaller, the fewer false alarms, and the later the true ones.

    Returns:
        How many numbers ADWIN had read when it noticed, the mean of the window before it, and the mean after it; None:
        nothing changed.

    Raises:
        MissingExtraError: river is not installed.
    """
    detector, found, before = adwin(delta), None, 0.0
    for place, value in enumerate(values, 1):
        before = float(detector.estimation)
        detector.update(float(value))
        if detector.drift_detected:
            found = place, before, float(detector.estimation)
    return found
