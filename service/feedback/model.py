"""What is known of a piece of feedback."""

from enum import StrEnum

from msgspec import Struct


class FeedbackKind(StrEnum):
    """What feedback is about."""

    ANSWER = "answer"  # a thumb up or down
    ISSUE = "issue"  # something that is wrong, in words
    CRASH = "crash"  # a defect of the page


class FeedbackState(StrEnum):
    """Whether the operator is through with it."""

    OPEN = "open"
    DONE = "done"


class NewFeedback(Struct, frozen=True):
    """Feedback as it is given, with a clean note. `value`: 1 or -1 of an answer.

    Its answer is named by its turn, or by the id of its request.
    """

    kind: FeedbackKind
    value: int | None = None
    note: str | None = None
    turn: str | None = None
    request_id: str | None = None


class FeedbackGiver(Struct, frozen=True):
    """Who gives feedback. `owner`: whose conversations these are, if anybody's.

    `caller` and `session` are as in the events of requests. `address`: of the client.
    """

    owner: str | None
    caller: str
    session: str | None
    address: str


class FeedbackEntry(Struct, frozen=True):
    """A piece of feedback. `kept`: it is in the database; else in the log. Times are epoch seconds."""

    id: str
    kind: FeedbackKind
    value: int | None
    note: str | None
    turn: str | None
    request_id: str | None
    route: str | None
    target: str | None
    made_at: float
    state: FeedbackState = FeedbackState.OPEN
    done_at: float | None = None
    owner: str = ""
    kept: bool = True


class FeedbackPage(Struct, frozen=True):
    """Some of the feedback, the newest first. `has_more`: there is older one."""

    entries: list[FeedbackEntry]
    has_more: bool


class FeedbackFilter(Struct, frozen=True):
    """Which feedback the operator wants to see; None: whatever it is."""

    kind: str | None = None
    value: int | None = None
    target: str | None = None
    state: str | None = None
