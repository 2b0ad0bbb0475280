"""What follows an ask that failed: the same again a little later, or cards without a model. Pure.

A deck ends soon whatever the providers do: the asks of a job that fail in a row may take `LOST_S_MAX`
together; from then on none is made. A limit, or an answer that broke off, is tried again `AGAIN_MAX` times.
"""

from msgspec import Struct

from dub5.service.errors import AllTargetsLimited, GatewayError, Overloaded, ShuttingDown, StreamCut

FIRST_S = 20.0  # until the first token of an answer
WHOLE_S = 60.0
LOST_S_MAX = 30.0
ASK_S_MIN = 1.0  # in less time there is no answer
AGAIN_MAX = 2  # in a row
PAUSE_S_MAX = 10.0  # a limit that ends later is not waited for
PASSING = (AllTargetsLimited, Overloaded, StreamCut)


class Outage(Struct, frozen=True):
    """The asks of one job that failed in a row."""

    failures: int = 0
    lost_s: float = 0.0


def first_token_limit_s(outage: Outage) -> float | None:
    """Return how long the next ask may take until its first token. None: there is to be none."""
    left_s = min(FIRST_S, LOST_S_MAX - outage.lost_s)
    return left_s if left_s >= ASK_S_MIN else None


def after_failure(outage: Outage, error: GatewayError, took_s: float) -> tuple[Outage, bool]:
    """Return the outage with one more ask that failed, and whether the same is to be asked again."""
    if isinstance(error, ShuttingDown):
        return outage, True
    more = Outage(outage.failures + 1, outage.lost_s + took_s)
    passes = isinstance(error, PASSING) and (error.retry_after_s or 0.0) <= PAUSE_S_MAX
    return more, passes and outage.failures < AGAIN_MAX
