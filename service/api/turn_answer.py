"""What an answer of the gateway says: its text, its end, its tokens. Read here, not on its hot path."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from dub5.service.conversation.model import CountedBy, TokenCount, estimated
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.providers.openai import sse_payload
from dub5.service.providers.usage import token_count


class _Details(Struct):
    reasoning_tokens: Any = 0


class _Usage(Struct):
    prompt_tokens: Any = 0
    completion_tokens: Any = 0
    completion_tokens_details: _Details | None = None
    estimated: Any = False


class _Said(Struct):
    """A delta of a stream, or a whole message."""

    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None
    index: int = 0


class _Part(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_DECODE = msgspec.json.Decoder(_Part)


class TurnAnswer:
    """The answer of a turn as it comes."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self.texts: list[str] = []
        self._usage: _Usage | None = None

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self.texts)

    def add_events(self, events: Iterable[bytes]) -> str:
        """Add events of a stream; return their text."""
        texts = [self.add(sse_payload(event)) for event in events if event]
        return "".join(texts)

    def add(self, payload: bytes) -> str:
        """Add a chunk, or a whole chat.completion; return its text. What cannot be read holds none."""
        try:
            part = _DECODE.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        text = ""
        for choice in part.choices[:1]:
            said = choice.delta or choice.message or _Said()
            text = (said.content or "") + (said.refusal or "")
            self.finish = choice.finish_reason or self.finish
        if text:
            self.texts.append(text)
        self._usage = part.usage or self._usage
        return text

    @property
    def prompt_tokens(self) -> int | None:
        """The provider's count of the whole prompt, None if it did not say."""
        usage = self._usage
        return token_count(usage.prompt_tokens) or None if usage and not usage.estimated else None

    def count(self) -> TokenCount:
        """Return the tokens of the text: the provider's count without its reasoning, or an estimate."""
        usage = self._usage
        if usage is not None and not usage.estimated:
            details = usage.completion_tokens_details
            hidden = token_count(details.reasoning_tokens) if details else 0
            if (shown := token_count(usage.completion_tokens) - hidden) > 0:
                return TokenCount(shown, CountedBy.PROVIDER)
        return estimated(self.text)

    def question_count(self, turn: OpenTurn, target: str) -> TokenCount | None:
        """Return the tokens of the question, where all else of the prompt is known; None elsewhere."""
        prompt, known = self.prompt_tokens, turn.known_tokens
        if prompt is None or known is None or turn.known_target not in (None, target) or prompt <= known:
            return None
        return TokenCount(prompt - known, CountedBy.PROVIDER)
