"""A real PostgreSQL, for the tests that need one."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start a server, for tests that leave it running."""
    with postgres_server() as server:
        yield server
