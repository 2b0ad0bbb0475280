"""Sessions: browsers told apart by a signed cookie. A session names nobody, and nothing of it is stored here.

    cookie   `__Host-dub5` on https, `dub5` on http: <id>.<time>.<signature>, for `days`; no script reads it
    ticket   the same session for `ticket_s`, for a page of another site, whose cookies browsers block. Asked
             for with an API key, it stands for that key as well, while the key is valid

The id is no secret: only the signature is proof. A token of one kind is worth nothing as the other.
"""

import hashlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from dub5.service import clock
from dub5.service.config.settings import Secret, SessionSettings
from dub5.service.model import ANONYMOUS, Caller
from dub5.service.optional_parts import load_part

TOKEN_CHARS_MAX = 160  # ours have 83; to hash 60 KB takes twenty times as long as to count them
SAME_NAME_MAX = 4  # cookies of our name that are looked at, in one header
DAY_S = 24 * 3600
TICKET_SCHEME = "ticket"
CALLER_MARK = "~"
RENEW_AFTER_S = DAY_S  # a cookie that is younger is not sent anew, unless half of its life is over


class Signer(Protocol):
    """What token_signer.py does, which is loaded only where sessions are on."""

    def write(self, value: str) -> str: ...

    def read(self, token: str) -> tuple[str, int] | None: ...


class Session(Struct, frozen=True):
    """A session: one browser, for as long as its cookie lives. `caller`: who has asked for a ticket of it."""

    id: str
    age_s: int = 0  # of the token that proved it
    caller: str = ""

    @property
    def label(self) -> str:
        """The name in logs: eight digits of a hash, which nobody can turn into the id."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:8]


class Sessions:
    """Reads and writes sessions. `secrets`: the first signs, all are accepted."""

    def __init__(self, secrets: Sequence[Secret], options: SessionSettings, rng: Random) -> None:
        known = [secret.reveal() for secret in secrets]
        kind = load_part("session tokens")
        self._cookies: Signer = kind(known, "session")
        self._tickets: Signer = kind(known, "ticket")
        self._rng = rng
        self.cookie_s = options.days * DAY_S
        self.ticket_s = options.ticket_s

    def start(self) -> Session:
        """Begin a session. Its id is made of the time and of chance: later ones sort after earlier ones."""
        return Session(f"{int(clock.wall() * 1000):012x}{self._rng.getrandbits(80):020x}")

    def read(self, cookie_header: str, *, https: bool = False) -> Session | None:
        """Return the session of a Cookie header; None if no cookie of ours there is genuine and in time."""
        for token in _tokens(cookie_header, cookie_name(https)):
            if (session := _session(self._cookies, token, self.cookie_s)) is not None:
                return session
        return None

    def read_ticket(self, ticket: str) -> Session | None:
        """Return the session of a ticket; None if the ticket is not genuine, or too old."""
        session = _session(self._tickets, ticket, self.ticket_s)
        if session is None:
            return None
        id_, _, caller = session.id.partition(CALLER_MARK)
        return Session(id_, session.age_s, caller)

    def write_ticket(self, session: Session, caller: Caller = ANONYMOUS) -> str:
        """Return a ticket of this session, and of the caller who asks for it: by name, which is no key."""
        whose = "" if caller.key == ANONYMOUS.key else f"{CALLER_MARK}{caller.key}"
        return self._tickets.write(session.id + whose)

    def wants_renewal(self, session: Session) -> bool:
        """Return whether the cookie of this session should be sent anew: a visitor who returns keeps it."""
        return abs(session.age_s) > min(RENEW_AFTER_S, self.cookie_s / 2)

    def set_cookie(self, session: Session, *, https: bool = False) -> str:
        """Return the Set-Cookie header that gives a browser this session."""
        return _set_cookie(https, self._cookies.write(session.id), self.cookie_s)


def ticket_of(authorization: str) -> str | None:
    """Return the ticket of an Authorization header, or None."""
    scheme, _, ticket = authorization.partition(" ")
    return ticket.strip() if scheme.lower() == TICKET_SCHEME else None


def clear_cookie(*, https: bool = False) -> str:
    """Return the Set-Cookie header that takes a browser's session away."""
    return _set_cookie(https, "", 0)


def has_cookie(cookie_header: str, *, https: bool = False) -> bool:
    """Return whether a Cookie header has a cookie of ours, genuine or not."""
    return any(_tokens(cookie_header, cookie_name(https)))


def cookie_name(https: bool) -> str:
    """Return the name of the cookie. Only the host itself, on https, can set one with this prefix."""
    return "__Host-dub5" if https else "dub5"


def _set_cookie(https: bool, value: str, max_age_s: int) -> str:
    secure = "; Secure" if https else ""
    return f"{cookie_name(https)}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"


def _tokens(cookie_header: str, name: str) -> Iterator[str]:
    """Yield what the first few cookies of this name hold."""
    found = 0
    for pair in cookie_header.split(";"):
        given, _, value = pair.strip().partition("=")
        if given == name:
            yield value
            found += 1
            if found == SAME_NAME_MAX:
                return


def _session(signer: Signer, token: str, max_age_s: int) -> Session | None:
    """Return the session of a token that is genuine and not too old, nor as far in the future.

    Instances whose clocks differ a little, and a clock that was set back, must not end a session.
    """
    if len(token) > TOKEN_CHARS_MAX or (found := signer.read(token)) is None:
        return None
    value, age_s = found
    return Session(value, age_s) if abs(age_s) <= max_age_s else None
