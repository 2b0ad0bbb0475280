"""What a good model answers: a text, JSON by a schema, or calls of the tools that fit the prompt.

wanted: which tools there are, whether one must be called, which form the answer has    (of each dialect)
compose(parsed, context, wanted, tokens_max)   the answer as tokens
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from json import JSONDecoder
from typing import Any

import msgspec

from dub5.simulators.answers import answer_text, pieces
from dub5.simulators.personas.base import ParsedRequest, PersonaContext, Refusal
from dub5.simulators.personas.flashcards import flashcards
from dub5.simulators.personas.passages import told_of_passages
from dub5.simulators.schema_values import NoValue, value_of

JSON_IN_TEXT = JSONDecoder()
JSON_PIECE = re.compile(r".{1,8}", re.DOTALL)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
NAME_WORD_MIN, DESCRIPTION_WORD_MIN = 3, 5
STEM_CHARS = 5
COMMON_WORDS = frozenset(
    [
        "about",
        "after",
        "and",
        "answer",
        "call",
        "find",
        "for",
        "function",
        "get",
        "given",
        "return",
        "returns",
    ]
    + ["set", "should", "the", "their", "there", "these", "tool", "use", "using", "value", "values"]
    + ["where", "which", "with", "would", "you", "your"]
)
ANY_JSON: dict[str, Any] = {"type": "object"}
SCHEMA_KEY = '"properties"'
SCHEMA_TRIES_MAX = 50


@dataclass(frozen=True, slots=True)
class SimulatedTool:
    """A tool that the request offers."""

    name: str
    description: str
    schema: object

    def fits(self, prompt: str) -> bool:
        """Return whether the prompt has a word of the tool's name or description."""
        words = _words(self.name, NAME_WORD_MIN) | _words(self.description, DESCRIPTION_WORD_MIN)
        return bool(words & _words(prompt, NAME_WORD_MIN))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The form of the answer.

    `must_call`: a text is not enough. `parallel`: several tools may be called at once. `schema`: of an answer
    in JSON; None for a text.
    """

    tools: Sequence[SimulatedTool] = ()
    must_call: bool = False
    parallel: bool = True
    schema: object = None

    def called(self, prompt: str) -> Sequence[SimulatedTool]:
        """Return the tools that a good model calls for this prompt."""
        fitting = [tool for tool in self.tools if tool.fits(prompt)]
        if self.must_call and not fitting:
            fitting = list(self.tools)[:1]
        return fitting if self.parallel else fitting[:1]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; its arguments as tokens."""

    name: str
    tokens: Sequence[str]

    @property
    def arguments(self) -> str:
        """The arguments as JSON."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True)
class TokenizedAnswer:
    """The answer as tokens, or as calls of tools. `whole` is false if `max_tokens` cut it short."""

    tokens: Sequence[str]
    whole: bool
    calls: Sequence[ToolCall] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.tokens)

    @property
    def count(self) -> int:
        """The number of tokens."""
        return len(self.tokens) + sum(len(call.tokens) for call in self.calls)


def schema_in(text: str) -> object:
    """Return the JSON schema that a prompt holds, as many clients write it there; None if it holds none."""
    if SCHEMA_KEY not in text or "json" not in text.lower():
        return None
    for found in islice(re.finditer(r"\{", text), SCHEMA_TRIES_MAX):
        try:
            value, _ = JSON_IN_TEXT.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "properties" in value:
            return value
    return None


def compose(
    parsed: ParsedRequest, context: PersonaContext, wanted: Wanted, tokens_max: int | None
) -> TokenizedAnswer:
    """Return the answer in at most `tokens_max` tokens. Raises Refusal.

    Its text proves itself, but for flashcards and answers about passages, which quote what they are made of.
    """
    profile = context.profile
    if profile.saying:
        return _cut(pieces(profile.saying), tokens_max)
    if (cards := flashcards(parsed.prompt)) is not None:
        return _cut(pieces(cards), tokens_max)
    if (told := told_of_passages(parsed.text, parsed.prompt)) is not None:
        return _cut(pieces(told), tokens_max)
    text = answer_text(profile.name, parsed.prompt, profile.words)
    if called := wanted.called(parsed.prompt):
        return _calls(called, text, tokens_max)
    if wanted.schema is not None:
        return _cut(_json_tokens(wanted.schema, text, "response_format"), tokens_max)
    return _cut(pieces(text), tokens_max)


def _calls(called: Sequence[SimulatedTool], text: str, tokens_max: int | None) -> TokenizedAnswer:
    calls: list[ToolCall] = []
    for tool in called:
        if tokens_max is not None and tokens_max < 1:
            return TokenizedAnswer((), whole=False, calls=calls)
        tokens = _json_tokens(tool.schema, text, tool.name)
        calls.append(ToolCall(tool.name, tokens[:tokens_max]))
        if tokens_max is not None:
            tokens_max -= len(tokens)
    return TokenizedAnswer((), whole=tokens_max is None or tokens_max >= 0, calls=calls)


def _cut(tokens: Sequence[str], tokens_max: int | None) -> TokenizedAnswer:
    whole = tokens_max is None or len(tokens) <= tokens_max
    return TokenizedAnswer(tokens if whole else tokens[:tokens_max], whole)


def _json_tokens(schema: object, text: str, name: str) -> list[str]:
    try:
        return JSON_PIECE.findall(msgspec.json.encode(value_of(schema, text)).decode())
    except (NoValue, msgspec.MsgspecError, OverflowError):
        raise Refusal(400, f"Invalid schema for {name!r}: no value was found for it.", param=name) from None


def _words(text: str, chars_min: int) -> set[str]:
    """Return the stems of the telling words: `calculator` and `calculate` are one."""
    words = {word.lower() for word in WORD.findall(text)} - COMMON_WORDS
    return {word.rstrip("s")[:STEM_CHARS] for word in words if len(word) >= chars_min}
