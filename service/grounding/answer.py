"""A grounded answer: what comes from a provider goes out sentence by sentence, once it has been checked.

    GroundedAnswer   text in, text out; the report at its end
    GroundedStream   the same for the chunks of a stream
    grounded_reply   the same for a chat.completion

Only text of the first choice goes out. Reasoning, and whatever else a provider adds, has not been checked.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dub5.service.grounding.check import StatementFinding
from dub5.service.grounding.document_text import GroundingText
from dub5.service.grounding.languages import detect
from dub5.service.grounding.model import GroundingReport, GroundingSource
from dub5.service.grounding.own_texts import own_text
from dub5.service.grounding.sentences import SENTENCE_CHARS_MAX, SentenceSplitter
from dub5.service.model import Chunk, Chunks, Reply, Usage
from dub5.service.providers.finish import choice_number
from dub5.service.providers.openai import sse_event, sse_payload
from dub5.service.providers.slices import Steps
from dub5.service.providers.usage import texts_of

SLICE_CHARS = 8 * 1024
CUT_SHORT = ("length", "content_filter")
_HEAD = ("id", "created", "model", "system_fingerprint", "degraded")
_WHOLE = re.compile(r".*(?:[.!?\u2026][\"'\u201d\u00bb)*_]*|\])\s*", re.DOTALL)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


class GroundedAnswer:
    """The text of one answer, checked as it comes."""

    def __init__(self, document: GroundingText, question: str) -> None:
        self._document = document
        self._question = question
        self._splitter = SentenceSplitter(document.checker.language)
        self._pending = ""  # said without words ("It says:"), until something is told
        self._cited: dict[int, None] = {}
        self._withheld = 0
        self._is_told = self._is_not_told = self._is_in_long = False

    @property
    def report(self) -> GroundingReport:
        """What became of the answer so far."""
        passages = [self._document.passages[number - 1] for number in self._cited]
        sources = tuple(GroundingSource(one.number, one.text, one.page) for one in passages)
        return GroundingReport(self._is_told, sources, self._withheld)

    def feed(self, text: str) -> str:
        """Add text. Return what of it may be told now."""
        return "".join(map(self._checked, self._splitter.feed(text)))

    def end(self, finish: str | None) -> str:
        """End the answer. Return the rest, and what the service says.

        A sentence that was cut off is not told.
        """
        rest, is_cut = self._splitter.end(), finish in CUT_SHORT
        told = ""
        if rest.strip() and (not is_cut or _WHOLE.fullmatch(rest)):
            told = self._checked(rest)
            is_cut = False
        own = own_text(
            detect(self._question, self._document.checker.language.code),
            told=self._is_told,
            withheld=self._withheld,
            not_told=self._is_not_told,
            cut=is_cut,
            topics=self._document.topics,
        )
        between = "\n\n" if own and self._is_told else ""
        return f"{told}{between}{own}"

    def _checked(self, sentence: str) -> str:
        """Return a sentence if it may be told, with what was said before it without words."""
        if len(sentence) > SENTENCE_CHARS_MAX or self._is_in_long:
            self._withheld += not self._is_in_long
            self._is_in_long = len(sentence) > SENTENCE_CHARS_MAX
            return ""
        checked = self._document.checker.check(sentence, self._question)
        match checked.finding:
            case StatementFinding.TOLD:
                self._cited |= dict.fromkeys(checked.cited)
                text, self._pending = self._pending + sentence, ""
                text = text if self._is_told else text.lstrip()
                self._is_told = True
                return text
            case StatementFinding.NOTHING:
                if sentence.rstrip().endswith(":"):
                    self._pending += sentence
            case StatementFinding.NOT_TOLD:
                self._is_not_told = True
            case StatementFinding.WITHHELD:
                self._withheld += 1
        return ""


class GroundedStream:
    """A stream whose text is checked. Its end is held until all is checked; then it carries the report."""

    def __init__(self, source: Chunks, answer: GroundedAnswer) -> None:
        self.answer = answer
        self._source = source
        self._head: dict[str, Any] = {}
        self._has_begun = self._is_over = False
        self._index: int | None = None  # of the choice that is read: the first one
        self._finish: str | None = None
        self._tail: list[Chunk] = []  # the usage

    @property
    def usage(self) -> Usage | None:
        """The usage that the source counted."""
        return self._source.usage

    async def read(self) -> list[Chunk]:
        """Return chunks of what may be told; none at the proper end. Raises what the source raises."""
        if self._is_over:
            return []
        chunks = await self._source.read()
        if not chunks:
            self._is_over = True
            return list(self._end())
        text = "".join(self._text_of(chunk) for chunk in chunks)
        told = self.answer.feed(text) if text else ""
        found = [] if self._has_begun else [self._chunk({"role": "assistant", "content": ""})]
        self._has_begun = True
        if told:
            found.append(self._chunk({"content": told}))
        return found or [Chunk(b"")]

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()

    def _text_of(self, chunk: Chunk) -> str:
        """Return the text of a chunk, and note the rest of what it says."""
        part = _decoded(sse_payload(chunk.raw)) if chunk.raw else None
        if part is None:
            return ""
        if not self._head:
            self._head = {name: part[name] for name in _HEAD if name in part}
        choices = part.get("choices")
        if not choices and part.get("usage"):
            usage = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": part["usage"]}
            self._tail = [Chunk(sse_event(msgspec.json.encode(usage)), usage=chunk.usage)]
        text = ""
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and self._is_first(choice):
                text += _said(choice.get("delta"))
                if isinstance(finish := choice.get("finish_reason"), str):
                    self._finish = finish
        return text

    def _is_first(self, choice: Mapping[str, Any]) -> bool:
        index = choice_number(choice.get("index")) or 0
        if self._index is None:
            self._index = index
        return index == self._index

    def _end(self) -> Iterator[Chunk]:
        if text := self.answer.end(self._finish):
            yield self._chunk({"content": text})
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._finish or "stop"}
        yield self._event(choice, grounding=self.answer.report)
        yield from self._tail

    def _chunk(self, delta: Mapping[str, Any]) -> Chunk:
        return self._event({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})

    def _event(self, choice: Mapping[str, Any], **more: Any) -> Chunk:
        body = {**self._head, "object": "chat.completion.chunk", "choices": [choice], "usage": None, **more}
        raw = sse_event(msgspec.json.encode(body))
        return Chunk(raw, bool(choice["delta"].get("content")), choice["finish_reason"])


def grounded_reply(reply: Reply, answer: GroundedAnswer) -> Steps[Reply]:
    """Return a chat.completion with the text that may be told, and the report, in steps."""
    whole = _decoded(reply.body) or {}
    choices = whole.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    text, finish, told = _said(choice.get("message")), choice.get("finish_reason"), list[str]()
    for start in range(0, len(text), SLICE_CHARS):
        told.append(answer.feed(text[start : start + SLICE_CHARS]))
        yield
    told.append(answer.end(finish if isinstance(finish, str) else None))
    message = {"role": "assistant", "content": "".join(told), "refusal": None}
    only = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish or "stop"}
    head = {name: whole[name] for name in _HEAD if name in whole}
    body = {
        **head,
        "object": "chat.completion",
        "choices": [only],
        "usage": whole.get("usage"),
        "grounding": answer.report,
    }
    return Reply(msgspec.json.encode(body), reply.usage)


def _decoded(payload: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(payload)
    except _UNREADABLE:
        return None
    return value if isinstance(value, dict) else None


def _said(message: object) -> str:
    """Return the text of a message or of a delta."""
    if not isinstance(message, dict):
        return ""
    return "".join([*texts_of(message.get("content")), *texts_of(message.get("refusal"))])
