"""Feedback that is given and listed: into the database where there is one, else into the log alone.

A thumb of an answer is one row for each owner and answer, and the later one wins. Issues and crashes are rows
of their own. All of an owner are bounded for each day.
"""

from collections.abc import Callable
from typing import cast

from msgspec.structs import replace

from dub5.service import clock
from dub5.service.admission.rate_limit import RateLimit, SlidingLog
from dub5.service.errors import ConversationNotFound, NotFound, RateLimited
from dub5.service.events import Events, FeedbackGiven, RequestEnded
from dub5.service.feedback import statements
from dub5.service.feedback.model import (
    FeedbackEntry,
    FeedbackFilter,
    FeedbackGiver,
    FeedbackKind,
    FeedbackPage,
    FeedbackState,
    NewFeedback,
)
from dub5.service.ids import AFTER_ALL, Ids
from dub5.service.store.base import Row
from dub5.service.store.records import Records
from dub5.service.store.store import Store

PER_DAY_MAX = 200  # of one owner
DAY_S = 86_400
LIMITED_S = 3_600.0  # what an owner who has given so much is told to wait


class Feedback:
    """The feedback of all owners. `find_request` returns what the process still knows of a request."""

    def __init__(
        self,
        store: Store | None,
        ids: Ids,
        events: Events,
        find_request: Callable[[str], RequestEnded | None],
    ) -> None:
        self.store = store
        self._records = Records(store, "Feedback cannot be read or changed now.")
        self._ids = ids
        self._events = events
        self._find_request = find_request
        self._logged = SlidingLog(RateLimit("owner", PER_DAY_MAX, DAY_S))  # of feedback that only the log has

    async def give(self, given: NewFeedback, giver: FeedbackGiver, lane: str) -> FeedbackEntry:
        """Keep feedback, or log it. `lane`: of the writes that its turn waits for.

        Raises ConversationNotFound for a turn that the owner does not have, RateLimited.
        """
        entry = self._entry(given, giver)
        if self.store is not None and self.store.is_ok():
            entry = await self._keep(self.store, entry, lane)
        else:
            self._bound_log(giver)
            entry = replace(entry, kept=False)
        self._events.emit(
            FeedbackGiven(
                id=entry.id,
                caller=giver.caller,
                session=giver.session,
                kind=entry.kind,
                value=entry.value,
                turn=entry.turn,
                request_id=entry.request_id,
                route=entry.route,
                target=entry.target,
                note=None if entry.kept else entry.note,
                kept=entry.kept,
            )
        )
        return entry

    def _entry(self, given: NewFeedback, giver: FeedbackGiver) -> FeedbackEntry:
        ended = None if given.request_id is None else self._find_request(given.request_id)
        if ended is not None and (ended.caller, ended.session) != (giver.caller, giver.session):
            ended = None  # of somebody else
        return FeedbackEntry(
            id=self._ids.new(),
            kind=given.kind,
            value=given.value,
            note=given.note,
            turn=given.turn,
            request_id=given.request_id,
            route=None if ended is None else ended.route,
            target=None if ended is None else ended.target,
            made_at=clock.wall(),
            owner=giver.owner or "",
        )

    async def _keep(self, store: Store, entry: FeedbackEntry, lane: str) -> FeedbackEntry:
        """Write the entry and return it as it is kept. Raises ConversationNotFound, RateLimited."""
        owner, subject = entry.owner, entry.id
        if entry.kind is FeedbackKind.ANSWER:
            subject = f"turn {entry.turn}" if entry.turn is not None else f"request {entry.request_id}"
        since = entry.made_at - DAY_S
        values = (owner, entry.id, entry.kind, subject, entry.value, entry.note, entry.made_at)
        bounds = [statements.FIND.bind(owner, entry.kind, subject)]
        if entry.turn is None:
            of_request = (entry.request_id, entry.route, entry.target)
            bounds.insert(0, statements.GIVE.bind(*values, since, PER_DAY_MAX, *of_request))
        else:
            bounds.insert(0, statements.GIVE_OF_TURN.bind(*values, since, PER_DAY_MAX, entry.turn))
            bounds.append(statements.FIND_TURN.bind(owner, entry.turn))
        rows = await store.write(bounds, lane=lane).kept(store.keep_s)
        if rows is None:
            return replace(entry, kept=False)
        if entry.turn is not None and not rows[2]:
            raise ConversationNotFound("There is no turn with this id here.")
        if not rows[1]:
            raise _too_much()
        return entry_of(rows[1][0])

    def _bound_log(self, giver: FeedbackGiver) -> None:
        """Count feedback that is only logged. Raises RateLimited."""
        key, now_us = giver.owner or f"{giver.caller} {giver.address}", int(clock.now() * 1e6)
        if self._logged.usage(key, now_us).full:
            raise _too_much()
        self._logged.add(key, now_us)

    async def list_page(self, owner: str, conversation: str, limit: int, before: str | None) -> FeedbackPage:
        """Return an owner's feedback on the answers of a conversation, that of the newest turn first.

        Raises StorageUnavailable.
        """
        bound = statements.LIST.bind(owner, conversation, before or AFTER_ALL, limit + 1)
        return _page(await self._records.read(bound, conversation), limit)

    async def list_all(self, wanted: FeedbackFilter, limit: int, before: str | None) -> FeedbackPage:
        """Return the feedback of all owners, the newest first. Raises StorageUnavailable."""
        bound = statements.LIST_ALL.bind(
            before or AFTER_ALL, wanted.kind, wanted.value, wanted.target, wanted.state, limit + 1
        )
        return _page(await self._records.read(bound, "feedback"), limit)

    async def mark(self, id_: str, state: FeedbackState) -> FeedbackEntry:
        """Say whether the operator is through with feedback. Raises NotFound, StorageUnavailable."""
        done_at = clock.wall() if state is FeedbackState.DONE else None
        bound = statements.MARK.bind(id_, state, done_at)
        (rows,) = await self._records.change([bound], "feedback")
        if not rows:
            raise NotFound("There is no feedback with this id: it was changed by its owner, or is deleted.")
        return entry_of(rows[0])


def entry_of(row: Row) -> FeedbackEntry:
    """Return the entry of a row; the owner is in it if it was read for the operator."""
    id_, kind, value, note, turn, request_id, route, target, made_at, state, done_at, *owner = row
    return FeedbackEntry(
        id=str(id_),
        kind=FeedbackKind(str(kind)),
        value=cast("int | None", value),
        note=cast("str | None", note),
        turn=cast("str | None", turn),
        request_id=cast("str | None", request_id),
        route=cast("str | None", route),
        target=cast("str | None", target),
        made_at=cast("float", made_at),
        state=FeedbackState(str(state)),
        done_at=cast("float | None", done_at),
        owner=str(owner[0]) if owner else "",
    )


def _page(rows: list[Row], limit: int) -> FeedbackPage:
    return FeedbackPage([entry_of(row) for row in rows[:limit]], len(rows) > limit)


def _too_much() -> RateLimited:
    return RateLimited(f"More than {PER_DAY_MAX} pieces of feedback in a day.", retry_after_s=LIMITED_S)
