"""The intake of a route: what is done to a chat request before an answer is looked for.

sanitise the caller's texts -> look for a prompt injection in the new ones -> put the personality first

Call `Intake.take(request)`. A route that wants none of it has no intake.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from dub5.service.admission.injection import scan_in_steps
from dub5.service.admission.sanitize import clean_in_steps
from dub5.service.config.options import SanitizeOptions
from dub5.service.config.settings import Personality
from dub5.service.errors import QuestionTooLong, SuspiciousInput, TooLarge
from dub5.service.model import ChatRequest, Message
from dub5.service.providers.fields import LEVELS, JsonObject
from dub5.service.providers.slices import LIST, Steps, StepSize, decode_lazily, encode_list, in_full

CLEANED = frozenset({"system", "developer", "user", "tool", "function"})
TEXT_BYTES_MAX = 1024 * 1024  # more than a model reads; cleaning it would hold up all others
SCANNED = frozenset({"user", "tool", "function"})  # the others are the application's own words


def build_intake(options: SanitizeOptions, personality: Personality | None) -> "Intake | None":
    """Return the intake of a route, or None if requests pass it unchanged."""
    return Intake(options, personality) if options.enabled or personality is not None else None


class Intake:
    """Sanitises the requests to a route, and puts the text of its personality before their messages."""

    def __init__(self, options: SanitizeOptions, personality: Personality | None) -> None:
        self._options = options
        self._text = None if personality is None else personality.text
        self._system = msgspec.json.encode({"role": "system", "content": self._text})

    def take(
        self, request: ChatRequest, *, by_caller: bool = True
    ) -> Steps[tuple[ChatRequest, tuple[str, ...]]]:
        """Return the request as the route sends it on, and the flags of a prompt injection in it.

        `by_caller`: the caller has written the question, not the service; then its length is bounded.
        Raises InvalidRequest, QuestionTooLong, TooLarge.
        """
        flags: tuple[str, ...] = ()
        if self._options.enabled:
            request, flags = yield from self._sanitised(request, by_caller=by_caller)
        return request if self._text is None else self._with_personality(request, self._text), flags

    def refuse(self, flags: Sequence[str]) -> None:
        """Raise SuspiciousInput if the route blocks requests with flags."""
        if self._options.injection == "block":
            raise SuspiciousInput(
                f"The request looks like a prompt injection ({', '.join(flags)}).",
                param="messages",
            )

    def _with_personality(self, request: ChatRequest, text: str) -> ChatRequest:
        others = memoryview(request.fields["messages"])[1:]  # not read: they may be large
        messages = Raw(b"".join((b"[", self._system, b",", others)))
        body = msgspec.structs.replace(
            request.body, messages=[Message("system", text), *request.body.messages]
        )
        return msgspec.structs.replace(request, body=body, fields={**request.fields, "messages": messages})

    def _sanitised(
        self, request: ChatRequest, *, by_caller: bool
    ) -> Steps[tuple[ChatRequest, tuple[str, ...]]]:
        raws, known = LIST.decode(request.fields["messages"]), list(request.body.messages)
        roles = [message.role for message in known]
        question = _last(roles, "user")
        first_new = _last(roles, "assistant") + 1  # the messages before have been looked at in their turn
        flags: dict[str, None] = {}
        changed, pace = False, StepSize()
        for index, role in enumerate(roles):
            if pace.is_over():
                yield
            if role not in CLEANED:
                continue
            message, texts = yield from _cleaned(raws[index], known[index], pace)
            if message is not None:
                changed, raws[index] = True, Raw(msgspec.json.encode(message))
                known[index] = _with_texts(known[index], texts)
            if index == question and by_caller:
                self._check_length(texts, index)
            if self._options.injection != "off" and index >= first_new and role in SCANNED:
                for text in texts:
                    flags |= dict.fromkeys((yield from scan_in_steps(text)))
        if changed:
            fields = {**request.fields, "messages": (yield from encode_list(raws))}
            body = msgspec.structs.replace(request.body, messages=known)
            request = msgspec.structs.replace(request, body=body, fields=fields)
        return request, tuple(sorted(flags))

    def _check_length(self, texts: Sequence[str], index: int) -> None:
        chars, chars_max = sum(map(len, texts)), self._options.question_chars_max
        if chars > chars_max:
            raise QuestionTooLong(
                f"The question has {chars:,} characters; this model takes {chars_max:,}.",
                param=f"messages[{index}].content",
            )


def _last(roles: Sequence[str], role: str) -> int:
    return max((index for index, one in enumerate(roles) if one == role), default=-1)


def _cleaned(raw: Raw, known: Message, pace: StepSize) -> Steps[tuple[JsonObject | None, list[str]]]:
    """Return the message with clean texts, None if they were clean; and the texts.

    Raises InvalidRequest, TooLarge.
    """
    is_list = isinstance(known.content, list)
    message: JsonObject = yield from decode_lazily(raw, LEVELS["messages"] - 1, pace)
    holders = _texts(message["content"], "text") if is_list else _texts([message], "content")
    texts, changed = [], False
    for holder, name in holders:
        if isinstance(holder[name], Raw) and memoryview(holder[name]).nbytes > TEXT_BYTES_MAX:
            raise TooLarge(f"A text is larger than {TEXT_BYTES_MAX:,} bytes.")
        before = yield from in_full(holder[name])
        holder[name] = after = yield from clean_in_steps(before, is_part=is_list)
        texts.append(after)
        changed = changed or after != before
    return message if changed else None, texts


def _texts(holders: Sequence[JsonObject], name: str) -> list[tuple[JsonObject, str]]:
    """Return the objects that hold a text under this name."""
    return [(holder, name) for holder in holders if isinstance(holder.get(name), str | Raw)]


def _with_texts(known: Message, texts: Sequence[str]) -> Message:
    """Return what the service reads of a message with other texts."""
    if not isinstance(known.content, list):
        return msgspec.structs.replace(known, content=texts[0])
    left = iter(texts)
    parts = [
        {**part, "text": next(left)} if isinstance(part.get("text"), str) else part for part in known.content
    ]
    return msgspec.structs.replace(known, content=parts)
