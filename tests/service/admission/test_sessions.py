"""Sessions: what is genuine, for how long, and signed by which secret."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.admission.sessions import DAY_S, SAME_NAME_MAX, Session, Sessions, clear_cookie
from dub5.service.config.settings import Secret, SessionSettings
from dub5.simulators.virtual import run

OLD, NEW, FOREIGN = ("old-" * 10, "new-" * 10, "foreign-" * 5)


def sessions(*secrets: str, **options: Any) -> Sessions:
    return Sessions(tuple(map(Secret, secrets or (NEW,))), SessionSettings(**options), random.Random(7))


def sent(set_cookie: str) -> str:
    """Return the Cookie header of a browser that has received this Set-Cookie."""
    return set_cookie.partition(";")[0]


def jump(s: float) -> None:
    asyncio.get_running_loop().jump_wall(s)  # type: ignore[attr-defined]  # the virtual loop


async def test_cookie() -> None:
    """A session comes back from its cookie, by http and by https, each under the name of its own."""
    known = sessions()
    session = known.start()
    for https in (False, True):
        cookie = known.set_cookie(session, https=https)
        assert known.read(sent(cookie), https=https) == session
        assert known.read(f"a=b; {sent(cookie)};c", https=https) == session
        assert known.read(sent(cookie), https=not https) is None
    attributes = "Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"
    assert known.set_cookie(session).startswith("dub5=")
    assert known.set_cookie(session).endswith(f"; {attributes}")
    assert known.set_cookie(session, https=True).startswith("__Host-dub5=")
    assert known.set_cookie(session, https=True).endswith(f"; {attributes}; Secure")
    assert clear_cookie(https=True) == ("__Host-dub5=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure")


async def test_ids() -> None:
    """Ids are in the order of their making, from seed and clock alone; a label tells no id."""
    known, again = sessions(), sessions()
    made = []
    for _ in range(20):
        made.append(known.start())
        assert again.start() == made[-1]
        await asyncio.sleep(0.01)
    assert [one.id for one in made] == sorted(one.id for one in made)
    assert len({one.label for one in made}) == 20
    assert all(len(one.label) == 8 and one.label not in one.id for one in made)


async def test_end_of_life() -> None:
    """A cookie lives for `days`, a ticket for `ticket_s`; the cookie of more than a day ago is due anew."""
    known = sessions(days=2, ticket_s=30)
    session = known.start()
    cookie, ticket = sent(known.set_cookie(session)), known.write_ticket(session)
    await asyncio.sleep(30.0)
    assert known.read_ticket(ticket) == Session(session.id, 30)
    await asyncio.sleep(1.0)
    assert known.read_ticket(ticket) is None
    await asyncio.sleep(DAY_S - 31.0)
    assert (found := known.read(cookie)) is not None and not known.wants_renewal(found)
    await asyncio.sleep(1.0)
    assert (found := known.read(cookie)) is not None and known.wants_renewal(found)
    await asyncio.sleep(DAY_S - 1.0)
    assert known.read(cookie) is not None
    await asyncio.sleep(1.0)
    assert known.read(cookie) is None


async def test_clock_jumps() -> None:
    """A clock that is set, or that differs among instances, ends no session, if by less than its life."""
    known = sessions()
    session = known.start()
    cookie, ticket = sent(known.set_cookie(session)), known.write_ticket(session)
    for at_s, cookie_lives, ticket_lives in (
        (-3, True, True),
        (-30, True, True),
        (-31, True, False),
        (-29 * DAY_S, True, False),
        (-31 * DAY_S, False, False),
        (31 * DAY_S, False, False),
        (0, True, True),
    ):
        jump(at_s)
        assert (known.read(cookie) is not None) == cookie_lives, at_s
        assert (known.read_ticket(ticket) is not None) == ticket_lives, at_s
        jump(-at_s)


async def test_rotation() -> None:
    """The first secret signs and each is accepted: a new one goes before the old one, which leaves later."""
    before, during, after = sessions(OLD), sessions(NEW, OLD), sessions(NEW)
    session = before.start()
    old, new = sent(before.set_cookie(session)), sent(during.set_cookie(session))
    assert during.read(old) == during.read(new) == after.read(new) == session
    assert before.read(new) is None
    assert after.read(old) is None
    assert during.read_ticket(before.write_ticket(session)) == session


async def test_purposes() -> None:
    """A ticket is no cookie, a cookie no ticket, and another service's secret signs neither."""
    known, foreign = sessions(), sessions(FOREIGN)
    session = known.start()
    ticket, cookie = known.write_ticket(session), sent(known.set_cookie(session))
    assert known.read(f"dub5={ticket}") is None
    assert known.read_ticket(cookie.removeprefix("dub5=")) is None
    assert known.read(sent(foreign.set_cookie(session))) is None
    assert known.read_ticket(foreign.write_ticket(session)) is None


async def test_many_of_one_name() -> None:
    """Another page of our domain may add cookies of our name: a few are tried, and the genuine one counts."""
    known = sessions()
    session = known.start()
    cookie = sent(known.set_cookie(session))
    assert known.read("; ".join(["dub5=planted"] * (SAME_NAME_MAX - 1) + [cookie])) == session
    assert known.read("; ".join(["dub5=planted"] * SAME_NAME_MAX + [cookie])) is None


async def test_too_long() -> None:
    """A token that is longer than any of ours is not even hashed, so not accepted if it is genuine."""
    known = sessions()
    assert known.read_ticket(known.write_ticket(Session("a" * 100))) is not None
    assert known.read_ticket(known.write_ticket(Session("a" * 150))) is None


BROKEN = [
    "",
    ".",
    "..",
    "...",
    "=",
    "a.b.c",
    "x" * 100_000,
    "0.0." + "A" * 100_000,
    "0.//////////." + "A" * 43,
    "é.ö.ü",
    "\xff.\xfe.\xfd",
    '"',
    "\x00.\x01.\x02",
]


@pytest.mark.parametrize("token", BROKEN)
async def test_broken(token: str) -> None:
    """What no service has signed is no session, and no error, however odd it is."""
    known = sessions()
    assert known.read(f"dub5={token}") is None
    assert known.read(f"dub5{token}") is None
    assert known.read_ticket(token) is None


@given(st.text(st.characters(max_codepoint=255)) | st.text("dub5=;. -_AZaz09", max_size=300))
def test_any_header(header: str) -> None:
    """No header of any bytes is a session, nor an error."""

    async def read() -> None:
        known = sessions()
        assert known.read(header) is known.read(f"dub5={header}") is known.read_ticket(header) is None

    run(read())


@given(st.integers(0, 82), st.integers(0, 255))
def test_any_change(at: int, to: int) -> None:
    """A genuine token with any character changed is no session, nor is any part of it."""

    async def read() -> None:
        known = sessions()
        ticket = known.write_ticket(known.start())
        changed = ticket[:at] + chr(to) + ticket[at + 1 :]
        assert changed == ticket or known.read_ticket(changed) is None or _same_bits(changed, ticket)
        assert known.read_ticket(ticket[:at]) is None

    run(read())


def _same_bits(one: str, other: str) -> bool:
    """Return whether two texts differ in the last character alone, some bits of which base64 does not use."""
    return one[:-1] == other[:-1]
