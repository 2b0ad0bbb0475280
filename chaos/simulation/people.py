"""Simulated people: each has a session or a key, asks in its conversations, and is sometimes a stranger.

They ask over HTTP or a WebSocket (asking.py); all else is HTTP. Whatever they read is recorded, and what they
are told to be kept is looked for at once.
"""

import asyncio
from random import Random
from typing import Any

from dub5.chaos.simulation.asking import TURNS, Asking
from dub5.chaos.simulation.invariants.people_kept import check_told
from dub5.chaos.simulation.invariants.people_record import ConversationRecord, OtherRequest
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.life import Lives
from dub5.chaos.simulation.world.build import caller_key
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.planned_people import STOLEN, PlannedPerson, PlannedTurn, planned_people
from dub5.simulators.virtual import AppFault, AppResponse

PATH = "/v1/conversations"
CONVERSATION_TRIES = 5
DRAIN_S = 5.0  # after the time of a drain, within which it has closed all sockets
OLD_SHARE = 0.5  # of the conversations that are read again: an old turn is read on as well
STRANGERS = 500  # added to the number of a turn that a stranger asks
SAME_SITE = {"sec-fetch-site": "same-origin"}


class WorldPeople:
    """All people of a run."""

    def __init__(self, lives: Lives, record: RunRecord, world: World) -> None:
        self._lives = lives
        self._record = record
        self._world = world

    def start(self) -> list[asyncio.Task[None]]:
        """Start them. Each ends by itself."""
        return [
            asyncio.create_task(
                Person(plan, self._lives, self._record, self._world).run(), name=f"person {plan.number}"
            )
            for plan in planned_people(self._world)
        ]


class Person:
    """One person."""

    def __init__(self, plan: PlannedPerson, lives: Lives, record: RunRecord, world: World) -> None:
        assert lives.people is not None and lives.storage is not None, "the world has people"
        self._plan = plan
        self._lives = lives
        self._record = record
        self._people = lives.people
        self._storage = lives.storage
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._rng = Random(f"{world.seed}:person:{plan.number}:chances")
        self._cookie = ""
        self._conversation = ""
        self._at_crash = plan.at_crash
        self._asking = Asking(plan, lives, record, world, self._headers, self._request)

    async def run(self) -> None:
        """Do all that is planned."""
        for turn in self._plan.turns:
            until_s = (
                self._world.end_s + self._plan.number * 0.1 if turn.last else self._loop.time() + turn.think_s
            )
            if not turn.last and until_s > self._world.traffic_s:
                continue
            if self._at_crash is not None and until_s > self._at_crash[0]:
                (at_s, one), self._at_crash = self._at_crash, None
                await asyncio.sleep(at_s - self._loop.time())
                await self._do(one)
            await asyncio.sleep(until_s - self._loop.time())
            await self._do(turn)
        drain = self._world.drain
        over_s = None if drain is None else drain.at_s + drain.announce_s + drain.drain_s + DRAIN_S
        await self._asking.socket.finish(over_s)

    async def _do(self, turn: PlannedTurn) -> None:
        """Ask, and do what is planned besides."""
        new = turn.begins or not self._conversation
        if new and not (await self._begin_session() if turn.connection.socket else await self._begin()):
            return
        # A socket begins a conversation with its first question; until then there is none of this id.
        there = f"{turn.number:026d}" if new and turn.connection.socket else self._conversation
        asked = await self._asking.ask(turn, there)
        if asked.conversation in self._people.conversations:
            self._conversation = asked.conversation
        if turn.tidy and self._conversation:
            await self._tidy(turn)
        if turn.reread and self._conversation:
            await self._reread()
        if turn.stranger:
            await self._try_another_ones(turn)

    # requests

    def _headers(self) -> dict[str, str]:
        headers = dict(SAME_SITE)
        if self._plan.caller is not None:
            headers["authorization"] = f"Bearer {caller_key(self._plan.caller)}"
        elif self._cookie:
            headers["cookie"] = self._cookie
        if self._plan.address:
            headers["x-forwarded-for"] = self._plan.address
        return headers

    async def _request(
        self, what: str, method: str, path: str, json: Any = None, id_: str = ""
    ) -> AppResponse | None:
        """Send a request and record how it ended; None if the process died meanwhile."""
        await self._lives.up()
        life, began_s = self._lives.now, self._loop.time()
        try:
            reply = await life.client.request(method, path, headers=self._headers(), json=json)
        except AppFault:
            return None
        code = ""
        if reply.status >= 400:
            code = reply.json()["error"]["code"]
        known = self._people.conversations.get(id_)
        own = known is None or known.owner == self._plan.owner
        self._people.others.append(
            OtherRequest(
                what,
                life.number,
                began_s,
                self._loop.time(),
                reply.status,
                code,
                own,
                known is not None and known.kept and not known.deleted,
            )
        )
        self._record.log(f"person {self._plan.number} {what}: {reply.status} {code}")
        return reply

    async def _begin_session(self) -> bool:
        """Begin a session, if there is no key. Return whether there is one now."""
        for _ in range(CONVERSATION_TRIES):
            if self._plan.caller is not None or self._cookie:
                return True
            reply = await self._request("session", "POST", "/v1/session")
            if reply is not None:
                self._cookie = reply.headers.get("set-cookie", "").partition(";")[0]
        return bool(self._cookie)

    async def _begin(self) -> bool:
        """Begin a conversation. Return whether there is one now."""
        for _ in range(CONVERSATION_TRIES):
            if not await self._begin_session():
                continue
            life = self._lives.now.number
            reply = await self._request("create", "POST", PATH, {"model": self._plan.route})
            if reply is not None and reply.status == 201:
                made = reply.json()
                self._conversation = made["id"]
                self._people.conversations[made["id"]] = ConversationRecord(
                    made["id"], self._plan.owner, made["kept"], life
                )
                check_told(self._record, self._people, self._storage, self._people.conversations[made["id"]])
                return True
            await asyncio.sleep(1.0)
        return False

    # besides asking

    async def _reread(self) -> None:
        id_ = self._conversation
        reply = await self._request("read", "GET", f"{PATH}/{id_}", id_=id_)
        if reply is None or reply.status != 200:
            return
        known = {turn.turn: turn for turn in self._people.turns if turn.turn and turn.conversation == id_}
        before = ""
        for said in reply.json()["turns"]:
            turn = known.get(said["id"])
            if said["id"] <= before:
                self._record.violated("kept_whole", f"turn {said['id']} is read out of order")
            before = said["id"]
            if turn is not None and turn.ended_kept and (said["answer"] or {"text": ""})["text"] != turn.text:
                self._record.violated("kept_whole", f"turn {turn.turn} is read as {said['answer']!r}")
            self._record.sometimes["read again after a crash"] += (
                turn is not None and turn.life < self._lives.now.number
            )
        if known and self._rng.random() < OLD_SHARE:
            await self._asking.read_on(known[self._rng.choice(sorted(known))], "resume", "")

    async def _tidy(self, turn: PlannedTurn) -> None:
        id_, path = self._conversation, f"{PATH}/{self._conversation}"
        match turn.tidy:
            case "list":
                reply = await self._request("list", "GET", f"{PATH}?limit=100")
                if reply is not None and reply.status == 200:
                    self._check_listed([one["id"] for one in reply.json()["data"]])
            case "rename":
                await self._request("rename", "PATCH", path, {"title": f"of person {self._plan.number}"}, id_)
            case "delete":
                self._people.conversations[id_].deleted = True
                self._conversation = ""
                await self._request("delete", "DELETE", path, id_=id_)

    def _check_listed(self, ids: list[str]) -> None:
        for id_ in ids:
            known = self._people.conversations.get(id_)
            if known is not None and known.owner != self._plan.owner:
                self._record.violated(
                    "owners_apart", f"person {self._plan.number} lists a conversation of {known.owner}"
                )

    async def _try_another_ones(self, turn: PlannedTurn) -> None:
        others = [one for one in self._people.conversations.values() if one.owner != self._plan.owner]
        if not others:
            return
        id_ = self._rng.choice(others).id
        path = f"{PATH}/{id_}"
        match turn.stranger:
            case "read":
                await self._request("read", "GET", path, id_=id_)
            case "rename":
                await self._request("rename", "PATCH", path, {"title": STOLEN}, id_)
            case "delete":
                await self._request("delete", "DELETE", path, id_=id_)
            case "ask":
                await self._asking.send(turn, id_, turn.number + STRANGERS, again=True)
            case _:
                await self._try_a_turn(turn.stranger)

    async def _try_a_turn(self, how: str) -> None:
        """Read on or stop the last turn of somebody else: it may be under way."""
        turns = [one for one in self._people.turns if one.turn and one.owner != self._plan.owner]
        if not turns:
            return
        if how in ("resume", "events"):
            await self._asking.read_on(turns[-1], how, "")
        elif how == "stop":
            await self._request("stop", "POST", f"{TURNS}/{turns[-1].turn}/stop", id_=turns[-1].conversation)
        else:
            await self._asking.try_to_stop(turns[-1])
