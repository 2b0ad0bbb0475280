"""JSON Schemas of what the service takes and answers."""

from typing import Any

Schema = dict[str, Any]


def text(description: str, **more: Any) -> Schema:
    """Return the schema of a text."""
    return {"type": "string", "description": description, **more}


def number(description: str, kind: str = "integer", **more: Any) -> Schema:
    """Return the schema of a number."""
    return {"type": kind, "description": description, **more}


def flag(description: str) -> Schema:
    """Return the schema of a boolean."""
    return {"type": "boolean", "description": description}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def optional(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Schema, description: str) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, "description": description}


def table(description: str, required: dict[str, Schema], more: dict[str, Schema] | None = None) -> Schema:
    """Return the schema of an object, and its fields: those that are always there, and those that may be."""
    properties = required | (more or {})
    schema = {"type": "object", "description": description, "properties": properties}
    return schema | {"required": list(required)} if required else schema


OPEN = {"type": "object"}
ID = text("26 characters, in the order of their making.", pattern="^[0-9A-HJKMNP-TV-Z]{26}$")
WHEN = number("Seconds since 1970.", "number")
OUTCOMES = ["complete", "degraded", "refused", "failed", "cut", "cancelled"]
SOURCE = text("Who has counted: the provider, or an estimate of ours.", enum=["provider", "estimate"])

ATTEMPT = table(
    "One try at a target.",
    {
        "target": text("`provider/model`."),
        "outcome": text("What came of it."),
        "reason": text("`ok`, or why not."),
        "started_ms": number("Since the request came.", "number"),
        "ended_ms": number("Since the request came.", "number"),
    },
)
ERROR = table(
    "The one shape of all errors.",
    {
        "error": table(
            "What happened, and what to do.",
            {
                "message": text("For a person; it ends with what to do."),
                "type": text("The family of the code."),
                "code": text("For a program: one of a closed list."),
                "param": optional(text("The field at fault.")),
                "id": text("Names this error in the log; also in `x-request-id`."),
                "retry_after": optional(number("Seconds until it is worth trying again.", "number")),
                "suggestion": text("What to do."),
                "attempts": array(
                    ref("Attempt"), "The targets that were asked, and why each gave no answer."
                ),
            },
        )
    },
)
MESSAGE = table(
    "A message. Fields that are not listed go to the provider as they are.",
    {"role": text("Who speaks.", enum=["system", "developer", "user", "assistant", "tool", "function"])},
    {
        "content": {
            "anyOf": [text("The text."), array(OPEN, "Parts: texts and pictures."), {"type": "null"}],
            "description": "What is said.",
        },
        "name": optional(text("Tells speakers of one role apart.")),
        "tool_calls": optional(array(OPEN, "Calls that the model made.")),
        "tool_call_id": optional(text("The call that this message answers.")),
    },
)
CHAT_REQUEST = table(
    "OpenAI's chat completion request. Fields that are not listed go to the provider as they are.",
    {
        "model": text("A name of `GET /v1/models`: a route, or a route with a personality."),
        "messages": {**array(ref("Message"), "The conversation so far."), "minItems": 1},
    },
    {
        "stream": optional(flag("Send the answer as server-sent events.")),
        "stream_options": optional(
            table("What a stream ends with.", {}, {"include_usage": optional(flag("Count the tokens."))})
        ),
        "temperature": optional(number("0: the answer may be cached.", "number")),
        "top_p": optional(number("Nucleus sampling.", "number")),
        "max_tokens": optional(number("The longest answer, in tokens.")),
        "max_completion_tokens": optional(number("The longest answer, in tokens.")),
        "stop": {
            "anyOf": [text("One."), array(text("One."), "Several."), {"type": "null"}],
            "description": "Where the answer ends.",
        },
        "n": optional(number("How many answers.")),
        "tools": optional(array(OPEN, "Functions that the model may call.")),
        "logprobs": optional(flag("Return the probabilities of tokens.")),
        "store": optional(flag("Let the provider keep the answer.")),
    },
)
USAGE = table(
    "Tokens.",
    {
        "prompt_tokens": number("Of the request."),
        "completion_tokens": number("Of the answer."),
        "total_tokens": number("Of both."),
    },
    {"estimated": flag("The provider did not count; these are estimates.")},
)
GROUNDING = table(
    "Of an answer about a document: what became of its statements.",
    {
        "grounded": flag("Something was told, and its sources support all of it."),
        "sources": array(
            table(
                "A passage of the document that was cited.",
                {
                    "number": number("Its number, as in `[4]`."),
                    "text": text("What it says."),
                    "page": number("Its page."),
                },
            ),
            "The passages that were cited by what was told.",
        ),
        "withheld": number("Statements that were left out, since no passage supports them."),
    },
)
CHAT_ANSWER = table(
    "OpenAI's chat.completion. `model` names the model that answered.",
    {
        "object": {"const": "chat.completion"},
        "choices": array(
            table(
                "One answer.",
                {"index": number("Its place."), "message": ref("Message")},
                {"finish_reason": optional(text("Why it ended."))},
            ),
            "The answers.",
        ),
        "model": text("The model that answered."),
    },
    {
        "id": text("Names the answer."),
        "created": number("Seconds since 1970."),
        "usage": optional(ref("Usage")),
        "grounding": ref("Grounding"),
    },
)
EMBEDDINGS_REQUEST = table(
    "OpenAI's embeddings request.",
    {
        "model": text("A name of `GET /v1/models`."),
        "input": {
            "anyOf": [text("A text."), {"type": "array", "items": {}, "minItems": 1}],
            "description": "A text, texts, token numbers, or lists of those.",
        },
    },
    {"encoding_format": optional(text("The form of a vector.", enum=["float", "base64"]))},
)
EMBEDDINGS = table(
    "Vectors, in the order of the input.",
    {"object": {"const": "list"}, "data": array(OPEN, "The vectors."), "model": text("Their model.")},
    {"usage": OPEN},
)
MODEL = table(
    "A model name of this service.",
    {
        "id": text("What `model` of a request says."),
        "object": {"const": "model"},
        "created": number("Seconds since 1970."),
        "owned_by": text("`dub5`."),
        "features": {
            "type": "object",
            "description": "Of each feature: whether its targets support it, and can be asked now.",
            "additionalProperties": {"type": "string"},
        },
    },
    {
        "personality": text("The name of its personality."),
        "title": text("What people may read."),
        "grounded": flag("Its answers are checked against a document."),
    },
)
MODELS = table(
    "The models.",
    {"object": {"const": "list"}, "data": array(ref("Model"), "The models.")},
    {
        "sessions": flag("There are sessions."),
        "conversations": flag("Conversations are kept."),
        "documents": table("Documents are kept.", {"bytes_max": number("Of a file, at most.")}),
    },
)
SESSION = table(
    "A session.",
    {"session": text("Its name in the log."), "expires_in_s": number("How long its cookie lives, seconds.")},
)
TICKET = table(
    "A proof of a session that is no cookie.",
    {
        "session": text("The session's name in the log."),
        "ticket": text("Send it as `Authorization: Ticket <ticket>`."),
        "expires_in_s": number("How long it is good for, seconds."),
    },
)
CONVERSATION_FIELDS = {
    "title": text("What a list shows; at most 200 characters.", maxLength=200),
    "model": text("The model of its questions, a name of `GET /v1/models`."),
}
DOCUMENT_OF_CONVERSATION = {
    "document": text("The id of the document that it asks about. It does not change.")
}
CONVERSATION_REQUEST = table(
    "What is known of a conversation.", {}, CONVERSATION_FIELDS | DOCUMENT_OF_CONVERSATION
)
CONVERSATION = table(
    "A conversation.",
    {
        "id": ID,
        "object": {"const": "conversation"},
        **CONVERSATION_FIELDS,
        "created_at": WHEN,
        "used_at": WHEN,
        "kept": flag("Whether it is in the database."),
    },
    DOCUMENT_OF_CONVERSATION,
)
DOCUMENT = table(
    "A document, without its text.",
    {
        "id": ID,
        "object": {"const": "document"},
        "name": text("What its owner calls it."),
        "kind": text("Found from the bytes of the file.", enum=["txt", "md", "docx", "pdf"]),
        "bytes": number("Size of the file."),
        "pages": number("Its pages; 1 where the kind has none."),
        "tokens": number("Tokens of its text, estimated."),
        "flags": array(text("A flag of a prompt injection."), "What its text may try with a model."),
        "created_at": WHEN,
        "used_at": WHEN,
    },
)
DOCUMENTS = table(
    "Documents of one owner, those used last first.",
    {
        "object": {"const": "list"},
        "data": array(ref("Document"), "The documents."),
        "has_more": flag("There are older ones: ask again with `before`."),
    },
)
CONVERSATIONS = table(
    "Conversations of one owner, those used last first.",
    {
        "object": {"const": "list"},
        "data": array(ref("Conversation"), "The conversations."),
        "has_more": flag("There are older ones: ask again with `before`."),
    },
)
SAID = {
    "text": text("What was said."),
    "tokens": optional(number("Its tokens.")),
    "tokens_source": optional(SOURCE),
}
TURN = table(
    "A question and its answer.",
    {
        "id": ID,
        "object": {"const": "turn"},
        "conversation": ID,
        "asked_as": text("The id that the client gave, or one of ours."),
        "question": table("What was asked.", SAID),
        "answer": optional(table("What was answered, or as much of it as came.", SAID)),
        "state": text("Whether it is being answered.", enum=["open", "ended"]),
        "outcome": optional(text("How it ended.", enum=OUTCOMES)),
        "finish": optional(text("Why the model stopped: `stop`, `length`, `content_filter`.")),
        "target": optional(text("Who answered: `provider/model`.")),
        "model": text("The model that was asked for."),
        "flags": array(text("A kind of attack."), "What the question looks like."),
        "asked_at": WHEN,
        "ended_at": optional(WHEN),
        "kept": flag("Whether it is in the database."),
    },
    {
        "degraded": text("The source of a fallback answer, which is no model's."),
        "grounding": ref("Grounding"),
        "pruned": table(
            "What the model was not told, because it did not fit into its window.",
            {"turns": number("How many exchanges."), "tokens": number("How many tokens.")},
        ),
        "memory": text(
            "The database did not answer: the model knew nothing of what was said before.", const="lost"
        ),
    },
)
TURN_REQUEST = table(
    "A question.",
    {"text": text("The question; at most `conversation.question_chars_max` characters.", minLength=1)},
    {
        "id": text("Your own id of it: what is sent twice with one id is asked once.", maxLength=64),
        "model": text("Another model for this question."),
        "stream": flag("Send the answer as server-sent events."),
    },
)
CONVERSATION_TURNS = table(
    "A conversation with its turns, oldest first.",
    {
        **{name: one for name, one in CONVERSATION["properties"].items() if name != "document"},
        "turns": array(ref("Turn"), "The newest of them, or those before `before`."),
        "has_more": flag("There are older ones: ask again with `before`."),
    },
    DOCUMENT_OF_CONVERSATION,
)
JOB = table(
    "A job: work in the background.",
    {
        "id": ID,
        "object": {"const": "job"},
        "kind": text("What is done."),
        "subject": text("The id of what it is about."),
        "state": text(
            "`ready`: it waits for a worker. `failed`: see `problem`.",
            enum=["ready", "running", "done", "failed"],
        ),
        "done": number("How many of its steps are kept."),
        "steps": number("How many there are."),
        "problem": optional(text("Why it has failed, for people.")),
        "created_at": WHEN,
        "ended_at": optional(WHEN),
    },
)
DECK_REQUEST = table(
    "What a deck is made of.",
    {"document": text("The id of a document.")},
    {
        "title": text("What it is called; without one as the document is.", maxLength=200),
        "model": text("Who is asked for the cards; without one the first model of the service."),
        "cards": number("How many cards, at most; a short text has fewer.", minimum=1, maximum=200),
    },
)
CARD = table(
    "A card.",
    {
        "number": number("Its place in the deck, from 1 on."),
        "front": text("The question."),
        "back": text("The answer."),
        "quote": text("The words of the document that hold the answer."),
        "source": text(
            "`model`: a model wrote it. `template`: made of the text itself, as no model answered.",
            enum=["model", "template"],
        ),
        "part": number("The part of the document that it is about, from 1 on."),
    },
)
DECK = table(
    "A deck of flashcards.",
    {
        "id": ID,
        "object": {"const": "deck"},
        "title": text("What it is called."),
        "document": text("The id of its document, which it outlives."),
        "model": text("Who is asked for its cards."),
        "job": optional(ref("Job")),
        "parts": number("In how many parts the document is asked about."),
        "template_parts": number("Of how many parts no model has written cards: `retry` asks again."),
        "created_at": WHEN,
    },
)
DECK_CARDS = table(
    "A deck with its cards, as far as they are made.",
    {**DECK["properties"], "cards": array(ref("Card"), "In the order of the document.")},
)
DECKS = table(
    "Decks, the newest first.",
    {
        "object": {"const": "list"},
        "data": array(ref("Deck"), "The decks, without their cards."),
        "has_more": flag("There are older ones: ask again with `before`."),
    },
)


FEEDBACK_REQUEST = table(
    "What somebody says of an answer, or of what is wrong.",
    {"kind": text("What it is about.", enum=["answer", "issue", "crash"])},
    {
        "value": number("What the answer is worth; only of an answer.", enum=[-1, 1]),
        "note": text("In words, at most 2,000 characters; an issue needs it."),
        "turn": text("The turn of the answer."),
        "request_id": text("Without a turn: the `x-request-id` of the reply.", maxLength=128),
    },
)
FEEDBACK = table(
    "Feedback as it is kept.",
    {
        "object": {"const": "feedback"},
        "id": ID,
        "kind": text("What it is about.", enum=["answer", "issue", "crash"]),
        "value": optional(number("What the answer is worth.", enum=[-1, 1])),
        "note": optional(text("In words, without control characters.")),
        "turn": optional(text("The turn of the answer; null once its conversation is deleted.")),
        "request_id": optional(text("The request of the answer.")),
        "created_at": WHEN,
        "kept": flag("Whether it is in the database; else it is a line of the log."),
    },
)
FEEDBACK_LIST = table(
    "Your feedback on the answers of a conversation, that of the newest turn first.",
    {
        "object": {"const": "list"},
        "data": array(ref("Feedback"), "The feedback."),
        "has_more": flag("There is older one: ask again with `before`, a turn."),
    },
)
OPERATOR_FEEDBACK = table(
    "Feedback as the operator sees it.",
    {
        **FEEDBACK["properties"],
        "owner": text("Who gave it, as in the log."),
        "route": optional(text("The route of the answer.")),
        "target": optional(text("Who answered: `provider/model`.")),
        "state": text("Whether the operator is through with it.", enum=["open", "done"]),
        "done_at": optional(WHEN),
    },
)
OPERATOR_FEEDBACK_LIST = table(
    "Feedback of everybody, the newest first.",
    {
        "object": {"const": "list"},
        "data": array(ref("OperatorFeedback"), "The feedback."),
        "has_more": flag("There is older one: ask again with `before`, an id."),
    },
)
FEEDBACK_MARK = table("The state.", {"state": text("The state.", enum=["open", "done"])})
INVALIDATION = table(
    "Exactly one of these.",
    {},
    {
        "model": text("Answers of this model, or of one target."),
        "route": text("Answers of this route."),
        "caller": text("Answers to this caller, by the hash that the log shows."),
        "key": text("One answer."),
        "everything": flag("All answers."),
    },
)
INVALIDATED = table("What was invalidated.", {"invalidated": OPEN})
HEALTH = table("Health.", {"status": text("`ok`, or what is wrong."), "version": text("Of the service.")})
DEEP_HEALTH = table("Health of each component.", {**HEALTH["properties"], "components": OPEN})
STATE = table("State.", {"status": text("`ok` or `draining`.")})
OFFLINE = {**OPEN, "description": "Answers for a client that cannot reach the service."}
STATUS = {**OPEN, "description": "Targets, counters, recent requests and incidents."}

SCHEMAS: dict[str, Schema] = {
    "Attempt": ATTEMPT,
    "Error": ERROR,
    "Message": MESSAGE,
    "ChatRequest": CHAT_REQUEST,
    "Usage": USAGE,
    "Grounding": GROUNDING,
    "ChatAnswer": CHAT_ANSWER,
    "EmbeddingsRequest": EMBEDDINGS_REQUEST,
    "Embeddings": EMBEDDINGS,
    "Job": JOB,
    "DeckRequest": DECK_REQUEST,
    "Card": CARD,
    "Deck": DECK,
    "DeckCards": DECK_CARDS,
    "Decks": DECKS,
    "Model": MODEL,
    "Models": MODELS,
    "Session": SESSION,
    "Ticket": TICKET,
    "ConversationRequest": CONVERSATION_REQUEST,
    "Conversation": CONVERSATION,
    "Conversations": CONVERSATIONS,
    "ConversationTurns": CONVERSATION_TURNS,
    "Document": DOCUMENT,
    "Documents": DOCUMENTS,
    "TurnRequest": TURN_REQUEST,
    "Turn": TURN,
    "FeedbackRequest": FEEDBACK_REQUEST,
    "Feedback": FEEDBACK,
    "FeedbackList": FEEDBACK_LIST,
    "OperatorFeedback": OPERATOR_FEEDBACK,
    "OperatorFeedbackList": OPERATOR_FEEDBACK_LIST,
    "FeedbackMark": FEEDBACK_MARK,
    "Invalidation": INVALIDATION,
    "Invalidated": INVALIDATED,
    "Health": HEALTH,
    "DeepHealth": DEEP_HEALTH,
    "State": STATE,
    "Offline": OFFLINE,
    "Status": STATUS,
}
