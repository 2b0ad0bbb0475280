"""Simulated people: each has a session or a key, asks in its conversations, and is sometimes a stranger.

They use HTTP alone. Whatever they read is recorded, and what they are told to be kept is looked for at once.
"""

import asyncio
import contextvars
from random import Random
from typing import Any

from dub5.chaos.run.judge import ClientOutcome, Ending, Stop
from dub5.chaos.simulation.invariants.people_kept import check_told
from dub5.chaos.simulation.invariants.people_record import ConversationRecord, OtherRequest, TurnRequest
from dub5.chaos.simulation.invariants.record import CURRENT_REQUEST, RequestRecord, RunRecord
from dub5.chaos.simulation.life import Lives
from dub5.chaos.simulation.turn_reader import TurnReader
from dub5.chaos.simulation.world.build import caller_key
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.planned_people import STOLEN, PlannedPerson, PlannedTurn, planned_people
from dub5.chaos.simulation.world.requests import PlannedRequest
from dub5.simulators.virtual import AppClient, AppFault, AppResponse

PATH = "/v1/conversations"
PATIENCE_S = 5.0  # after its deadline a request without an end counts as hung
CONVERSATION_TRIES = 5
LATER_S = 0.2  # until a question is sent again
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

    async def _do(self, turn: PlannedTurn) -> None:
        """Ask, and do what is planned besides."""
        if (turn.begins or not self._conversation) and not await self._begin():
            return
        await self._ask(turn)
        if turn.tidy:
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

    async def _begin(self) -> bool:
        """Begin a conversation, with a session if there is no key. Return whether there is one now."""
        for _ in range(CONVERSATION_TRIES):
            if self._plan.caller is None and not self._cookie:
                reply = await self._request("session", "POST", "/v1/session")
                if reply is None:
                    continue
                self._cookie = reply.headers.get("set-cookie", "").partition(";")[0]
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

    async def _ask(self, turn: PlannedTurn) -> None:
        ask = self._send(turn, self._conversation, turn.number, again=turn.twice == "at once")
        if turn.twice == "at once":
            await asyncio.gather(
                asyncio.create_task(ask, name=f"person {self._plan.number} first"),
                asyncio.create_task(
                    self._send(turn, self._conversation, turn.number + 1, again=True),
                    name=f"person {self._plan.number} second",
                ),
            )
            return
        asked = await ask
        if asked is None or turn.twice:  # who does not know what became of the question sends it again
            if asked is not None:
                await asyncio.sleep(LATER_S)
            self._record.sometimes["turn asked again after a crash"] += asked is None
            await self._send(turn, self._conversation, turn.number + 1, again=True)

    async def _send(
        self, turn: PlannedTurn, conversation: str, number: int, *, again: bool = False
    ) -> TurnRequest | None:
        """Ask. Return what was recorded; None if the process died meanwhile."""
        await self._lives.up()
        life, began_s = self._lives.now, self._loop.time()
        tuning = self._world.tuning_at(began_s)
        route = self._world.route(self._plan.route)
        plan = PlannedRequest(
            number=number,
            at_s=began_s,
            route=self._plan.route,
            stream=turn.stream,
            deadline_s=turn.deadline_s,
            prompt=turn.question,
            leave_s=turn.leave_s,
            last=turn.last and not again,
            caller=self._plan.caller,
            whole=turn.stream and route.delivery == "whole",
            address=self._plan.address,
            turn=True,
            session=self._plan.number if self._plan.caller is None else None,
            again=again,
        )
        request = RequestRecord(
            plan,
            began_s + min(turn.deadline_s, tuning.timeouts.total_s),
            began_s,
            generation=self._world.generation(began_s),
        )
        self._record.requests[number] = request
        asked = TurnRequest(
            request,
            life.number,
            self._plan.owner,
            conversation,
            f"ask-{turn.number}",
            turn.question,
            began_s=began_s,
        )
        self._people.add(asked)
        self._record.log(f"#{number} person {self._plan.number} asks{' again' if again else ''}")
        ending = await self._follow(asked, life.client)
        if life is not self._lives.now or not self._lives.is_up:
            return None
        request.client_ending, request.client_ended_s = ending, self._loop.time()
        asked.ended_s = self._loop.time()
        self._record.log(f"#{number} is {ending.outcome} {ending.reason}")
        check_told(self._record, self._people, self._storage, asked)
        return asked

    async def _follow(self, asked: TurnRequest, client: AppClient) -> Ending:
        plan, request = asked.request.plan, asked.request
        hung_s = request.deadline_s + PATIENCE_S
        leave_s = self._loop.time() + plan.leave_s if plan.leave_s is not None else hung_s
        timer = self._loop.call_at(min(leave_s, hung_s), self._left, request)
        try:
            async with asyncio.timeout_at(min(leave_s, hung_s)):
                return await self._exchange(asked, client)
        except TimeoutError:
            left = Ending(ClientOutcome.CANCELLED, "left")
            return left if leave_s < hung_s else Ending(ClientOutcome.HUNG, "no_end_in_time")
        except AppFault as fault:
            return Ending(ClientOutcome.DISHONEST, str(fault))
        finally:
            timer.cancel()

    def _left(self, request: RequestRecord) -> None:
        request.left_s = self._loop.time()
        self._record.log(f"#{request.plan.number} leaves")

    async def _exchange(self, asked: TurnRequest, client: AppClient) -> Ending:
        plan, request = asked.request.plan, asked.request
        context = contextvars.Context()
        context.run(CURRENT_REQUEST.set, plan.number)
        headers = {**self._headers(), "x-deadline-ms": str(round(plan.deadline_s * 1000))}
        body = {"text": plan.prompt, "id": asked.asked_as, "stream": plan.stream}
        if len(self._world.routes) > 1:  # what the model of a conversation is may be in a lost database
            body["model"] = plan.route
        path = f"{PATH}/{asked.conversation}/turns"
        async with client.stream("POST", path, json=body, headers=headers, context=context) as reply:
            request.headers, request.status = reply.headers, reply.status
            reader = TurnReader(reply.status, plan.prompt, stream=plan.stream)
            try:
                while data := await reply.read():
                    reader.feed(data)
                    request.receive(self._loop.time(), content_seen=reader.content_seen)
                    was_accepted = asked.accepted_kept
                    _note(asked, reader)
                    if asked.accepted_kept and not was_accepted:
                        check_told(self._record, self._people, self._storage, asked)
            except AppFault:
                return reader.end(Stop.BROKEN)
            ending = reader.end(Stop.END)
            _note(asked, reader)
            return ending

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
                await self._send(turn, id_, turn.number + STRANGERS, again=True)


def _note(asked: TurnRequest, reader: TurnReader) -> None:
    """Record what the reply has said so far."""
    asked.turn, asked.text, asked.outcome = reader.turn, reader.text, reader.outcome
    asked.request.text, asked.request.content_seen = reader.text, reader.content_seen
    asked.accepted_kept, asked.ended_kept = reader.accepted_kept, reader.ended_kept
    asked.memory_lost, asked.pruned_turns = reader.memory_lost, reader.pruned_turns
