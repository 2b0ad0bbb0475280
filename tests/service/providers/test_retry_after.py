"""Every way a provider says when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.providers.retry_after import LONGEST_S, retry_after_s

NOW_S = 1_763_700_000.0  # 2025-11-21 04:40:00 UTC
DATE = "Fri, 21 Nov 2025 04:40:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "20", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e308"}, LONGEST_S),
        ({"retry-after": "Fri, 21 Nov 2025 04:40:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 21 Nov 2025 04:40:30 GMT", "date": "Fri, 21 Nov 2025 04:40:20 GMT"}, 10.0),
        ({"retry-after": "Fri, 21 Nov 2025 04:00:00 GMT"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"}, 0.012),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}, 179.56),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7"}, 7.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1763700045000"}, 45.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1763700045"}, 45.0),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2025-11-21T04:40:59Z",
                "anthropic-ratelimit-requests-remaining": "40",
                "anthropic-ratelimit-requests-reset": "2025-11-21T05:00:00Z",
            },
            59.0,
        ),
        ({}, None),
    ],
    ids=str,
)
def test_headers(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds win, then Retry-After, then the reset of whatever is used up."""
    found = retry_after_s(headers, "", NOW_S)
    assert found == pytest.approx(seconds) if seconds is not None else found is None


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Limit 30000, Used 18928. Please try again in 174ms. Visit ...", 0.174),
        ("tokens per day (TPD): Please try again in 9m38.016s. ...", 578.016),
        ("Please try again later.", None),
    ],
)
def test_messages(message: str, seconds: float | None) -> None:
    """Where no header has Retry-After, the message may have it."""
    found = retry_after_s({}, message, NOW_S)
    assert found == pytest.approx(seconds) if seconds is not None else found is None


NAMES = ["retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"]
NAMES += ["anthropic-ratelimit-tokens-reset", "x-ratelimit-reset"]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40) | st.floats().map(str) | st.just(DATE)),
    st.text(),
)
def test_anything(headers: dict[str, str], message: str) -> None:
    """No header can make it raise, be negative, or be longer than a day."""
    found = retry_after_s(headers, message, NOW_S)
    assert found is None or 0.0 <= found <= LONGEST_S
