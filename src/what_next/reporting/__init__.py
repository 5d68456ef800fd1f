"""The report: one self-contained page with the results of an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from what_next.data.files import check_paths, write_files
from what_next.errors import MissingExtraError

if TYPE_CHECKING:  # progress bars must not import PyTorch
    from what_next.experiments.next_items import Comparison
    from what_next.experiments.simulation import Simulation

__all__ = ["check", "write_report", "write_simulation"]


def write_report(
    comparison: "Comparison",
    path: Path,
    *,
    weighted: "Sequence[tuple[float, Comparison]]" = (),
    windows: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of a comparison; the same comparison gives the same bytes.

    Args:
        comparison: of one learned policy (`evaluate_next`) or of several (`compare`).
        path: the HTML file.
        weighted: comparisons at several weights of the reward (`tradeoff`), for the trade-off curve.
        windows: the result of `evaluate_windows` for the founding algorithm, shown as well.

    Raises:
        MissingExtraError: Matplotlib or Jinja is not installed.
        SaveError: the file could not be written; an existing file stays intact.
    """
    write_files({path: _page()(comparison, weighted, windows).encode()})


def write_simulation(simulation: "Simulation", path: Path) -> None:
    """Write the page of an agent in a world.

    Raises:
        MissingExtraError: Matplotlib or Jinja is not installed.
        SaveError: the file could not be written; an existing file stays intact.
    """
    _page()
    from what_next.reporting.simulated import page  # its libraries are there

    write_files({path: page(simulation).encode()})


def check(path: Path) -> None:
    """Raise before the work what `write_report` would raise after it: a library is missing, or a file is in the way."""
    check_paths([path])
    _page()


def _page() -> Callable[..., str]:
    """The function that makes the page, imported only here because nothing else needs its libraries."""
    try:
        from what_next.reporting.page import page
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise MissingExtraError(library, "report", "a report") from None
    return page
