"""The operations of the service: a row for each method of each path, with an example."""

from typing import Any, NamedTuple

from dub5.service.errors import (
    AllTargetsDown,
    AllTargetsLimited,
    CompressedBody,
    ConversationNotFound,
    CsrfRefused,
    DeadlineExceeded,
    DeckNotFound,
    DocumentNotFound,
    DocumentTooLarge,
    FeatureUnavailable,
    GatewayError,
    InvalidRequest,
    JobNotFound,
    KeysRefused,
    ModelNotFound,
    NotFound,
    Overloaded,
    ProviderRefused,
    QuestionTooLong,
    RateLimited,
    RequestTimeout,
    SessionRequired,
    ShuttingDown,
    StorageUnavailable,
    SuspiciousInput,
    TooLarge,
    TooManyDecks,
    TooManyDocuments,
    Unauthorized,
    Unavailable,
    UnreadableDocument,
    WrongAdminToken,
)

Errors = tuple[type[GatewayError], ...]
CALLER: Errors = (Unauthorized, RateLimited)
BODY: Errors = (InvalidRequest, TooLarge, CompressedBody, RequestTimeout)
ASKED: Errors = (
    *(*CALLER, *BODY, ModelNotFound, CsrfRefused),
    *(QuestionTooLong, SuspiciousInput, ProviderRefused),
    *(AllTargetsLimited, AllTargetsDown, KeysRefused, DeadlineExceeded, Overloaded, FeatureUnavailable),
    ShuttingDown,
)
OWNED: Errors = (*CALLER, SessionRequired, CsrfRefused, NotFound)
KEPT: Errors = (*OWNED, ConversationNotFound, StorageUnavailable)
KEPT_DECK: Errors = (*OWNED, DeckNotFound, StorageUnavailable)
KEPT_DOCUMENT: Errors = (*OWNED, DocumentNotFound, StorageUnavailable)
KEPT_JOB: Errors = (*OWNED, JobNotFound, StorageUnavailable)

CONVERSATION = "01JE0000000000000000000000"
QUESTION = "Why is the sky blue?"
CONVERSATION_EXAMPLE = {
    "id": CONVERSATION,
    "object": "conversation",
    "title": QUESTION,
    "model": "chat",
    "created_at": 1764460800,
    "used_at": 1764460812,
    "kept": True,
}
TURN_EXAMPLE = {
    "id": "01JE0000000000000000000001",
    "object": "turn",
    "conversation": CONVERSATION,
    "asked_as": "q-1",
    "question": {"text": QUESTION, "tokens": 13, "tokens_source": "provider"},
    "answer": {"text": "Air scatters blue light most.", "tokens": 7, "tokens_source": "provider"},
    "state": "ended",
    "outcome": "complete",
    "finish": "stop",
    "target": "one/gpt",
    "model": "chat",
    "flags": [],
    "asked_at": 1764460811,
    "ended_at": 1764460812,
    "kept": True,
}
JOB_EXAMPLE = {
    "id": "01JE0000000000000000000002",
    "object": "job",
    "kind": "deck",
    "subject": "01JE0000000000000000000003",
    "state": "running",
    "done": 3,
    "steps": 12,
    "problem": None,
    "created_at": 1764460800,
    "ended_at": None,
}
DECK_EXAMPLE = {
    "id": "01JE0000000000000000000003",
    "object": "deck",
    "title": "Biology",
    "document": "01JE0000000000000000000004",
    "model": "chat",
    "job": JOB_EXAMPLE,
    "parts": 12,
    "template_parts": 1,
    "created_at": 1764460800,
}
CARD_EXAMPLE = {
    "number": 1,
    "front": "What is osmosis?",
    "back": "The movement of water through a membrane.",
    "quote": "Osmosis is the movement of water through a membrane.",
    "source": "model",
    "part": 1,
}
CARD_LINE = '"What is osmosis?","The movement ...","Osmosis is the movement ...","model"'
JOB_EVENTS = """\
event: progress
data: {"object": "job", "state": "running", "done": 11, "steps": 12, ...}

event: progress
data: {"object": "job", "state": "done", "done": 12, "steps": 12, ...}

event: end
data: {"object": "job", "state": "done", "done": 12, "steps": 12, ...}

"""
DOCUMENT_EXAMPLE = {
    "id": "01JE0000000000000000000004",
    "object": "document",
    "name": "biology.pdf",
    "kind": "pdf",
    "bytes": 48_213,
    "pages": 12,
    "tokens": 5_910,
    "flags": [],
    "created_at": 1764460800,
    "used_at": 1764460800,
}
MODEL_EXAMPLE = {
    "id": "chat",
    "object": "model",
    "created": 1764460800,
    "owned_by": "dub5",
    "features": {"tools": "available"},
}
CHAT_EXAMPLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1764460800,
    "model": "gpt",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Air scatters blue light most."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 13, "completion_tokens": 7, "total_tokens": 20},
}
TURN_EVENTS = (
    'event: accepted\nid: 0\ndata: {"type": "accepted", "id": "q-1", "turn": "01JE...", ...}\n\n'
    'event: begin\nid: 0\ndata: {"type": "begin", "seq": 0, "target": "one/gpt", ...}\n\n'
    'event: delta\nid: 3\ndata: {"type": "delta", "seq": 3, "text": "Air"}\n\n'
    'event: end\nid: 3\ndata: {"type": "end", "seq": 3, "outcome": "complete", "kept": true, ...}\n\n'
)
FEEDBACK_EXAMPLE = {
    "object": "feedback",
    "id": "01JE0000000000000000000002",
    "kind": "answer",
    "value": -1,
    "note": "The sky is not green.",
    "turn": "01JE0000000000000000000001",
    "request_id": "req_0123456789abcdef01234567",
    "created_at": 1764460830,
    "kept": True,
}
OPERATOR_FEEDBACK_EXAMPLE = FEEDBACK_EXAMPLE | {
    "owner": "session:5f3a9c01",
    "route": "chat",
    "target": "openai/gpt-4o-mini",
    "state": "open",
    "done_at": None,
}
HELLO = [{"role": "user", "content": "Hello"}]


class Operation(NamedTuple):
    """One method of one path. `answers`: by status, the name of a schema (or a media type) and an example."""

    tag: str
    method: str
    path: str
    summary: str
    answers: dict[int, tuple[str, Any]]
    errors: Errors = ()
    takes: tuple[str, Any] | None = None  # the schema of the body, and an example
    query: tuple[str, ...] = ()
    streams: bool = False  # the answer may be server-sent events
    headers: bool = False  # it takes and returns the headers of a question


PAGED = ("limit", "before")
OPERATIONS: tuple[Operation, ...] = (
    Operation(
        *(
            "chat",
            "POST",
            "/v1/chat/completions",
            "Complete a conversation, as JSON or as server-sent events",
        ),
        {200: ("ChatAnswer", CHAT_EXAMPLE)},
        ASKED,
        ("ChatRequest", {"model": "chat", "messages": HELLO}),
        streams=True,
        headers=True,
    ),
    Operation(
        *("chat", "POST", "/v1/embeddings", "Embed texts as vectors"),
        {200: ("Embeddings", {"object": "list", "model": "gpt", "data": [{"index": 0, "embedding": [0.1]}]})},
        ASKED,
        ("EmbeddingsRequest", {"model": "chat", "input": "Hello"}),
        headers=True,
    ),
    Operation(
        *("models", "GET", "/v1/models", "List the models"),
        {200: ("Models", {"object": "list", "data": [MODEL_EXAMPLE]})},
        CALLER,
    ),
    Operation(
        *("models", "GET", "/v1/models/{name}", "Return one model"),
        {200: ("Model", MODEL_EXAMPLE)},
        (*CALLER, ModelNotFound),
    ),
    Operation(
        *("models", "GET", "/v1/offline", "Return answers for a client that cannot reach the service"),
        {200: ("Offline", {}), 304: ("", None)},
        CALLER,
    ),
    Operation(
        *("sessions", "POST", "/v1/session", "Begin a session, or return the one that the cookie proves"),
        {
            200: ("Session", {"session": "5f3a9c01", "expires_in_s": 2_592_000}),
            201: ("Session", {"session": "5f3a9c01", "expires_in_s": 2_592_000}),
        },
        (*CALLER, CsrfRefused, NotFound),
    ),
    Operation(
        *(
            "sessions",
            "POST",
            "/v1/session/ticket",
            "Write a ticket: a proof of the session that is no cookie",
        ),
        {201: ("Ticket", {"session": "5f3a9c01", "ticket": "0198...", "expires_in_s": 30})},
        (*CALLER, CsrfRefused, NotFound),
    ),
    Operation(
        *("sessions", "DELETE", "/v1/session", "Clear the session's cookie"),
        {204: ("", None)},
        (*CALLER, CsrfRefused, NotFound),
    ),
    Operation(
        *("conversations", "POST", "/v1/conversations", "Begin a conversation"),
        {201: ("Conversation", CONVERSATION_EXAMPLE)},
        (*OWNED, *BODY, ModelNotFound),
        ("ConversationRequest", {"title": "About the sky"}),
    ),
    Operation(
        *("conversations", "GET", "/v1/conversations", "List your conversations, those used last first"),
        {200: ("Conversations", {"object": "list", "data": [CONVERSATION_EXAMPLE], "has_more": False})},
        (*KEPT, InvalidRequest),
        query=PAGED,
    ),
    Operation(
        *("conversations", "GET", "/v1/conversations/{id}", "Read a conversation with its turns"),
        {200: ("ConversationTurns", CONVERSATION_EXAMPLE | {"turns": [TURN_EXAMPLE], "has_more": False})},
        (*KEPT, InvalidRequest),
        query=PAGED,
    ),
    Operation(
        *("conversations", "PATCH", "/v1/conversations/{id}", "Rename a conversation, or change its model"),
        {200: ("Conversation", CONVERSATION_EXAMPLE | {"title": "About the sky"})},
        (*KEPT, *BODY, ModelNotFound),
        ("ConversationRequest", {"title": "About the sky"}),
    ),
    Operation(
        *("conversations", "DELETE", "/v1/conversations/{id}", "Delete a conversation with all its turns"),
        {204: ("", None)},
        KEPT,
    ),
    Operation(
        *("conversations", "POST", "/v1/conversations/{id}/turns", "Ask a question"),
        {200: ("Turn", TURN_EXAMPLE)},
        (*ASKED, SessionRequired, ConversationNotFound, NotFound),
        ("TurnRequest", {"text": QUESTION, "id": "q-1"}),
        streams=True,
        headers=True,
    ),
    Operation(
        *("conversations", "GET", "/v1/turns/{turn}", "Read a turn, as far as it is answered"),
        {200: ("Turn", TURN_EXAMPLE)},
        KEPT,
    ),
    Operation(
        *(
            "conversations",
            "GET",
            "/v1/turns/{turn}/events",
            "Read the messages of a turn from a position on",
        ),
        {200: ("text/event-stream", TURN_EVENTS.partition("\n\n")[2])},
        (*KEPT, InvalidRequest, Overloaded),
        query=("after",),
    ),
    Operation(
        *("conversations", "POST", "/v1/turns/{turn}/stop", "End a turn that is being answered"),
        {204: ("", None)},
        (*KEPT, InvalidRequest),
    ),
    Operation(
        *("documents", "POST", "/v1/documents", "Upload a document: the bytes of the file are the body"),
        {201: ("Document", DOCUMENT_EXAMPLE)},
        (
            *(*OWNED, InvalidRequest, CompressedBody, RequestTimeout, UnreadableDocument),
            *(DocumentTooLarge, TooManyDocuments, Overloaded, StorageUnavailable, ShuttingDown),
        ),
        ("application/octet-stream", "(the bytes of biology.pdf)"),
        query=("name",),
    ),
    Operation(
        *("documents", "GET", "/v1/documents", "List your documents, those used last first"),
        {200: ("Documents", {"object": "list", "data": [DOCUMENT_EXAMPLE], "has_more": False})},
        (*OWNED, InvalidRequest, StorageUnavailable),
        query=PAGED,
    ),
    Operation(
        *("documents", "GET", "/v1/documents/{id}", "Read what is known of a document"),
        {200: ("Document", DOCUMENT_EXAMPLE)},
        KEPT_DOCUMENT,
    ),
    Operation(
        *("documents", "DELETE", "/v1/documents/{id}", "Delete a document"),
        {204: ("", None)},
        KEPT_DOCUMENT,
    ),
    Operation(
        *("decks", "POST", "/v1/decks", "Make a deck of flashcards from a document"),
        {202: ("Deck", DECK_EXAMPLE)},
        (
            *OWNED,
            *BODY,
            ModelNotFound,
            DocumentNotFound,
            UnreadableDocument,
            TooManyDecks,
            StorageUnavailable,
            Overloaded,
        ),
        ("DeckRequest", {"document": "01JE0000000000000000000004", "cards": 40}),
    ),
    Operation(
        *("decks", "GET", "/v1/decks", "List your decks"),
        {200: ("Decks", {"object": "list", "data": [DECK_EXAMPLE], "has_more": False})},
        (*OWNED, InvalidRequest, StorageUnavailable),
        query=PAGED,
    ),
    Operation(
        *("decks", "GET", "/v1/decks/{id}", "Read a deck with its cards"),
        {200: ("DeckCards", DECK_EXAMPLE | {"cards": [CARD_EXAMPLE]})},
        KEPT_DECK,
    ),
    Operation(
        *("decks", "DELETE", "/v1/decks/{id}", "Delete a deck"),
        {204: ("", None)},
        KEPT_DECK,
    ),
    Operation(
        *("decks", "POST", "/v1/decks/{id}/retry", "Ask again for the parts without cards of a model"),
        {202: ("Deck", DECK_EXAMPLE)},
        KEPT_DECK,
    ),
    Operation(
        *("decks", "GET", "/v1/decks/{id}/cards.csv", "Return the cards for a spreadsheet"),
        {200: ("text/csv", f"Front,Back,Quote,Source\r\n{CARD_LINE}\r\n")},
        KEPT_DECK,
    ),
    Operation(
        *("decks", "GET", "/v1/decks/{id}/cards.txt", "Return the cards for Anki"),
        {200: ("text/plain", "#separator:tab\n#html:false\n#deck:Biology\n...\n")},
        KEPT_DECK,
    ),
    Operation(
        *("jobs", "GET", "/v1/jobs/{job}", "Read how far a job is"),
        {200: ("Job", JOB_EXAMPLE)},
        KEPT_JOB,
    ),
    Operation(
        *("jobs", "GET", "/v1/jobs/{job}/events", "Watch a job: an event for each change"),
        {200: ("text/event-stream", JOB_EVENTS)},
        (*KEPT_JOB, Overloaded),
    ),
    Operation(
        *("jobs", "POST", "/v1/jobs/{job}/stop", "End a job"),
        {200: ("Job", JOB_EXAMPLE | {"state": "failed", "problem": "It was stopped."})},
        KEPT_JOB,
    ),
    Operation(
        *("feedback", "POST", "/v1/feedback", "Say what an answer is worth, or that something is wrong"),
        {201: ("Feedback", FEEDBACK_EXAMPLE), 202: ("Feedback", FEEDBACK_EXAMPLE | {"kept": False})},
        (*OWNED, *BODY, ConversationNotFound),
        ("FeedbackRequest", {"kind": "issue", "note": "The answer stops in the middle."}),
    ),
    Operation(
        *("feedback", "GET", "/v1/feedback", "Read your feedback on the answers of a conversation"),
        {200: ("FeedbackList", {"object": "list", "data": [FEEDBACK_EXAMPLE], "has_more": False})},
        (*KEPT, InvalidRequest),
        query=("conversation", *PAGED),
    ),
    Operation(
        *("operations", "GET", "/livez", "Return 200 while the process runs"),
        {200: ("State", {"status": "ok"})},
    ),
    Operation(
        *("operations", "GET", "/readyz", "Return whether the instance accepts new requests"),
        {200: ("State", {"status": "ok"}), 503: ("State", {"status": "draining"})},
    ),
    Operation(
        *("operations", "GET", "/health", "Return the health, with `?deep=true` of each component"),
        {
            200: ("Health", {"status": "ok", "version": "0.1.0"}),
            503: ("DeepHealth", {"status": "failing", "version": "0.1.0", "components": {}}),
        },
        (InvalidRequest,),
        query=("deep",),
    ),
    Operation(
        *("operations", "GET", "/status", "Return targets, counters, recent requests and incidents"),
        {200: ("Status", {})},
        CALLER,
    ),
    Operation(
        *("operations", "GET", "/metrics", "Return the metrics"),
        {200: ("text/plain", "# TYPE gateway_requests_total counter\n")},
        CALLER,
    ),
    Operation(
        *("operations", "GET", "/openapi.json", "Return this document"),
        {200: ("application/json", {}), 304: ("", None)},
    ),
    Operation(
        *(
            "operations",
            "POST",
            "/admin/cache/invalidate",
            "Invalidate cached answers (from this machine only)",
        ),
        {200: ("Invalidated", {"invalidated": {"route": "chat"}})},
        (WrongAdminToken, RateLimited, NotFound, Unavailable, *BODY),
        ("Invalidation", {"route": "chat"}),
    ),
    Operation(
        *("operations", "GET", "/admin/feedback", "Read the feedback of everybody (from this machine only)"),
        {
            200: (
                "OperatorFeedbackList",
                {"object": "list", "data": [OPERATOR_FEEDBACK_EXAMPLE], "has_more": False},
            )
        },
        (WrongAdminToken, RateLimited, NotFound, StorageUnavailable, InvalidRequest),
        query=("kind", "value", "target", "state", *PAGED),
    ),
    Operation(
        *("operations", "PATCH", "/admin/feedback/{id}", "Mark feedback as done, or open it again"),
        {200: ("OperatorFeedback", OPERATOR_FEEDBACK_EXAMPLE | {"state": "done", "done_at": 1764460900})},
        (WrongAdminToken, RateLimited, NotFound, StorageUnavailable, *BODY),
        ("FeedbackMark", {"state": "done"}),
    ),
    Operation(
        *("page", "GET", "/", "Serve the page for people"),
        {200: ("text/html", "<!doctype html>"), 304: ("", None)},
    ),
    Operation(
        *("page", "GET", "/web/{name}", "Serve a file of the page"),
        {200: ("text/javascript", ""), 304: ("", None)},
        (NotFound,),
    ),
)
