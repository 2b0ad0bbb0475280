"""Facts as they are told, one of each kind, to be changed at will."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service.events import AttemptEnded, RequestEnded
from dub5.service.model import AttemptRecord, Outcome, Usage
from tests.support.postgres import PostgresServer

FAILED = AttemptRecord("one/fast", 0.0, 0.2, "http_530", status=530)
ANSWERED = AttemptRecord("two/slow", 0.2, 1.5, "ok", status=200, first_token_s=0.5)


@pytest.fixture
def request_ended() -> Callable[..., RequestEnded]:
    """Return a stream that the second target answered after the first had failed; keywords change it."""
    told = RequestEnded(
        request_id="r-1",
        caller="anonymous",
        route="chat",
        outcome=Outcome.COMPLETE,
        code=None,
        target="two/slow",
        stream=True,
        cached=False,
        first_token_s=0.5,
        total_s=1.5,
        overhead_s=0.0004,
        usage=Usage(10, 11, 21),
        attempts=(FAILED, ANSWERED),
    )

    def changed(**changes: Any) -> RequestEnded:
        return replace(told, **changes)

    return changed


@pytest.fixture
def attempt_ended() -> Callable[..., AttemptEnded]:
    """Return a failed attempt at the first target; keywords change it."""

    def changed(**changes: Any) -> AttemptEnded:
        return AttemptEnded("r-1", "chat", "one", replace(FAILED, **changes), "target")

    return changed


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database, of each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/dub5.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
