"""The OpenAI dialect, for OpenAI and compatible providers. It is our own format, so chunks pass unchanged."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from dub5.service.config.settings import NO_OVERRIDES, DialectOverrides
from dub5.service.model import ChatRequest, Chunk, EmbedRequest, Reply, Usage
from dub5.service.providers.base import (
    USER_AGENT,
    EncodedRequest,
    ProviderFault,
    add_several,
    cut_fault,
    event_fault,
    may_end_empty,
    refusal_or,
    status_fault,
    trail_names,
)
from dub5.service.providers.call_index import CallIndexes
from dub5.service.providers.conversation import only_openais
from dub5.service.providers.embeddings import reply_with_vectors
from dub5.service.providers.fields import apply_overrides, overrides_in_steps
from dub5.service.providers.finish import STOP, ChoiceEnds, choice_number, finish_meaning
from dub5.service.providers.loose import undecodable
from dub5.service.providers.quota_left import OPENAI_QUOTA
from dub5.service.providers.slices import Steps, finish
from dub5.service.providers.sse import ANSWER_NAMES, BOM, EventTooLong, SseDecoder
from dub5.service.providers.text_form import FORMS_MAX, TextForm, learn
from dub5.service.providers.usage import (
    add_usage,
    calls_chars,
    estimate,
    parse_usage,
    prompt_tokens,
    text_chars,
    usage_json,
)
from dub5.service.tokens import ascii_chars

DONE = b"[DONE]"
CONTENT = ("choices", "delta")  # they hold the answer
TEXTS = ("content", "reasoning_content", "reasoning")  # a text alone in a delta
WITH_USAGE = Raw(b'{"include_usage":true}')


class _Part(Struct):
    """A message, or its delta: fields that are only read for "is there content", so of any type."""

    content: object = None
    refusal: object = None
    tool_calls: object = None
    function_call: object = None
    reasoning: object = None
    reasoning_content: object = None
    reasoning_details: object = None
    audio: object = None
    images: object = None

    def has_content(self) -> bool:
        """Return whether there is any content. Raises ProviderFault for content that is no text or parts."""
        if content := self.content:
            if isinstance(content, str) or isinstance(content, list):  # noqa: SIM101 quicker than a tuple
                return True
            raise ProviderFault("garbled")
        return bool(
            self.tool_calls
            or self.refusal
            or self.function_call
            or self.reasoning_content
            or self.reasoning
            or self.reasoning_details
            or self.audio
            or self.images
        )

    def chars(self) -> int:
        """Count the characters, for an estimate of the tokens."""
        content = self.content
        chars = len(content) if isinstance(content, str) and content.isascii() else text_chars(content)
        if self.refusal or self.tool_calls or self.reasoning_content or self.reasoning:
            more = (self.refusal, self.reasoning_content or self.reasoning)
            chars += sum(map(text_chars, more)) + calls_chars(self.tool_calls)
        return chars

    def only_text(self) -> str | None:
        """Return the name of the field with the text, if there is nothing else."""
        names = [name for name in self.__struct_fields__ if getattr(self, name)]
        is_text = len(names) == 1 and names[0] in TEXTS and isinstance(getattr(self, names[0]), str)
        return names[0] if is_text else None


# Some servers write [] for an object without fields.
_MaybePart = _Part | list[object] | str | float | bool | None


class _Choice(Struct):
    index: object = 0
    delta: _MaybePart = None
    message: _MaybePart = None
    finish_reason: object = None


class _Body(Struct):
    choices: list[_Choice] | dict[str, object] | str | float | bool | UnsetType | None = UNSET
    usage: object = None  # read leniently: odd counts must not cost a good answer
    error: object = None

    def listed(self) -> list[_Choice]:
        """Return the choices, if any. Raises ProviderFault if they are no list."""
        if isinstance(self.choices, list):
            return self.choices
        if self.choices:
            raise ProviderFault("garbled")
        return []


class _Kind(Struct):
    """What an event without choices calls itself."""

    kind: object = field(name="object", default=None)
    type: object = None


_BODY = msgspec.json.Decoder(_Body)
_KIND = msgspec.json.Decoder(_Kind)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])


class OpenAIDialect:
    """The dialect of `/chat/completions`."""

    path = "/chat/completions"
    embeddings_path = "/embeddings"
    models_path = "/models"
    embeds = True
    quota_headers = OPENAI_QUOTA

    def __init__(self, event_bytes_max: int, overrides: DialectOverrides = NO_OVERRIDES) -> None:
        self.event_bytes_max = event_bytes_max
        self.overrides = overrides
        self._headers: dict[str | None, Mapping[str, str]] = {}  # by key

    def encode(self, request: ChatRequest, model: str, key: str | None) -> EncodedRequest:
        fields, dropped = apply_overrides(request.fields, self.overrides)
        if request.plain:
            finish(_make_plain(fields, dropped))
        return self._encoded(request, model, key, fields, dropped)

    def encode_in_steps(self, request: ChatRequest, model: str, key: str | None) -> Steps[EncodedRequest]:
        fields, dropped = yield from overrides_in_steps(request.fields, self.overrides)
        if request.plain:
            yield from _make_plain(fields, dropped)
        yield
        return self._encoded(request, model, key, fields, dropped)

    def _encoded(
        self, request: ChatRequest, model: str, key: str | None, fields: dict[str, Raw], dropped: list[str]
    ) -> EncodedRequest:
        fields["model"] = Raw(msgspec.json.encode(model))
        if request.stream and not request.plain and "stream_options" not in self.overrides.drops:
            fields["stream_options"] = _with_include_usage(fields.get("stream_options"))
        return EncodedRequest(self.path, msgspec.json.encode(fields), self.headers(key), trail_names(dropped))

    def headers(self, key: str | None) -> Mapping[str, str]:
        """Return the headers of a call: the same object for each call with this key."""
        headers = self._headers.get(key)
        if headers is None:
            headers = self._headers[key] = {**self.overrides.headers, **json_headers(key)}
        return headers

    def answer(self, body: bytes, request: ChatRequest) -> Reply:
        if body[:3] == BOM:
            body = body[3:]
        parsed = decode_body(body)
        if not parsed.choices:
            raise refusal_or("garbled" if parsed.choices is UNSET else "empty_answer", body)
        choices = parsed.choices if isinstance(parsed.choices, list) else parsed.listed()
        complete, has_content = True, False
        for choice in choices:
            message, reason = choice.message, choice.finish_reason
            if reason != STOP:  # quicker for the common case
                reason = finish_meaning(reason, "error_in_answer")
            complete = complete and reason is not None
            if isinstance(message, _Part):
                has_content = has_content or message.has_content()
            elif message:
                raise ProviderFault("garbled")
            has_content = has_content or may_end_empty(reason, request)
        if not has_content:
            raise ProviderFault("empty_answer")
        if not complete:
            raise ProviderFault("truncated")
        if (usage := parse_usage(parsed.usage)) is not None:
            return Reply(body, usage)
        answer_chars = sum(c.message.chars() for c in choices if isinstance(c.message, _Part))
        usage = estimate(prompt_tokens(request), answer_chars)
        return Reply(add_usage(body, usage), usage)

    def stream(self, request: ChatRequest, model: str) -> "OpenAIStream":
        return OpenAIStream(request, self.event_bytes_max)

    def encode_embeddings(self, request: EmbedRequest, model: str, key: str | None) -> EncodedRequest:
        fields, dropped = apply_overrides(request.fields, self.overrides)
        fields["model"] = Raw(msgspec.json.encode(model))
        return EncodedRequest(
            self.embeddings_path, msgspec.json.encode(fields), self.headers(key), trail_names(dropped)
        )

    def embeddings(self, body: bytes, request: EmbedRequest) -> Reply:
        return reply_with_vectors(body, request)

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        return status_fault(status, headers, body)


class OpenAIStream:
    """A stream reader that relays chunks as they came. The usage is left for the end, if the client asked."""

    def __init__(self, request: ChatRequest, event_bytes_max: int) -> None:
        self.finished = False
        self.ended = False
        self.fault: ProviderFault | None = None
        self._request = request
        self._keep_usage = request.wants_usage
        self._usage: Usage | None = None
        self._usage_fields: object = None  # as the provider wrote them
        self._usage_payload = b""  # the provider's own chunk for it
        self._answer_chars = 0
        self._last = b""
        self._event_bytes_max = event_bytes_max
        self._sse = SseDecoder(event_bytes_max)
        self._ends = ChoiceEnds(request.body.n or 1)
        self._withheld: dict[int, object] = {}  # finish reasons that may be none: they are told at the end
        self._calls: CallIndexes | None = None
        self._unreadable: ProviderFault | None = None  # an event that was skipped: it may explain a bad end
        self._form: TextForm | None = None  # of the last text, until a choice ends
        self._forms_left = FORMS_MAX

    def feed(self, data: bytes) -> list[Chunk]:
        form = self._form
        if form is not None and self._sse.between_events:
            if text := form.text(data):
                return [self._same_form(data, text)]
            if events := form.several(data):
                return [self._same_form(event, text) for event, text in events]
        chunks: list[Chunk] = []
        try:
            for name, payload in self._sse.feed(data):
                if self.ended:
                    break
                try:
                    if payload[:1] != b"{" and self.is_other(payload, name):
                        continue
                    if (chunk := self.chunk(payload, name)) is not None:
                        chunks.append(chunk)
                except ProviderFault as fault:
                    add_several(self, payload, name, fault, chunks)
        except EventTooLong:
            self.fault = ProviderFault("event_too_long")
        except ProviderFault as fault:
            self.fault = fault
        if self.fault is not None and self.finished:
            self.fault, self.ended = None, True  # the answer is complete: the fault came after it
        return chunks

    def end(self) -> list[Chunk]:
        if not self.finished and not self._ends.whole(done=False):
            raise self._unreadable or cut_fault(self._sse.rest())
        self.finished = True
        last = [self._finish_chunk()] if self._withheld else []
        if self._usage is not None and not self._keep_usage:
            return last
        self._usage = self.usage_so_far()
        usage_chunk = self._usage_chunk(self._usage) if self._keep_usage else b""
        return [*last, Chunk(usage_chunk, usage=self._usage)]

    def usage_so_far(self) -> Usage:
        return self._usage or estimate(prompt_tokens(self._request), self._answer_chars)

    def chunk(self, payload: bytes, name: bytes = b"") -> Chunk | None:
        """Decode one event to a chunk; None if it says nothing of the answer. Raises ProviderFault."""
        parsed = decode_body(payload)
        if not parsed.choices:
            return self._without_choices(parsed, payload, name)
        finish, content, ends = None, False, self._ends
        self.finished = False  # until this chunk is read, for it may take back the finish
        for choice in parsed.choices if isinstance(parsed.choices, list) else parsed.listed():
            part, reason, has_content = choice.delta, None, False
            if isinstance(part, _Part):
                if part.has_content():
                    content = has_content = True
                    self._answer_chars += part.chars()
                    if part.tool_calls:
                        payload = self._with_indexes(payload)
            elif part:
                raise ProviderFault("garbled")
            if choice.finish_reason:
                reason = finish_meaning(choice.finish_reason, "error_event")
                finish = reason or finish
            index = choice_number(choice.index) if choice.index else 0
            if reason or ends.ended:
                ends.note(index, content=has_content, finish=reason is not None)
            elif index is not None:
                ends.open.add(index)
        if ends.ended:
            self.finished, self._form, self._forms_left = ends.certain(), None, 0
        self._last = payload
        if finish is not None:
            payload = self._withhold(parsed.listed(), payload, early=content or not self._answer_chars)
        usage = None
        if parsed.usage is not None:
            usage = self._count(parsed.usage)
            payload = _without_usage(payload)
        elif self._forms_left and content:
            self._learn(parsed.listed(), payload)
        return Chunk(sse_event(payload), content, finish, usage)

    def _same_form(self, event: bytes, text: str) -> Chunk:
        """Return the chunk of an event in the form that was learned."""
        self._answer_chars += len(text) if text.isascii() else ascii_chars(text)
        return Chunk(event, True, None, None, text)

    def _learn(self, choices: list[_Choice], payload: bytes) -> None:
        """Learn the form of a chunk of text."""
        part = choices[0].delta
        if len(choices) == 1 and isinstance(part, _Part) and (field := part.only_text()):
            self._forms_left -= 1
            form = learn(
                b"data: ", payload, field, self._event_bytes_max, lambda other: _text_of(other, field)
            )
            self._form = form or self._form

    def _without_choices(self, parsed: _Body, payload: bytes, name: bytes) -> Chunk | None:
        """Take the usage of an event without choices. Raises ProviderFault for an error."""
        parsed.listed()
        if name == b"error" or "error" in msgspec.structs.astuple(_KIND.decode(payload)):
            raise event_fault(payload)
        is_chunk = isinstance(parsed.choices, list)
        if not self._last and not is_chunk and self._unreadable is None:
            self._unreadable = refusal_or("garbled", payload)  # or of another dialect
        if parsed.usage is None:
            return Chunk(sse_event(payload)) if is_chunk else None
        usage = self._count(parsed.usage)
        if usage is not None and is_chunk:
            self._usage_payload = payload
        return Chunk(b"", usage=usage)

    def is_other(self, payload: bytes, name: bytes) -> bool:
        """Return whether an event holds no object: an end, a sign of life, or what no client can read."""
        payload = payload.strip()
        if payload[:1] == b"{":
            return False
        if payload[:6] == DONE:
            self.ended, self._form = True, None
            self.finished = self.finished or self._ends.whole(done=True)
        elif name == b"error" or (payload[:1] == b"[" and event_fault(payload).message):
            raise event_fault(payload)
        elif any(name in payload for name in ANSWER_NAMES):
            raise ProviderFault("garbled")  # words, in a frame of another form
        elif payload and payload[:1] != b":" and self._unreadable is None:
            self._unreadable = refusal_or("garbled" if payload[:1] == b"[" else "not_json", payload)
        return True

    def _count(self, fields: object) -> Usage | None:
        """Take the usage of an event: the latest that counts anything is right."""
        usage = parse_usage(fields)
        if usage is not None:
            self._usage, self._usage_fields, self._usage_payload = usage, fields, b""
        return usage

    def _usage_chunk(self, usage: Usage) -> bytes:
        """Return the chunk of a stream that holds only its usage: the provider's own, if it sent one."""
        if self._usage_payload:
            return sse_event(self._usage_payload)
        head = _FIELDS.decode(self._last)  # as Raw: an unread field may hold an invalid value such as 1e999
        fields = self._usage_fields or usage_json(usage)
        return sse_event(msgspec.json.encode({**head, "choices": [], "usage": fields}))

    def _withhold(self, choices: list[_Choice], payload: bytes, *, early: bool) -> bytes:
        """Take the finish reasons out of a chunk that may not be the last: clients stop reading at one."""
        for choice in choices:
            index = choice_number(choice.index) if choice.index else 0
            if choice.finish_reason and index is not None:
                self._withheld.pop(index, None)
                if early:
                    self._withheld[index] = choice.finish_reason
        return _without_finish(payload) if early else payload

    def _finish_chunk(self) -> Chunk:
        """Return the chunk of the finish reasons that were withheld."""
        choices = [
            {"index": index, "delta": {}, "finish_reason": reason} for index, reason in self._withheld.items()
        ]
        fields = {**_FIELDS.decode(self._last), "choices": choices}
        fields.pop("usage", None)
        return Chunk(sse_event(msgspec.json.encode(fields)))

    def _with_indexes(self, payload: bytes) -> bytes:
        self._calls = self._calls or CallIndexes()
        return self._calls.complete(payload)


def decode_body(body: bytes) -> _Body:
    """Decode a completion or a chunk. Raises ProviderFault for an error or an unknown shape."""
    try:
        parsed = _BODY.decode(body)
        if not body.isascii():
            body.decode()  # msgspec does not check the strings that it skips; clients will
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise undecodable(body, CONTENT) from None
    if parsed.error and _is_error(parsed.error):
        raise event_fault(body)
    return parsed


def _text_of(payload: bytes, field: str) -> object:
    """Return a field of the first choice's delta."""
    choices = _BODY.decode(payload).choices
    return getattr(choices[0].delta, field) if isinstance(choices, list) else None


def _is_error(error: object) -> bool:
    """Return whether an `error` field says anything; some servers write an empty one into good answers."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _without_usage(payload: bytes) -> bytes:
    """Return a chunk without its usage, which is told once, at the end."""
    fields = _FIELDS.decode(payload)
    del fields["usage"]
    return msgspec.json.encode(fields)


def _without_finish(payload: bytes) -> bytes:
    """Return a chunk without its finish reasons."""
    fields = _FIELDS.decode(payload)
    choices = msgspec.json.decode(fields["choices"], type=list[dict[str, Raw]])
    return msgspec.json.encode({**fields, "choices": [{**one, "finish_reason": None} for one in choices]})


def sse_event(payload: bytes) -> bytes:
    """Encode a payload as one server-sent event."""
    if b"\n" in payload:
        payload = payload.replace(b"\n", b"\ndata: ")
    return b"data: " + payload + b"\n\n"


def sse_payload(raw: bytes) -> bytes:
    """Return the payload that `sse_event` encoded."""
    return raw[len(b"data: ") : -2].replace(b"\ndata: ", b"\n")


def _make_plain(fields: dict[str, Raw], dropped: list[str]) -> Steps[None]:
    """Leave out of the messages what only some providers know."""
    if (plain := (yield from only_openais(fields["messages"]))) is not None:
        fields["messages"] = plain[0]
        dropped += plain[1]


def json_headers(key: str | None) -> dict[str, str]:
    """Return the headers of a JSON call, authenticated with `key`."""
    headers = {"content-type": "application/json", "user-agent": USER_AGENT}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return headers


def _with_include_usage(options: Raw | None) -> Raw:
    """Return the client's stream options with `include_usage` set."""
    if options is None:
        return WITH_USAGE
    try:
        given = _FIELDS.decode(options)
    except (msgspec.DecodeError, UnicodeDecodeError):  # null
        return WITH_USAGE
    return Raw(msgspec.json.encode({**given, "include_usage": Raw(b"true")}))
