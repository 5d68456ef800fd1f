"""The store of a service as commands open it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from what_next.data import Catalogue, Dataset
from what_next.errors import StoreError
from what_next.settings import Setup
from what_next.training.artefacts import catalogue_path

if TYPE_CHECKING:
    from what_next.serving.store import Store


@contextmanager
def opened(setup: Setup) -> Iterator["Store"]:
    """The store of a setup, which must be there.

    Raises:
        StoreError: it is not, or cannot be opened.
    """
    # The libraries of the store are an extra, and take a tenth of a second to import.
    from what_next.serving.store import Store, store_of

    place = store_of(setup)
    if isinstance(place, Path) and not place.is_file():
        raise StoreError(f"{place}: no such store; serve first (what-next serve), or name it with server.store")
    store = Store.open(place)
    try:
        yield store
    finally:
        store.close()


def served_catalogue(setup: Setup, store: "Store") -> Catalogue:
    """The items of the deployed model; where none is, those of the setup's agent, or of its data."""
    from what_next.serving.engine.versions import AGENT, versions_folder

    deployments = store.deployments()
    agents = [versions_folder(setup) / one.version / AGENT for one in deployments[-1:]]
    for path in map(catalogue_path, [*agents, setup.model_agent_path]):
        if path.is_file():
            return Catalogue.from_table(pl.read_parquet(path))
    return Dataset.read(setup.data).catalogue
