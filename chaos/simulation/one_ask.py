"""One request that asks a question, over HTTP or a WebSocket: read, lost, stopped or left as planned."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dub5.chaos.run.judge import LEFT, ClientOutcome, Ending, Stop
from dub5.chaos.simulation.invariants.people_kept import check_told
from dub5.chaos.simulation.invariants.people_record import ConversationRecord, PeopleRecord, TurnRequest
from dub5.chaos.simulation.invariants.record import CURRENT_REQUEST, RunRecord
from dub5.chaos.simulation.life import Life
from dub5.chaos.simulation.person_socket import PersonSocket
from dub5.chaos.simulation.turn_reader import TurnReader
from dub5.chaos.simulation.world.planned_people import PlannedConnection
from dub5.simulators.virtual import AppFault, VirtualStorage

CONVERSATIONS = "/v1/conversations"
PATIENCE_S = 5.0  # after its deadline a request without an end counts as hung
REFUSED = "rate_limited"
ORDER = ("", "accepted", "begin", "delta", "end")


class Lost(Exception):
    """The connection is lost, as planned."""


class OneAsk:
    """One request. `socket`: over which it asks, None: over HTTP. `model`: to be named, if any.

    `stop` ends the turn; `read_beside` begins to read it over another connection.
    """

    def __init__(
        self,
        asked: TurnRequest,
        planned: PlannedConnection,
        life: Life,
        socket: PersonSocket | None,
        headers: Mapping[str, str],
        model: str | None,
        record: RunRecord,
        people: PeopleRecord,
        storage: VirtualStorage,
        stop: Callable[[], Awaitable[None]],
        read_beside: Callable[[], asyncio.Task[None]],
    ) -> None:
        assert asked.request.audience is not None, "it asks a turn"
        self._asked = asked
        self._planned = planned
        self._life = life
        self._socket = socket
        self._headers = headers
        self._model = model
        self._record = record
        self._people = people
        self._storage = storage
        self._stop = stop
        self._read_beside = read_beside
        self._loop = asyncio.get_running_loop()
        self._audience = asked.request.audience
        self._listener = self._audience.come(asked.began_s, record.ran_s)
        self._has_stopped = False
        self.beside: asyncio.Task[None] | None = None

    async def run(self) -> Ending:
        """Ask, and follow the answer to its end."""
        request = self._asked.request
        plan, hung_s = request.plan, request.deadline_s + PATIENCE_S
        leave_s = self._loop.time() + plan.leave_s if plan.leave_s is not None else hung_s
        timer = self._loop.call_at(min(leave_s, hung_s), self._leave)
        try:
            async with asyncio.timeout_at(min(leave_s, hung_s)):
                return await (self._over_http() if self._socket is None else self._over(self._socket))
        except Lost:
            return LEFT
        except TimeoutError:
            return LEFT if leave_s < hung_s else Ending(ClientOutcome.HUNG, "no_end_in_time")
        except AppFault as fault:
            return Ending(ClientOutcome.DISHONEST, str(fault))
        finally:
            timer.cancel()
            if request.left_s is not None and self._socket is not None:
                await self._socket.lose()
            self._audience.leave(self._listener, self._loop.time())

    def _leave(self) -> None:
        self._asked.request.left_s = now_s = self._loop.time()
        self._audience.leave(self._listener, now_s)
        self._record.log(f"#{self._asked.request.plan.number} leaves")

    async def _over_http(self) -> Ending:
        asked, request = self._asked, self._asked.request
        plan, context = request.plan, contextvars.Context()
        context.run(CURRENT_REQUEST.set, plan.number)
        headers = {**self._headers, "x-deadline-ms": str(round(plan.deadline_s * 1000))}
        body = {"text": plan.prompt, "id": asked.asked_as, "stream": plan.stream}
        if self._model is not None:
            body["model"] = self._model
        path = f"{CONVERSATIONS}/{asked.conversation}/turns"
        client = self._life.client
        async with client.stream("POST", path, json=body, headers=headers, context=context) as reply:
            request.headers, request.status = reply.headers, reply.status
            reader = TurnReader(reply.status, plan.prompt, stream=plan.stream)
            try:
                while data := await reply.read():
                    reader.feed(data)
                    await self._note(reader)
            except AppFault:
                return reader.end(Stop.BROKEN)
            ending = reader.end(Stop.END)
            self._note_turn(reader)
            return ending

    async def _over(self, socket: PersonSocket) -> Ending:
        asked, plan = self._asked, self._asked.request.plan
        message: dict[str, Any] = {"type": "ask", "id": asked.asked_as, "text": plan.prompt}
        message["deadline_ms"] = round(plan.deadline_s * 1000)
        if self._model is not None:
            message["model"] = self._model
        if asked.conversation in self._people.conversations:
            message["conversation"] = asked.conversation
        reader = TurnReader(200, plan.prompt, stream=True)
        await socket.ask(plan.number, message)
        while (told := await socket.receive()) is not None:
            if asked.asked_as != told.get("id") and not (reader.turn and reader.turn == told.get("turn")):
                continue
            self._note_head(told)
            reader.take(told)
            await self._note(reader)
            if reader.is_over:
                return reader.end(Stop.END)
        return reader.end(Stop.BROKEN)

    def _note_head(self, told: dict[str, Any]) -> None:
        """Note what a message says that a head of HTTP says, too."""
        request = self._asked.request
        if told["type"] == "accepted":
            request.status = 200
            if told.get("remaining") is not None:
                request.headers["ratelimit"] = ""
        elif told["type"] == "error":
            if told["error"]["retry_after"] is not None:
                request.headers["retry-after"] = str(told["error"]["retry_after"])
            if told["error"]["code"] == REFUSED:
                request.status, request.headers["ratelimit"] = 429, ""

    async def _note(self, reader: TurnReader) -> None:
        """Note what has been read, and do what is planned at this moment. Raises Lost."""
        request, planned = self._asked.request, self._planned
        request.receive(self._loop.time(), content_seen=reader.content_seen)
        was_accepted = self._asked.accepted_kept
        self._note_turn(reader)
        if self._asked.accepted_kept and not was_accepted:
            check_told(self._record, self._people, self._storage, self._asked)
        if planned.beside and reader.turn and self.beside is None:
            self.beside = self._read_beside()
        if planned.stop_after and has_reached(reader, planned.stop_after) and not self._has_stopped:
            self._has_stopped = True
            if not reader.is_over:
                await self._stop()
        if planned.lost_after and has_reached(reader, planned.lost_after):
            self._leave()
            raise Lost

    def _note_turn(self, reader: TurnReader) -> None:
        """Record what the reply has said so far."""
        asked = self._asked
        self._listener.is_sure = self._listener.is_sure or bool(reader.turn)
        asked.turn, asked.text, asked.outcome = reader.turn, reader.text, reader.outcome
        asked.request.text, asked.request.content_seen = reader.text, reader.content_seen
        asked.accepted_kept, asked.ended_kept = reader.accepted_kept, reader.ended_kept
        asked.has_begun = reader.target is not None
        asked.memory_lost, asked.pruned_turns = reader.memory_lost, reader.pruned_turns
        if reader.conversation and asked.conversation not in self._people.conversations:
            self._begin_conversation(reader)

    def _begin_conversation(self, reader: TurnReader) -> None:
        """Note the conversation that a question without one has begun."""
        self._asked.conversation = id_ = reader.conversation
        begun = ConversationRecord(id_, self._asked.owner, bool(reader.accepted_kept), self._asked.life)
        self._people.conversations.setdefault(id_, begun)


def has_reached(reader: TurnReader, moment: str) -> bool:
    """Say whether a message of this type, or a later one, was read."""
    return reader.last in ORDER and ORDER.index(reader.last) >= ORDER.index(moment)
