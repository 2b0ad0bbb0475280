"""What an answer to a check says of a key, and when the next one is due: pure."""

from random import Random

import pytest

from dub5.service.failover.key_watch import KeyFinding, finding_of, next_check_s
from dub5.service.providers.base import status_fault

BAD_KEY = b'{"error": {"message": "Incorrect API key provided: sk-***.", "code": "invalid_api_key"}}'
GEMINI = b'[{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]'
RIGHTS = b'{"error": {"message": "You have insufficient permissions. Missing scopes: api.model.read"}}'
CLOSED = b'{"error": {"message": "Your account was closed.", "code": "account_deactivated"}}'


@pytest.mark.parametrize(
    ("status", "body", "finding"),
    [
        (200, b"", KeyFinding.VALID),
        (401, BAD_KEY, KeyFinding.REFUSED),
        (401, b"", KeyFinding.REFUSED),
        (400, GEMINI, KeyFinding.REFUSED),
        (403, RIGHTS, KeyFinding.NOTHING),
        (403, CLOSED, KeyFinding.REFUSED),
        (402, b"{}", KeyFinding.NOTHING),
        (404, b"", KeyFinding.NOTHING),
        (405, b"", KeyFinding.NOTHING),
        (429, b"", KeyFinding.NOTHING),
        (503, b"", KeyFinding.NOTHING),
        (530, b"error code: 1033", KeyFinding.NOTHING),
        (302, b"", KeyFinding.NOTHING),
    ],
)
def test_finding(status: int, body: bytes, finding: KeyFinding) -> None:
    """Only words about the key count: rights to the list, and a provider in trouble, say nothing of it."""
    fault = None if status == 200 else status_fault(status, {}, body)
    assert finding_of(status, fault) is finding


def test_when() -> None:
    """A refused key is asked for after a minute, then half as often each time, with a tenth of jitter."""
    rng = Random(1)
    for refusals, wait_s in ((0, 900.0), (1, 60.0), (2, 120.0), (4, 480.0), (5, 900.0), (10_000, 900.0)):
        assert 0.9 * wait_s <= next_check_s(900.0, refusals, rng) <= 1.1 * wait_s
    assert next_check_s(5.0, 1, rng) <= 5.5
