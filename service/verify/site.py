"""The service to verify, as its clients reach it. `Site.ask` keeps every answer, for the check of leaks."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from dub5.service.config.settings import Secret
from dub5.service.wire.base import FailureKind, Stage, Wire, WireFailure, WireRequest

LIMIT_S = 60.0  # of one request: a serverless platform may start the process first
CONNECT_S = 10.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
QUESTION = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 64}


class CheckFailed(Exception):
    """Raised by a check that does not hold: what was seen, and what to do."""


class FeatureMissing(Exception):
    """Raised by a check of a feature that the service does not have, or has switched off."""


class SiteAnswer(Struct, frozen=True):
    """A whole response. Header names are lower case; of equal names the last is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def data(self) -> Any:
        """Return the JSON object of the body; an empty one for anything else."""
        return decoded_object(self.body) or {}

    def told(self) -> str:
        """Return status, code and message of an error, or where a redirect leads, for a sentence."""
        if self.status in REDIRECTS and "location" in self.headers:
            return f"HTTP {self.status} to {self.headers['location']}; verify that address"
        error = self.data().get("error")
        known = error if isinstance(error, dict) else {}
        return " ".join(
            [f"HTTP {self.status}", *(str(known[name]) for name in ("code", "message") if name in known)]
        )


def decoded_object(text: str | bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else, however odd: this may be anybody's site."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Site:
    """A deployed service at a URL. `model`: empty until it is known; `answers`: all that came."""

    def __init__(self, url: str, wire: Wire, key: Secret | None, model: str, origins: Sequence[str]) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.origins = origins
        self.key = key
        self.answers: list[SiteAnswer] = []
        self._wire = wire

    @property
    def encrypted(self) -> bool:
        """Whether it is reached by https."""
        return self.url.startswith("https://")

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> SiteAnswer:
        """Send a request, with the caller key, and return the whole answer. Raises CheckFailed."""
        known = {"accept": "*/*", "user-agent": "dub5-verify"}
        if body:
            known["content-type"] = "application/json"
        if self.key is not None:
            known["authorization"] = f"Bearer {self.key.reveal()}"
        request = WireRequest(method, self.url + path, known | dict(headers or {}), body, connect_s=CONNECT_S)
        try:
            async with asyncio.timeout(LIMIT_S):
                answer = await self._send(request)
        except TimeoutError:
            raise CheckFailed(f"{method} {path} has no whole answer after {LIMIT_S:g} s") from None
        except WireFailure as failure:
            raise CheckFailed(f"{method} {path}: {_explained(failure)}") from None
        self.answers.append(answer)
        return answer

    async def chat(self, *, stream: bool) -> SiteAnswer:
        """Ask the model a short question. Raises CheckFailed."""
        return await self.ask(
            "POST",
            "/v1/chat/completions",
            msgspec.json.encode({"model": self.model, "stream": stream, **QUESTION}),
        )

    async def _send(self, request: WireRequest) -> SiteAnswer:
        response = await self._wire.send(request)
        try:
            body = b""
            while part := await response.read():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    raise CheckFailed(f"{request.method} answers with more than {ANSWER_BYTES_MAX:,} bytes")
            return SiteAnswer(response.status, response.headers, body)
        finally:
            await response.aclose()


def _explained(failure: WireFailure) -> str:
    match failure.stage, failure.kind:
        case Stage.RESOLVE, FailureKind.REFUSED:
            return "the name does not resolve; is the URL misspelt?"
        case Stage.CONNECT, FailureKind.REFUSED:
            return "connections are refused; does the service run, and listen on $PORT and on 0.0.0.0?"
        case Stage.CONNECT, FailureKind.PROTOCOL:
            return f"no TLS ({failure}); is the certificate valid for this name?"
    return f"the connection broke ({failure}); the log of the platform says whether the process ended"
