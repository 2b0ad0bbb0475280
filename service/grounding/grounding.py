"""Grounding of requests: the passages of a document are put before the messages, and the answer is checked.

    Grounding(document).ask(request)       the request as it is sent on
    GroundedQuestion                       the check of what is answered to it

A route whose personality has a document holds a Grounding; a conversation about a document has one, too.
"""

from typing import Self

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from dub5.service.errors import InvalidRequest
from dub5.service.grounding.answer import GroundedAnswer, GroundedStream, grounded_reply
from dub5.service.grounding.document_text import GroundingText, read_document
from dub5.service.grounding.model import GroundingReport
from dub5.service.model import ChatRequest, Chunks, Message, Reply
from dub5.service.providers.base import Unsupported
from dub5.service.providers.fields import is_meant
from dub5.service.providers.slices import Steps, in_turns
from dub5.service.providers.usage import texts_of

NEVER_WITH = ("tools", "functions", "logprobs", "top_logprobs", "audio", "modalities", "response_format", "n")
QUESTION_CHARS_MAX = 4_000  # of the question, as the check and the choice of passages read it


class GroundedQuestion:
    """A question about a document, whose answer is to be checked."""

    def __init__(self, document: GroundingText, question: str) -> None:
        self._answer = GroundedAnswer(document, question)

    @property
    def report(self) -> GroundingReport:
        """What became of the answer, once it has ended."""
        return self._answer.report

    def stream(self, source: Chunks) -> GroundedStream:
        """Return the stream of what may be told."""
        return GroundedStream(source, self._answer)

    async def reply(self, reply: Reply) -> Reply:
        """Return the reply with what may be told."""
        return await in_turns(grounded_reply(reply, self._answer))


class Grounding:
    """A document that questions are about."""

    def __init__(self, document: GroundingText) -> None:
        self.document = document

    @classmethod
    def of(cls, text: str) -> Steps[Self]:
        """Return the document with this text, in steps."""
        return cls((yield from read_document(text)))

    def ask(self, request: ChatRequest) -> tuple[ChatRequest, GroundedQuestion]:
        """Return the request with the passages before its messages, and its question.

        Raises InvalidRequest.
        """
        for name in NEVER_WITH:
            if name in request.fields and _is_meant(name, request.fields[name]):
                raise InvalidRequest(
                    f"{name}: cannot be used where answers are checked against a document: only text can be.",
                    param=name,
                )
        question = _question_of(request)[:QUESTION_CHARS_MAX]
        text = self.document.prompt(question)
        system = msgspec.json.encode({"role": "system", "content": text})
        others = memoryview(request.fields["messages"])[1:]  # not read: they may be large
        messages = Raw(b"".join((b"[", system, b",", others)))
        body = replace(request.body, messages=[Message("system", text), *request.body.messages])
        request = replace(request, body=body, fields={**request.fields, "messages": messages})
        return request, GroundedQuestion(self.document, question)


def _is_meant(name: str, raw: Raw) -> bool:
    try:
        return is_meant(name, raw)
    except Unsupported:
        return True


def _question_of(request: ChatRequest) -> str:
    """Return the last thing that a user says."""
    asked = (message for message in reversed(request.body.messages) if message.role == "user")
    message = next(asked, None)
    return "" if message is None else " ".join(texts_of(message.content))
