"""The guard of keys: who guesses them from an address has to wait; who uses a right one there does not.

right key  --address blocked, and this key not accepted there within an hour--> 429 rate_limited
           --else--> the caller
wrong key  --address blocked--> 429 rate_limited
           --else--> 401 invalid_api_key; the tenth different one in a minute blocks the address
no key     401 invalid_api_key
"""

from litestar.types import Scope

from dub5.service import clock
from dub5.service.admission.admission import Callers, bearer_key, key_hash
from dub5.service.admission.key_guesses import KeyGuesses
from dub5.service.admission.sessions import Sessions, ticket_of
from dub5.service.api.client_address import is_nearby, scope_address
from dub5.service.errors import RateLimited, Unauthorized
from dub5.service.events import Events, SecurityKind, SecurityNoted
from dub5.service.model import ANONYMOUS, Caller


class KeyGuard:
    """The guard of one kind of keys, for the life of the process. `kind`: what a wrong key is noted as.

    Without `proxies_known`, a request that a proxy nearby hands over has no address of its own: there nobody
    is blocked, for all clients would be. A client on the internet is not believed to be a proxy.
    """

    def __init__(self, kind: SecurityKind, events: Events, *, proxies_known: bool) -> None:
        self._kind = kind
        self._events = events
        self._proxies_known = proxies_known
        self._guesses = KeyGuesses()

    def check(self, scope: Scope, key: str, owner: str | None) -> None:
        """Let a key pass, or note that it is wrong. `owner`: whose it is; None for a wrong one.

        Raises RateLimited where the address is blocked.
        """
        address, now_s = scope_address(scope), clock.now()
        left_s = self._guesses.blocked_s(address, now_s)
        if owner is not None and not (left_s and not self._guesses.was_accepted(address, owner, now_s)):
            self._guesses.note_accepted(address, owner, now_s)
            return
        if owner is None:
            where = scope["path"]
            self._events.emit(SecurityNoted(self._kind, address, where))
            if not left_s and (self._proxies_known or not _may_be_a_proxy(address, scope)):
                block_s = self._guesses.note_unknown(address, key_hash(key), now_s)
                if block_s:
                    why = f"blocked for {block_s:g} s: many unknown keys at {where}"
                    self._events.emit(SecurityNoted(SecurityKind.RATE_ABUSE, address, why))
        if left_s:
            raise RateLimited("Too many unknown keys came from this address.", retry_after_s=left_s)

    def note_ticket(self, scope: Scope) -> None:
        """Note a ticket that proves nothing. Nobody guesses a signature, so nobody is blocked."""
        self._events.emit(SecurityNoted(SecurityKind.BAD_TICKET, scope_address(scope), scope["path"]))


class GuardedCallers:
    """The callers of the settings, behind a guard. `tickets`: reads those that a caller asked for."""

    def __init__(self, callers: Callers, guard: KeyGuard, tickets: Sessions | None = None) -> None:
        self._callers = callers
        self._guard = guard
        self._tickets = tickets

    def identify(self, authorization: str, scope: Scope) -> Caller:
        """Return the caller of this header, a key or a ticket of one; ANONYMOUS if no keys are set.

        Raises Unauthorized, RateLimited.
        """
        if not self._callers.have_keys:
            return ANONYMOUS
        if (ticket := ticket_of(authorization)) is not None:
            return self._of_ticket(ticket, scope)
        key = bearer_key(authorization)
        caller = self._callers.find(key)
        if key:
            self._guard.check(scope, key, caller.key if caller else None)
        if caller is None:
            raise Unauthorized("The API key is missing or unknown.")
        return caller

    def renew(self, caller: Caller) -> Caller:
        """Return a caller that was identified before, as it is now. Raises Unauthorized."""
        if not self._callers.have_keys:
            return ANONYMOUS
        known = self._callers.named(caller.key)
        if known is None:
            raise Unauthorized("The API key is not valid any more.")
        return known

    def _of_ticket(self, ticket: str, scope: Scope) -> Caller:
        session = None if self._tickets is None else self._tickets.read_ticket(ticket)
        caller = None if session is None else self._callers.named(session.caller)
        if caller is None:
            self._guard.note_ticket(scope)
            raise Unauthorized("The ticket is unknown or too old, or its API key is not valid any more.")
        return caller


def _may_be_a_proxy(address: str, scope: Scope) -> bool:
    return is_nearby(address) and any(
        name in (b"x-forwarded-for", b"forwarded", b"x-real-ip") for name, _ in scope["headers"]
    )
