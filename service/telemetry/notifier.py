"""Notifier: tells an operator's hook of incidents, by signed posts. Loaded by name where [notify] is set.

    event -> Incidents: one that begins or ends -> JSON, signed as Standard Webhooks says -> Outgoing

Headers: `webhook-id` (the same in each try), `webhook-timestamp` (epoch seconds) and `webhook-signature`: for
each secret `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random

import msgspec

from dub5.service import VERSION, clock
from dub5.service.config.notify_checks import BASE64_PREFIX
from dub5.service.config.settings import NotifyHook, Secret
from dub5.service.events import Event, EventHandlers
from dub5.service.telemetry.incidents import SIGNALS, IncidentNotice, Incidents
from dub5.service.telemetry.outgoing import Outgoing, Post

TEXT_CHARS_MAX = 500


class Notifier:
    """A subscriber of events that tells a hook of incidents. Subscribe `note`, call `tick` now and then."""

    def __init__(self, hook: NotifyHook, outgoing: Outgoing, rng: Random) -> None:
        self._outgoing = outgoing
        self._hook = hook
        self._rng = rng
        self._incidents = Incidents(frozenset(hook.events), rng)
        self.note = EventHandlers(dict.fromkeys(SIGNALS, self._note))

    def _note(self, event: Event) -> None:
        """Tell of an incident that begins or ends with this event."""
        notice = self._incidents.note(event, clock.now(), clock.wall())
        if notice is not None:
            self.tell(notice)

    def tick(self) -> None:
        """Tell of the incidents that are over by now."""
        for notice in self._incidents.tick(clock.now(), clock.wall()):
            self.tell(notice)

    def tell(self, notice: IncidentNotice) -> None:
        """Send a notice later."""
        self._outgoing.put(post_of(notice, self._hook))

    async def probe(self) -> str:
        """Send a notice that tells of nothing, now. Return why the hook has not taken it; empty if it has."""
        now = clock.wall()
        words = "This is a test: `dub5 check --online` asks whether the hook answers."
        notice = IncidentNotice(f"{self._rng.getrandbits(64):016x}", "check", "test", now, now, words, {})
        return await self._outgoing.send(post_of(notice, self._hook))


def post_of(notice: IncidentNotice, hook: NotifyHook) -> Post:
    """Return the signed message of a notice."""
    body = msgspec.json.encode(
        {
            "type": f"dub5.{notice.what}.{notice.state}",
            "timestamp": _date(notice.at),
            "data": {
                "id": notice.id,
                "what": notice.what,
                "state": notice.state,
                "since": _date(notice.since),
                "words": notice.words[:TEXT_CHARS_MAX],
                "numbers": notice.numbers,
                "service": "dub5",
                "version": VERSION,
            },
        }
    )
    headers = {"content-type": "application/json", "user-agent": f"dub5/{VERSION}"}
    headers |= signed_headers(f"msg_{notice.id}_{notice.state}", int(notice.at), body, hook.secrets)
    return Post(notice.what, hook.url.reveal(), headers, body)


def signed_headers(id_: str, at: int, body: bytes, secrets: Sequence[Secret]) -> dict[str, str]:
    """Return the three headers of Standard Webhooks, with a signature for each secret."""
    signed = f"{id_}.{at}.".encode() + body
    signatures = [hmac.digest(key_bytes(secret), signed, hashlib.sha256) for secret in secrets]
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
    }


def key_bytes(secret: Secret) -> bytes:
    """Return the bytes that sign: of `whsec_...` what its base64 says, else the text itself."""
    text = secret.reveal()
    if text.startswith(BASE64_PREFIX):
        return base64.b64decode(text.removeprefix(BASE64_PREFIX))
    return text.encode()


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
