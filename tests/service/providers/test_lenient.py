"""Lenient about the form of events, never about ends: deviations drawn at random, in every dialect."""

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from dub5.service import clock
from dub5.service.model import Chunk
from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect, ProviderFault
from dub5.service.providers.finish import MEANINGS, NO_REASONS
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect
from tests.support import anthropic_events
from tests.support.dialect_requests import request
from tests.support.openai_events import DONE, STOP, USAGE, choice, event
from tests.support.world import payloads, text_of

OPENAI, MISTRAL = OpenAIDialect(100_000), MistralDialect(100_000)
ANTHROPIC = AnthropicDialect(100_000, api_version=None, max_tokens=4096)
WORDS = ("Hel", "lo", " you")
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CHUNKS = [event(**HEAD, choices=[choice({"content": word})]) for word in WORDS]
STREAM = [*CHUNKS, event(**HEAD, choices=[choice({}, "stop")]), USAGE, DONE]
BLOCKS = [
    anthropic_events.event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    for word in WORDS
]
MESSAGES = [anthropic_events.START, *BLOCKS, anthropic_events.STOP, anthropic_events.END]
DIALECTS: list[tuple[Dialect, list[bytes]]] = [(OPENAI, STREAM), (MISTRAL, STREAM), (ANTHROPIC, MESSAGES)]
SAYS_MORE = {"choices", "error", "usage", "object", "type", "message", "delta", "content_block", "index"}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(st.text(max_size=8).filter(lambda key: key not in SAYS_MORE), values, max_size=3)
kinds = st.sampled_from([{}, {"type": "ping"}, {"object": "keepalive"}, {"type": "response.in_progress"}])
flat = st.one_of(st.none(), st.booleans(), st.integers(), st.lists(st.integers(), max_size=2))
texts = st.one_of(
    st.sampled_from(["", " ", ": keepalive", ":", "ping", "PROCESSING", "[KEEPALIVE]", "null", '""']),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).filter(
        lambda text: not text.strip().startswith(("{", "[D", "[{"))
    ),
)
payload = st.one_of(
    texts, flat.map(json.dumps), st.builds(lambda kind, more: json.dumps(kind | more), kinds, objects)
)
names = st.sampled_from(["", "event: ping\n", "event: heartbeat\n", "id: 4\n", "retry: 9\n", ": x\n"])
nothing = st.builds(lambda name, data: f"{name}data: {data}\n\n".encode(), names, payload)
places = st.lists(st.tuples(st.integers(0, 9), nothing), min_size=1, max_size=4)


@pytest.fixture(autouse=True, scope="module")
def no_loop() -> Iterator[None]:
    """Readers take the date of an answer from the loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "wall", lambda: 1_763_700_000.0)
        yield


def read(dialect: Dialect, data: bytes, **fields: Any) -> list[Chunk]:
    """Read a stream as an attempt does, in pieces of odd size. Raises ProviderFault."""
    reader, chunks = dialect.stream(request(stream=True, **fields), "m"), []
    for at in range(0, len(data), 37):
        chunks += reader.feed(data[at : at + 37])
        if reader.fault is not None:
            raise reader.fault
    return chunks + reader.end()


def relayed(chunks: list[Chunk]) -> bytes:
    """Return what a client receives."""
    return b"".join(chunk.raw for chunk in chunks)


def as_sdk(data: bytes) -> Any:
    """Return the answer as OpenAI's own SDK puts it together."""
    state: Any = ChatCompletionStreamState()
    for one in payloads(data):
        state.handle_chunk(ChatCompletionChunk.construct(**one))
    return state.get_final_completion()


def with_added(stream: list[bytes], added: list[tuple[int, bytes]]) -> list[bytes]:
    """Return the stream with events put in at these places."""
    mixed = list(stream)
    for place, one in added:
        mixed.insert(min(place, len(mixed)), one)
    return mixed


class TestEventsThatSayNothing:
    @pytest.mark.parametrize(("dialect", "stream"), DIALECTS, ids=["openai", "mistral", "anthropic"])
    @given(added=places)
    @example(added=[(2, b'data: {"type":"ping"}\n\n'), (9, b"event: ping\ndata: {}\n\n")])
    @example(added=[(0, b"data: : keepalive\n\n"), (1, b"data:\n\n"), (5, b"data: {}\n\n")])
    @example(added=[(1, b'data: {"error":{},"x":1}\n\n'), (2, b'data: {"error":false}\n\n')])
    @example(added=[(1, b'data: {"choices":null}\n\n'), (2, b'data: {"choices":{}}\n\n')])
    def test_anywhere(self, dialect: Dialect, stream: list[bytes], added: list[tuple[int, bytes]]) -> None:
        """The answer is the same, and whole, wherever they stand; also as OpenAI's SDK reads it."""
        asked = {"stream_options": {"include_usage": True}}
        chunks = read(dialect, b"".join(with_added(stream, added)), **asked)
        plain = relayed(read(dialect, b"".join(stream), **asked))
        assert text_of(relayed(chunks)) == "".join(WORDS)
        seen, expected = as_sdk(relayed(chunks)), as_sdk(plain)
        assert seen.choices == expected.choices and seen.usage == expected.usage

    @pytest.mark.parametrize(("dialect", "stream"), DIALECTS, ids=["openai", "mistral", "anthropic"])
    @given(added=places, left=st.integers(0, 3), done=st.booleans())
    def test_they_are_no_end(
        self, dialect: Dialect, stream: list[bytes], added: list[tuple[int, bytes]], left: int, done: bool
    ) -> None:
        """A stream that stops before its finish stays a failure, whatever stands in it."""
        with pytest.raises(ProviderFault):
            read(dialect, b"".join(with_added(stream[:left], added)) + (DONE if done else b""))

    @pytest.mark.parametrize(
        "error",
        [
            b'data: {"object":"error","message":"no"}\n\n',
            b'data: {"type":"error","message":"no"}\n\n',
            b'event: error\ndata: {"detail":"no"}\n\n',
            b"event: error\ndata: overloaded\n\n",
            b'data: {"error":"no"}\n\n',
            b'data: {"error":{"code":0,"message":"no"}}\n\n',
        ],
    )
    def test_errors_say_something(self, error: bytes) -> None:
        """An error is no event to skip, however it is written."""
        with pytest.raises(ProviderFault, match="error_event"):
            read(OPENAI, CHUNKS[0] + error + STOP + DONE)


class TestIndexes:
    @pytest.mark.parametrize("index", [None, 0, 0.0, "0", "", False])
    def test_the_first_choice(self, index: object) -> None:
        """However the first choice's index is written, its finish ends its answer."""
        chunks = read(OPENAI, event(choices=[choice({"content": "Hi"}) | {"index": index}]) + STOP + DONE)
        assert text_of(relayed(chunks)) == "Hi"

    @pytest.mark.parametrize("index", ["x", -1.5, {"a": 1}, [1], "9" * 5000])
    def test_unreadable(self, index: object) -> None:
        """A choice that nobody can number neither costs a good answer nor ends one."""
        odd = event(choices=[choice({"content": "Hi"}) | {"index": index}])
        assert text_of(relayed(read(OPENAI, CHUNKS[0] + odd + STOP + DONE))) == "HelHi"
        with pytest.raises(ProviderFault, match="truncated"):
            read(OPENAI, CHUNKS[0] + event(choices=[choice({}, "stop") | {"index": index}]) + DONE)


class TestUsage:
    @pytest.mark.parametrize("dialect", [OPENAI, MISTRAL])
    @pytest.mark.parametrize("asked", [True, False])
    @given(beside=st.lists(st.integers(0, 5), max_size=3), finish=st.booleans(), own=st.integers(0, 2))
    def test_once(self, dialect: Dialect, asked: bool, beside: list[int], finish: bool, own: int) -> None:
        """However often a provider tells usage, the client gets it once, at the end, and only if it asked."""
        counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "extra": {"cached": 1}}
        said = [
            event(**HEAD, choices=[choice({"content": "a"})], **({"usage": counts} if at in beside else {}))
            for at in range(6)
        ]
        said.append(
            event(**HEAD, choices=[choice({}, "stop")], **({"usage": counts} if finish or not own else {}))
        )
        said += [event(**HEAD, choices=[], usage=counts), event(usage=counts)][:own]
        options = {"stream_options": {"include_usage": True}} if asked else {}
        chunks = read(dialect, b"".join([*said, DONE]), **options)
        told = [one for one in payloads(relayed(chunks)) if one.get("usage")]
        assert len(told) == asked
        assert all(one["choices"] == [] and one["usage"] == counts for one in told)
        counted = [chunk.usage for chunk in chunks if chunk.usage is not None]
        assert counted[-1].total_tokens == 3 and not counted[-1].estimated

    def test_after_the_finish_without_choices(self) -> None:
        """The count of an event without choices is taken, though it comes after the finish."""
        chunks = read(OPENAI, CHUNKS[0] + STOP + event(usage={"prompt_tokens": 7, "completion_tokens": 1}))
        assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 7

    def test_floats(self) -> None:
        """Counts in floats are counts."""
        counts = {"prompt_tokens": 7.0, "completion_tokens": 1.0, "total_tokens": 8.0}
        chunks = read(OPENAI, CHUNKS[0] + STOP + event(choices=[], usage=counts))
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.total_tokens, chunks[-1].usage.estimated) == (8, False)


class TestFields:
    @pytest.mark.parametrize("name", ["refusal", "reasoning", "reasoning_content", "tool_calls", "audio"])
    @given(value=values)
    @example(value=False)
    @example(value={})
    @example(value={"text": "Hm"})
    def test_of_any_type(self, name: str, value: object) -> None:
        """A field beside the content costs no answer, whatever its type."""
        delta = {"content": "Hi", name: value}
        stream = event(choices=[choice(delta)]) + STOP + DONE
        assert text_of(relayed(read(OPENAI, stream))) == "Hi"
        body = {"choices": [{"index": 0, "message": delta, "finish_reason": "stop"}]}
        assert OPENAI.answer(msgspec.json.encode(body), request())

    @pytest.mark.parametrize("empty", [{}, "", False, None, {"message": "", "code": None}])
    def test_an_empty_error(self, empty: object) -> None:
        """An error without anything in it is none."""
        stream = event(choices=[choice({"content": "Hi"})], error=empty) + STOP + DONE
        assert text_of(relayed(read(OPENAI, stream))) == "Hi"
        body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "error": empty}
        assert OPENAI.answer(msgspec.json.encode(body), request())

    @pytest.mark.parametrize("empty", [[], "", None, False])
    def test_an_empty_delta(self, empty: object) -> None:
        """Some servers write an empty list where an object without fields is meant."""
        last = event(choices=[{"index": None, "delta": empty, "finish_reason": "stop"}])
        assert read(OPENAI, CHUNKS[0] + last)[0].raw == CHUNKS[0]

    @pytest.mark.parametrize("name", ["audio", "images", "reasoning_details"])
    def test_content_of_other_kinds(self, name: str) -> None:
        """Sound and pictures are an answer, although there is no text."""
        part = {"content": None, name: [{"data": "AAAA"}]}
        chunks = read(OPENAI, event(choices=[choice(part)]) + STOP + DONE)
        assert chunks[0].has_content
        body = {"choices": [{"index": 0, "message": part, "finish_reason": "stop"}]}
        assert OPENAI.answer(msgspec.json.encode(body), request())

    @pytest.mark.parametrize("content", [5, True, {"text": "Hi"}])
    def test_content_that_no_client_can_read(self, content: object) -> None:
        """The answer itself must be a text or parts."""
        with pytest.raises(ProviderFault, match="garbled"):
            read(OPENAI, event(choices=[choice({"content": content})]) + STOP + DONE)

    def test_a_mark_before_the_json(self) -> None:
        """A byte order mark before a JSON answer is not relayed."""
        body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"total_tokens":1}}'
        assert OPENAI.answer(b"\xef\xbb\xbf" + body, request()).body == body


class TestFinishReasons:
    @given(reason=st.text(min_size=1, max_size=12) | st.sampled_from(["abort", "network_error", "OTHER"]))
    @example("insufficient_system_resource")
    def test_unknown(self, reason: str) -> None:
        """A reason outside the list is no end, in any dialect, streamed or not."""
        if reason.lower() in MEANINGS.keys() | NO_REASONS:
            return
        body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": reason}]}
        message = {"content": [{"type": "text", "text": "Hi"}], "stop_reason": reason}
        last = anthropic_events.event("message_delta", delta={"stop_reason": reason})
        tries: list[Callable[[], object]] = [
            lambda: OPENAI.answer(msgspec.json.encode(body), request()),
            lambda: ANTHROPIC.answer(msgspec.json.encode(message), request()),
            lambda: read(OPENAI, CHUNKS[0] + event(choices=[choice({}, reason)]) + DONE),
            lambda: read(MISTRAL, CHUNKS[0] + event(choices=[choice({}, reason)]) + DONE),
            lambda: read(ANTHROPIC, b"".join([*MESSAGES[:4], last, MESSAGES[-1]])),
        ]
        for attempt in tries:
            with pytest.raises(ProviderFault, match="error"):
                attempt()

    @pytest.mark.parametrize("reason", ["eos", "STOP", "MAX_TOKENS", "end_turn", "SAFETY"])
    def test_other_words_for_a_whole_answer(self, reason: str) -> None:
        """What other servers write for OpenAI's reasons counts, and is relayed as it came."""
        chunks = read(OPENAI, CHUNKS[0] + event(choices=[choice({}, reason)]) + DONE)
        assert payloads(relayed(chunks))[-1]["choices"][0]["finish_reason"] == reason

    @pytest.mark.parametrize("none", ["", "null", "None", False, 0, None])
    def test_none_yet(self, none: object) -> None:
        """A reason that is not there yet is no end, and no failure."""
        first = event(choices=[choice({"content": "Hi"}) | {"finish_reason": none}])
        assert text_of(relayed(read(OPENAI, first + STOP + DONE))) == "Hi"
        with pytest.raises(ProviderFault, match="truncated"):
            read(OPENAI, first + DONE)


class TestContentAfterAFinish:
    every: ClassVar = [event(**HEAD, choices=[choice({"content": word}, "stop")]) for word in WORDS]

    def test_in_every_chunk(self) -> None:
        """The answer is whole at `[DONE]`; before it, not even the finish is believed."""
        reader = OPENAI.stream(request(stream=True), "m")
        for one in self.every:
            reader.feed(one)
            assert not reader.finished
        reader.feed(DONE)
        assert reader.finished and reader.ended

    @pytest.mark.parametrize(
        "before", [[], [event(**HEAD, choices=[choice({"role": "assistant"}, "length")])]]
    )
    def test_clients_hear_of_the_finish_last(self, before: list[bytes]) -> None:
        """Many clients stop reading at a finish reason: it is relayed after the last word, and once."""
        asked = {"stream_options": {"include_usage": True}}
        stream = [*before, *self.every, event(**HEAD, choices=[], usage={"prompt_tokens": 1}), DONE]
        chunks = [one["choices"] for one in payloads(relayed(read(OPENAI, b"".join(stream), **asked)))]
        reasons = [choices[0]["finish_reason"] for choices in chunks[:-1]]
        assert reasons == [None] * (len(reasons) - 1) + ["stop"]
        assert chunks[-2] == [{"index": 0, "delta": {}, "finish_reason": "stop"}] and chunks[-1] == []

    @given(words=st.integers(2, 3))
    def test_without_done(self, words: int) -> None:
        """A contradicted finish and the end of the bytes are no proof: the answer may have been cut."""
        with pytest.raises(ProviderFault, match="truncated"):
            read(OPENAI, b"".join(self.every[:words]))

    def test_a_finish_that_nothing_follows(self) -> None:
        """One finish beside the last content is an end, with or without `[DONE]`."""
        for end in (DONE, b""):
            assert text_of(relayed(read(OPENAI, CHUNKS[0] + self.every[1] + end))) == "Hello"

    def test_content_last(self) -> None:
        """Where the last content has no finish, `[DONE]` alone ends nothing."""
        with pytest.raises(ProviderFault, match="truncated"):
            read(OPENAI, self.every[0] + STOP + CHUNKS[1] + DONE)

    @pytest.mark.parametrize(
        "after",
        [choice({"content": "lo"}, "abort"), choice({}, "abort"), choice({"content": 5}), {"delta": "lo"}],
    )
    def test_what_takes_back_a_finish(self, after: dict[str, object]) -> None:
        """A chunk after a finish that fails is no noise after a whole answer: it takes back the finish."""
        reader = OPENAI.stream(request(stream=True), "m")
        reader.feed(CHUNKS[0] + STOP)
        assert reader.finished
        reader.feed(event(choices=[after]) + STOP + DONE)
        assert reader.fault is not None and not reader.finished

    def test_messages(self) -> None:
        """In the Messages dialect, too, a stop reason counts only after the last content."""
        with pytest.raises(ProviderFault, match="truncated"):
            read(ANTHROPIC, b"".join([*MESSAGES[:3], anthropic_events.STOP, MESSAGES[3], MESSAGES[-1]]))

    def test_fewer_choices_than_asked(self) -> None:
        """A provider that ignores `n` is believed at the end of its stream, and not before."""
        reader = OPENAI.stream(request(stream=True, n=2), "m")
        reader.feed(CHUNKS[0] + STOP)
        assert not reader.finished
        reader.feed(DONE)
        assert reader.end() and reader.finished


class TestMessages:
    fields = st.sampled_from(
        ["id", "model", "content", "usage", "role", "type", "stop_sequence", "container"]
    )

    @given(name=fields, value=values)
    @example(name="usage", value=[])
    @example(name="type", value=None)
    def test_odd_fields_of_the_message(self, name: str, value: object) -> None:
        """What is only looked at may be of any type in the Messages dialect, too."""
        first = anthropic_events.event("message_start", message={"id": "m", "usage": {}} | {name: value})
        answer = relayed(read(ANTHROPIC, b"".join([first, *MESSAGES[1:]])))
        assert text_of(answer) == "".join(WORDS)
        assert all(isinstance(one["model"], str) for one in payloads(answer))
        whole = {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"} | {name: value}
        if name != "content" and value != "error":
            reply = json.loads(ANTHROPIC.answer(json.dumps(whole).encode(), request()).body)
            assert reply["choices"][0]["message"]["content"] == "Hi"
            assert isinstance(reply["id"], str) and isinstance(reply["model"], str)

    @pytest.mark.parametrize("name", ["text", "thinking", "partial_json"])
    @pytest.mark.parametrize("value", [5, True, ["Hi"], {"text": "Hi"}])
    def test_content_that_no_client_can_read(self, name: str, value: object) -> None:
        """The answer itself must be a text."""
        odd = anthropic_events.event("content_block_delta", index=0, delta={"type": "x", name: value})
        with pytest.raises(ProviderFault, match="garbled"):
            read(ANTHROPIC, b"".join([*MESSAGES[:2], odd, *MESSAGES[2:]]))


class TestToolCalls:
    @pytest.mark.parametrize("dialect", [OPENAI, MISTRAL])
    @given(calls=st.integers(1, 3), together=st.booleans(), ids=st.booleans(), index=st.none())
    def test_without_index(
        self, dialect: Dialect, calls: int, together: bool, ids: bool, index: None
    ) -> None:
        """OpenAI's SDK puts calls together by their index; so each gets one, over all chunks."""
        said: list[dict[str, object]] = [
            {"type": "function", "function": {"name": "f", "arguments": f'{{"n":{at}}}'}, "index": index}
            | ({"id": f"call{at:05}"} if ids else {"id": ""})
            for at in range(calls)
        ]
        groups = [said] if together else [[call] for call in said]
        stream = [event(**HEAD, choices=[choice({"tool_calls": group})]) for group in groups]
        finish = event(**HEAD, choices=[choice({}, "tool_calls")])
        answer = as_sdk(relayed(read(dialect, b"".join([*stream, finish, DONE]))))
        heard = [call.function.arguments for call in answer.choices[0].message.tool_calls]
        assert heard == [f'{{"n":{at}}}' for at in range(calls)]

    def test_pieces_without_index(self) -> None:
        """Pieces without index, id and name belong to the call before them."""
        pieces = [
            {"id": "a", "function": {"name": "f", "arguments": '{"x"'}},
            {"function": {"arguments": ":1}"}},
            {"id": "b", "function": {"name": "g", "arguments": "{"}},
            {"id": "b", "function": {"arguments": "}"}},
        ]
        stream = [event(**HEAD, choices=[choice({"tool_calls": [piece]})]) for piece in pieces]
        finish = event(**HEAD, choices=[choice({}, "tool_calls")])
        answer = as_sdk(relayed(read(OPENAI, b"".join([*stream, finish, DONE]))))
        heard = [(c.function.name, c.function.arguments) for c in answer.choices[0].message.tool_calls]
        assert heard == [("f", '{"x":1}'), ("g", "{}")]

    def test_with_index(self) -> None:
        """A chunk whose calls have their index is relayed as it came."""
        one = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[ {"index":0,"id":"a"} ]}}]}\n\n'
        assert read(OPENAI, one + STOP)[0].raw == one
