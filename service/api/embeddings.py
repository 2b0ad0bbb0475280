"""POST /v1/embeddings: an exchange with a body of its own and no stream."""

import asyncio
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from dub5.service.api.chat import Exchange
from dub5.service.api.schema import read_json, read_large_json
from dub5.service.errors import GatewayError, InvalidRequest
from dub5.service.failover.context import RequestContext
from dub5.service.gateway import Answer, Route
from dub5.service.model import AnyRequest, Caller, EmbedBody, EmbedRequest
from dub5.service.providers.slices import in_turns

_BODY = msgspec.json.Decoder(EmbedBody)
FORMATS = (None, "float", "base64")


class EmbeddingExchange(Exchange):
    """One embeddings request, as an ASGI application."""

    operation = EmbedRequest.operation

    def _admit(self) -> GatewayError | None:
        return self.deps.admission.acquire(self)

    def _parse(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> AnyRequest:
        parsed, fields = read_json(headers, body, self.deps.server.json_depth_max, _BODY)
        return self._request(caller, parsed, fields)

    async def _parse_large(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> AnyRequest:
        depth_max = self.deps.server.json_depth_max
        parsed, fields = await in_turns(read_large_json(headers, body, depth_max, EmbedBody))
        await asyncio.sleep(0)
        return self._request(caller, parsed, fields)

    def _request(self, caller: Caller, parsed: EmbedBody, fields: Mapping[str, Raw]) -> EmbedRequest:
        if not _is_input(parsed.input):
            raise InvalidRequest("input: must be text, a list of texts, or token numbers.", param="input")
        if parsed.encoding_format not in FORMATS:
            raise InvalidRequest("encoding_format: must be float or base64.", param="encoding_format")
        return EmbedRequest(self.id, caller, parsed, fields)

    async def _ask(self, context: RequestContext, route: Route) -> Answer:
        return await self.deps.gateway.embed(context, route)


def _is_input(given: object) -> bool:
    """Return whether the input is text, texts, token numbers, or lists of those, and not empty."""
    if not isinstance(given, list):
        return isinstance(given, str)
    return bool(given) and (_all_of_type(given, str) or _is_tokens(given) or all(map(_is_tokens, given)))


def _is_tokens(given: object) -> bool:
    return isinstance(given, list) and bool(given) and _all_of_type(given, int)


def _all_of_type(given: list[object], kind: type) -> bool:
    return all(type(one) is kind for one in given)
