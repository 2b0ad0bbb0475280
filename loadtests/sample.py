"""The sample of one request: its outcome and its times, as the client saw them."""

from enum import StrEnum

from msgspec import Struct


class SampleOutcome(StrEnum):
    """How a request ended. Every outcome but `dishonest` and `broken` is an honest end."""

    COMPLETE = "complete"  # the whole and right answer
    DEGRADED = "degraded"  # a fallback answer with a true label
    FAILED = "failed"  # an error that says so, before any content
    CUT = "cut"  # an error that says so, after some content
    CANCELLED = "cancelled"  # the client left, as planned
    DISHONEST = "dishonest"  # a truncated, wrong or unreadable answer that does not say so
    BROKEN = "broken"  # the connection failed


class Sample(Struct, frozen=True):
    """One request; times are in seconds since the run began.

    `intended_s` is the scheduled time, `started_s` the time at which the request was sent: a user's wait
    counts from the first, the service's latency from the second. `longest_gap_s` is the longest silence
    between two pieces of a stream. Of a turn of a conversation: `carrier` ("sse" or "websocket"), `resumed`:
    how often it was read on over a new connection, `resume_s`: the longest time until that said something,
    `kept`: the turn is in the database.
    """

    kind: str
    stream: bool
    outcome: SampleOutcome
    why: str
    intended_s: float
    started_s: float
    first_token_s: float | None
    ended_s: float
    longest_gap_s: float
    target: str
    cached: bool
    direct: bool = False
    carrier: str = ""
    resumed: int = 0
    resume_s: float | None = None
    kept: bool = False

    @property
    def waited_for_token_s(self) -> float | None:
        """Seconds from the scheduled time to the first content."""
        return None if self.first_token_s is None else self.first_token_s - self.intended_s
