"""Refusals: tells a target that refuses what others take, by its own fault, from a caller's odd requests.

A 400, 404 or 422 proves little alone. When another target takes the same request, it contradicts the refusal.
A 402, a 403, or words about the account or the model prove little, too: the request may have asked for what
this account may not have, and the words may be an echo of its own text. Such a refusal counts only if

    for at least 30 s    the target has taken no request in between
    by several callers   or by callers without a key, who cannot be told apart

(Azure OpenAI on 2026-03-09 answered 400 for one model for 20 hours.) So what one caller sends takes no target
from the others. Call `counts(...)`; set `since_s` to None when the target has taken a request.
"""

from dub5.service.model import ANONYMOUS, Caller

REFUSING_S = 30.0


class Refusals:
    """The doubtful refusals of one target since it last took a request. Times are loop seconds."""

    __slots__ = ("_first_caller", "_several", "since_s")

    def __init__(self) -> None:
        self.since_s: float | None = None
        self._first_caller = ANONYMOUS.key
        self._several = False

    def counts(self, caller: Caller, now_s: float) -> bool:
        """Note a doubtful refusal. Return whether it counts against the target or its key."""
        if self.since_s is None:
            self.since_s, self._first_caller, self._several = now_s, caller.key, False
        self._several = self._several or caller.key != self._first_caller or caller.key == ANONYMOUS.key
        return self._several and now_s - self.since_s >= REFUSING_S
