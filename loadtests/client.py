"""The load client: sends one chat request over a real connection, times each piece, and judges the end.

It uses only the standard library: `HTTPResponse.read1` returns at once what has arrived. (Locust's own client
waits until a block is full: it would report 800 ms for a first token that came after 50.) A call blocks, so
it needs a thread, or a greenlet under gevent, which patches the sockets.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dub5.chaos.run.judge import label_of, mislabelled
from dub5.loadtests.carriers import IDLE_S, READ_BYTES, SILENCE_S
from dub5.loadtests.events import sse_data
from dub5.loadtests.mix import RequestKind
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.simulators.answers import Proof

HONEST = (SampleOutcome.COMPLETE, SampleOutcome.DEGRADED, SampleOutcome.FAILED)

JudgeText = Callable[[str, str], Proof]
"""(text, prompt) -> whether the text is the whole answer to the prompt."""


class LoadClient:
    """A client of one service. Connections are kept alive; one is open for each concurrent request."""

    def __init__(
        self, url: str, judge: JudgeText, *, key: str | None = None, began_s: float | None = None
    ) -> None:
        self._parts = urlsplit(url)
        self._judge = judge
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._idle: deque[tuple[float, HTTPConnection]] = deque()
        self.began_s = time.perf_counter() if began_s is None else began_s

    def now_s(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self.began_s

    def ask(self, kind: RequestKind, body: dict[str, Any], intended_s: float) -> Sample:
        """Send a request now and return its sample. Never raises for what the service or the network does."""
        exchange = TimedExchange(self, kind, intended_s)
        connection = self._connection()
        try:
            path = self._parts.path.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
            connection.request("POST", path, msgspec.json.encode(body), self._headers)
            connection.sock.settimeout(kind.leave_after_s or SILENCE_S)
            response = connection.getresponse()
            exchange.on_head(response)
            outcome, why = exchange.read(response, body["messages"][-1]["content"], self._judge)
        except (OSError, HTTPException) as error:
            outcome, why = exchange.on_error(error)
        if outcome in HONEST and response.isclosed():
            self._idle.append((self.now_s(), connection))
        else:
            connection.close()
        return exchange.sample(outcome, why)

    def _connection(self) -> HTTPConnection:
        while self._idle:
            since_s, connection = self._idle.pop()
            if self.now_s() - since_s < IDLE_S:
                return connection
            connection.close()
        return HTTPConnection(self._parts.hostname or "", self._parts.port or 80, timeout=SILENCE_S)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[1].close()


class ClientLeft(Exception):
    """The client has left, as planned."""


class TimedExchange:
    """One request under way, with its times."""

    def __init__(self, client: LoadClient, kind: RequestKind, intended_s: float) -> None:
        self._now_s = client.now_s
        self._kind = kind
        self._intended_s = intended_s
        self._started_s = self._piece_s = client.now_s()
        self._first_token_s: float | None = None
        self._longest_gap_s = 0.0
        self._target = ""
        self._cached = False
        self._labels: list[str | None] = []  # the source of a fallback answer, from the head and each event

    def on_head(self, response: HTTPResponse) -> None:
        """Note the headers."""
        self._target = response.getheader("x-dub5-target", "")
        self._cached = response.getheader("x-dub5-cache") == "hit"
        if source := response.getheader("x-dub5-degraded"):
            self._labels.append(source)

    def on_error(self, error: Exception) -> tuple[SampleOutcome, str]:
        """Return the outcome of a failed connection, or of a client that left while it waited."""
        if self._kind.leave_after_s is not None and isinstance(error, TimeoutError):
            return SampleOutcome.CANCELLED, ""
        return SampleOutcome.BROKEN, f"{type(error).__name__}: {error}"

    def read(self, response: HTTPResponse, prompt: str, judge: JudgeText) -> tuple[SampleOutcome, str]:
        """Read the body to its end, or until it is time to leave. Return the outcome and its reason."""
        if response.status != 200:
            return _error(response.status, response.read())
        try:
            text, problem = self._stream(response) if self._kind.stream else self._whole(response.read())
        except ClientLeft:
            return SampleOutcome.CANCELLED, ""
        except ErrorInStream as cut:
            return SampleOutcome.CUT, cut.code
        if not self._kind.stream:
            self._first_token_s = self._now_s()
        if problem:
            return SampleOutcome.DISHONEST, problem
        proof = judge(text, prompt)
        if any(self._labels):
            lie = mislabelled(self._labels, text, proof)
            return (SampleOutcome.DISHONEST, lie) if lie else (SampleOutcome.DEGRADED, self._labels[0] or "")
        return (
            (SampleOutcome.COMPLETE, "")
            if proof is Proof.WHOLE
            else (SampleOutcome.DISHONEST, f"the text is {proof.value}")
        )

    def _whole(self, body: bytes) -> tuple[str, str]:
        """Return the text of a JSON answer, and what is wrong with it."""
        try:
            answer = _CHUNK.decode(body)
            (choice,) = answer.choices
        except (msgspec.DecodeError, ValueError) as error:
            return "", f"not a chat completion: {error}"
        self._labels.append(label_of(answer.degraded))
        return choice.message.content or "", "" if choice.finish_reason else "ended without finish_reason"

    def _stream(self, response: HTTPResponse) -> tuple[str, str]:
        """Return the text, and what is wrong with the stream. Raises ErrorInStream for an error event."""
        text, finished, done = "", False, False
        for event in sse_data(self._pieces(response)):
            if event == b"[DONE]":
                done = True
                continue
            try:
                chunk = _CHUNK.decode(event)
            except msgspec.DecodeError as error:
                return text, f"an event that is not JSON: {error}"
            if chunk.error is not None:
                raise ErrorInStream(str(chunk.error.get("code")))
            self._labels.append(label_of(chunk.degraded))
            for choice in chunk.choices:
                finished |= choice.finish_reason is not None
                if choice.delta.content:
                    text += choice.delta.content
                    if self._first_token_s is None:
                        self._first_token_s = self._piece_s
        missing = [name for name, found in (("finish_reason", finished), ("[DONE]", done)) if not found]
        return text, f"ended without {' and '.join(missing)}" if missing else ""

    def _pieces(self, response: HTTPResponse) -> Iterator[bytes]:
        while data := response.read1(READ_BYTES):
            now_s = self._now_s()
            if self._first_token_s is not None:
                self._longest_gap_s = max(self._longest_gap_s, now_s - self._piece_s)
            self._piece_s = now_s
            yield data
            leave_after_s = self._kind.leave_after_s
            if leave_after_s is not None and self._now_s() - self._started_s > leave_after_s:
                raise ClientLeft

    def sample(self, outcome: SampleOutcome, why: str) -> Sample:
        """Return the sample of the request."""
        return Sample(
            kind=self._kind.name,
            stream=self._kind.stream,
            outcome=outcome,
            why=why,
            intended_s=self._intended_s,
            started_s=self._started_s,
            first_token_s=self._first_token_s,
            ended_s=self._now_s(),
            longest_gap_s=self._longest_gap_s,
            target=self._target,
            cached=self._cached,
            direct=self._kind.direct,
        )


class ErrorInStream(Exception):
    """An error event: the stream itself says that it is not whole."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta = msgspec.field(default_factory=Delta)
    message: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None


class AnswerJson(msgspec.Struct):
    choices: list[Choice] = []
    error: dict[str, Any] | None = None
    degraded: dict[str, Any] | None = None


_CHUNK = msgspec.json.Decoder(AnswerJson)


def _error(status: int, body: bytes) -> tuple[SampleOutcome, str]:
    """Return the outcome of an error status. It is honest if it has a code and a message."""
    try:
        error = _CHUNK.decode(body).error or {}
    except msgspec.DecodeError:
        error = {}
    if error.get("code") and error.get("message"):
        return SampleOutcome.FAILED, f"{status} {error['code']}"
    return SampleOutcome.DISHONEST, f"{status} without a readable error"
