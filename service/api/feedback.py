"""The routes of feedback: what people say of answers and of what is wrong, and what the operator reads.

POST  /v1/feedback                   give it: 201 kept, 202 only in the log
GET   /v1/feedback?conversation=ID   the owner's thumbs in a conversation
GET   /admin/feedback                all of it, for the operator on this machine (admin.py)
PATCH /admin/feedback/{id}           mark it as done, or open again
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Meta, Struct

from dub5.service.admission.sanitize import clean
from dub5.service.admission.sessions import Session
from dub5.service.api.admin import Admin
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.client_address import scope_address
from dub5.service.api.conversations import before_of, limit_of, owner_of_request
from dub5.service.api.errors import no_such_path
from dub5.service.api.routes import HttpRequest, get_or_head, json_response
from dub5.service.api.schema import read_json
from dub5.service.api.small_body import read_small
from dub5.service.api.turn_body import owner_of
from dub5.service.conversation.conversations import not_found
from dub5.service.conversation.turns import turn_not_found
from dub5.service.errors import InvalidRequest
from dub5.service.feedback.feedback import Feedback
from dub5.service.feedback.model import (
    FeedbackEntry,
    FeedbackFilter,
    FeedbackGiver,
    FeedbackKind,
    FeedbackPage,
    FeedbackState,
    NewFeedback,
)
from dub5.service.ids import is_id

PATH = "/v1/feedback"
ADMIN_PATH = "/admin/feedback"
BODY_BYTES_MAX = 16 * 1024
NOTE_CHARS_MAX = 2_000
LIST_LIMIT = 100
DEPTH_MAX = 4
SESSION = "session:"

RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")]


class FeedbackBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What is said. `value`: of an answer, which is named by its turn or by the id of its request."""

    kind: FeedbackKind
    value: Literal[-1, 1] | None = None
    note: str | None = None
    turn: str | None = None
    request_id: RequestId | None = None


class FeedbackMark(Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator says of feedback."""

    state: FeedbackState


_BODY = msgspec.json.Decoder(FeedbackBody)
_MARK = msgspec.json.Decoder(FeedbackMark)


def feedback_routes(deps: Callable[[], ApiDependencies], admin: Admin) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @post(PATH)
    async def give(request: HttpRequest) -> Response[bytes]:
        """Give feedback."""
        current = deps()
        giver = _giver(current, request)
        body = await read_small(request, BODY_BYTES_MAX, current.server.client_stall_s)
        given = parse_feedback(dict(request.headers), body)
        if given.turn is not None and (current.feedback.store is None or not is_id(given.turn)):
            raise turn_not_found()
        entry = await current.feedback.give(given, giver, _lane(current, given, giver))
        return json_response(feedback_object(entry), 201 if entry.kept else 202)

    @get_or_head(PATH)
    async def list_(request: HttpRequest) -> Response[bytes]:
        """List the thumbs of the caller in a conversation."""
        feedback, owner = _kept(deps(), request), owner_of_request(deps(), request)
        conversation = request.query_params.get("conversation")
        if conversation is None:
            raise InvalidRequest("conversation: name the conversation by its id.", param="conversation")
        if not is_id(conversation):
            raise not_found()
        page = await feedback.list_page(
            owner, conversation, limit_of(request, LIST_LIMIT), before_of(request)
        )
        return json_response(_page_object(page, feedback_object))

    @get(ADMIN_PATH)
    async def list_all(request: HttpRequest) -> Response[bytes]:
        """List the feedback of everybody."""
        admin.check(request.scope, dict(request.headers))
        feedback, wanted = _kept(deps(), request), _filter(request)
        page = await feedback.list_all(wanted, limit_of(request, LIST_LIMIT), before_of(request))
        return json_response(_page_object(page, operator_object))

    @patch(f"{ADMIN_PATH}/{{id:str}}")
    async def mark(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Mark feedback as done, or as open again."""
        headers = dict(request.headers)
        admin.check(request.scope, headers)
        feedback = _kept(deps(), request)
        if not is_id(id):
            raise no_such_path(request.scope["path"])
        said, _ = read_json(headers, await read_small(request, BODY_BYTES_MAX), DEPTH_MAX, _MARK)
        return json_response(operator_object(await feedback.mark(id, said.state)))

    return [give, list_, list_all, mark]


def parse_feedback(headers: Mapping[str, str], body: bytes) -> NewFeedback:
    """Return what a body says, with a clean note. Raises InvalidRequest, CompressedBody."""
    given, _ = read_json(headers, body, DEPTH_MAX, _BODY)
    note = None if given.note is None else clean(given.note).strip() or None
    if note is not None and len(note) > NOTE_CHARS_MAX:
        raise InvalidRequest(
            f"note: has {len(note):,} characters; {NOTE_CHARS_MAX:,} are taken.", param="note"
        )
    if given.turn is not None and given.request_id is not None:
        raise InvalidRequest("Name the turn or the request_id, not both.", param="request_id")
    if given.kind is FeedbackKind.ANSWER:
        if given.value is None:
            raise InvalidRequest("value: must be 1 or -1 for an answer.", param="value")
        if given.turn is None and given.request_id is None:
            raise InvalidRequest("Name the answer: its turn, or the request_id of its reply.", param="turn")
    elif given.value is not None:
        raise InvalidRequest('value: is only for the kind "answer".', param="value")
    elif given.kind is FeedbackKind.ISSUE and note is None:
        raise InvalidRequest("note: must say what is wrong.", param="note")
    return NewFeedback(given.kind, given.value, note, given.turn, given.request_id)


def feedback_object(entry: FeedbackEntry) -> dict[str, Any]:
    """Return feedback as JSON for who gave it."""
    return {
        "object": "feedback",
        "id": entry.id,
        "kind": entry.kind,
        "value": entry.value,
        "note": entry.note,
        "turn": entry.turn,
        "request_id": entry.request_id,
        "created_at": entry.made_at,
        "kept": entry.kept,
    }


def operator_object(entry: FeedbackEntry) -> dict[str, Any]:
    """Return feedback as JSON for the operator. `owner` is written as in the log."""
    owner = entry.owner
    if owner.startswith(SESSION):
        owner = SESSION + Session(owner.removeprefix(SESSION)).label
    more = {"owner": owner, "route": entry.route, "target": entry.target}
    return feedback_object(entry) | more | {"state": entry.state, "done_at": entry.done_at}


def _giver(deps: ApiDependencies, request: HttpRequest) -> FeedbackGiver:
    """Return who gives feedback. Raises Unauthorized, SessionRequired, CsrfRefused, RateLimited.

    Where nothing is kept, nobody needs a session.
    """
    caller, session = deps.identify(request.scope, dict(request.headers))
    nobody = deps.feedback.store is None and session is None
    owner = None if nobody else owner_of(caller, session)
    return FeedbackGiver(
        owner, caller.key, None if session is None else session.label, scope_address(request.scope)
    )


def _lane(deps: ApiDependencies, given: NewFeedback, giver: FeedbackGiver) -> str:
    """Return the lane in which the turn is written: feedback comes after the end of its turn."""
    if given.turn is None:
        return "feedback"
    if deps.turns is None or giver.owner is None:
        return given.turn
    live = deps.turns.live.get(giver.owner, given.turn)
    return given.turn if live is None else live.key[1]


def _kept(deps: ApiDependencies, request: HttpRequest) -> Feedback:
    """Return the feedback. Raises NotFound where none is kept."""
    if deps.feedback.store is None:
        raise no_such_path(
            request.scope["path"], ": feedback is kept where [conversation] is in the settings"
        )
    return deps.feedback


def _filter(request: HttpRequest) -> FeedbackFilter:
    """Return what the operator wants to see. Raises InvalidRequest."""
    value, target = _one_of(request, "value", ("1", "-1")), request.query_params.get("target")
    if target is not None and not target.isprintable():  # no database compares with a NUL
        raise InvalidRequest("target: must be a provider and its model, as in the list.", param="target")
    return FeedbackFilter(
        kind=_one_of(request, "kind", tuple(FeedbackKind)),
        value=None if value is None else int(value),
        target=target,
        state=_one_of(request, "state", tuple(FeedbackState)),
    )


def _one_of(request: HttpRequest, name: str, known: tuple[str, ...]) -> str | None:
    """Return a parameter that takes one of these words. Raises InvalidRequest."""
    given: str | None = request.query_params.get(name)
    if given is not None and given not in known:
        raise InvalidRequest(f"{name}: must be {', '.join(known[:-1])} or {known[-1]}.", param=name)
    return given


def _page_object(page: FeedbackPage, object_of: Callable[[FeedbackEntry], dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": [object_of(one) for one in page.entries], "has_more": page.has_more}
