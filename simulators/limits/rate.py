"""Rate limits of a provider: buckets of requests and tokens, shared by the providers of one organisation.

request --price--> Account.take --it fits every bucket--> BucketState (the headers of the answer)
                                --it does not fit-------> LimitExceeded (the 429: which bucket, which wait)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Annotated, Literal

from msgspec import Meta, Struct

Granted = Annotated[int, Meta(ge=1, le=10**12)]
Distortion = Literal["true", "none", "zero", "date", "garbage"]
SPANS_S = {"second": 1.0, "minute": 60.0, "day": 86_400.0}
MARGIN = 1e-6  # of a token: tolerance for rounding


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate limits of a caller; a limit that is left out does not apply.

    headers: whether answers have rate limit headers. retry_after of a 429: "true" (when the bucket has
    refilled), "none", "zero", an HTTP "date", "garbage", or a fixed number of seconds.
    """

    requests_per_second: Granted | None = None
    requests_per_minute: Granted | None = None
    requests_per_day: Granted | None = None
    tokens_per_minute: Granted | None = None
    tokens_per_day: Granted | None = None
    input_tokens_per_minute: Granted | None = None
    output_tokens_per_minute: Granted | None = None
    organisation: str = ""
    headers: bool = True
    retry_after: Distortion | Annotated[float, Meta(ge=0, le=10**6)] = "true"

    def account(self, *, daily_windows: bool) -> "Account":
        """Return a new account with nothing used.

        Buckets refill steadily; with `daily_windows` those of a day are reset at midnight (UTC) instead.
        """
        return Account(self.buckets(daily_windows=daily_windows))

    def buckets(self, *, daily_windows: bool) -> "list[Bucket]":
        """Return one full bucket for each limit."""
        found = []
        for name in self.__struct_fields__:
            what, per, span = name.partition("_per_")
            limit = getattr(self, name)
            if per and limit is not None:
                found.append(Bucket(what, span, limit, windowed=daily_windows and span == "day"))
        return found


@dataclass(frozen=True, slots=True)
class BucketState:
    """State of a bucket, as a header can report it."""

    what: str  # requests, tokens, input_tokens, output_tokens
    span: str  # second, minute, day
    limit: int
    remaining: int
    reset_s: float  # seconds until the bucket is full again


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A request that does not fit into a bucket. `wait_s` is infinite if it never will."""

    state: BucketState
    requested: int
    wait_s: float

    @property
    def too_large(self) -> bool:
        """Whether the request is larger than the bucket."""
        return math.isinf(self.wait_s)


@dataclass
class Bucket:
    """One limit and how much of it is used. Times are epoch seconds and never go back."""

    what: str
    span: str
    limit: int
    windowed: bool = False
    used: float = 0.0
    at_s: float = 0.0

    def wait_s(self, n: int, now_s: float) -> float:
        """Return the seconds until `n` more fit; 0: they fit now; infinite: they never will."""
        self._pass_time(now_s)
        over = self.used + n - self.limit
        if over <= MARGIN:
            return 0.0
        if n > self.limit:
            return math.inf
        span_s = SPANS_S[self.span]
        return span_s - now_s % span_s if self.windowed else over * span_s / self.limit

    def state(self, now_s: float) -> BucketState:
        """Return the state of the bucket."""
        self._pass_time(now_s)
        span_s = SPANS_S[self.span]
        reset_s = span_s - now_s % span_s if self.windowed else self.used * span_s / self.limit
        return BucketState(
            self.what, self.span, self.limit, max(0, int(self.limit - self.used + MARGIN)), reset_s
        )

    def _pass_time(self, now_s: float) -> None:
        span_s = SPANS_S[self.span]
        if not self.windowed:
            self.used = max(0.0, self.used - (now_s - self.at_s) * self.limit / span_s)
        elif now_s // span_s > self.at_s // span_s:
            self.used = 0.0
        self.at_s = now_s


class Account:
    """The buckets of one organisation. A request takes from all of them, or from none."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = buckets

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._buckets)

    def change(self, buckets: Sequence[Bucket], now_s: float) -> None:
        """Replace the buckets. Usage is kept, up to the new limit."""
        before = {(bucket.what, bucket.span): bucket for bucket in self._buckets}
        for bucket in buckets:
            bucket.at_s = now_s
            if known := before.get((bucket.what, bucket.span)):
                known.state(now_s)
                bucket.used = min(known.used, bucket.limit)
        self._buckets = buckets

    def take(self, price: Mapping[str, int], now_s: float) -> LimitExceeded | None:
        """Charge one request to all buckets, or to none. Return the excess with the longest wait, or None."""
        worst: LimitExceeded | None = None
        for bucket in self._buckets:
            wait_s = bucket.wait_s(price[bucket.what], now_s)
            if wait_s > (worst.wait_s if worst else 0.0):
                worst = LimitExceeded(bucket.state(now_s), price[bucket.what], wait_s)
        if worst is None:
            for bucket in self._buckets:
                bucket.used += price[bucket.what]
        return worst

    def bucket_states(self, now_s: float) -> list[BucketState]:
        """Return the state of each bucket."""
        return [bucket.state(now_s) for bucket in self._buckets]


def price(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return what a request costs, by the names of the buckets."""
    both = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    return {"requests": 1, "tokens": input_tokens + output_tokens, **both}


def distorted(headers: Mapping[str, str], limits: Limits, wait_s: float, now_s: float) -> dict[str, str]:
    """Return the headers of a refusal, with the Retry-After that the limits configure."""
    how = limits.retry_after
    if how == "true":
        return dict(headers)
    kept = {name: value for name, value in headers.items() if not name.startswith("retry-after")}
    match how:
        case "none":
            return kept
        case "zero":
            value = "0"
        case "date":
            value = formatdate(math.ceil(now_s + min(wait_s, 86_400)), usegmt=True)
        case "garbage":
            value = "soon"
        case _:
            value = f"{how:g}"
    return {**kept, "retry-after": value}


def by_kind(bucket_states: Sequence[BucketState], *spans: str) -> dict[str, BucketState]:
    """Return one state for each counted unit: that of the first of these spans that is limited."""
    found: dict[str, BucketState] = {}
    for span in spans:
        for state in bucket_states:
            if state.span == span:
                found.setdefault(state.what, state)
    return found


def duration(s: float) -> str:
    """Format a duration as Go does: 12ms, 1s, 6m0s, 2m59.56s, 23h0m5s."""
    ms = math.ceil(s * 1000 - MARGIN)
    if ms < 1000:
        return f"{ms}ms"
    hours, rest = divmod(ms, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds
