"""What is said before a question: the prompts that providers were sent for turns.

rule         says
prompt_fits  a prompt is the question after whole turns of its conversation, in order: the last ones without a
             gap, at least two of them; it fits the window. Without memory it is the question alone
"""

from collections.abc import Sequence

from dub5.chaos.simulation.invariants.people_database import has_memory
from dub5.chaos.simulation.invariants.people_record import PeopleRecord, Prompt, TurnRequest
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.world.build import ANSWER_TOKENS
from dub5.chaos.simulation.world.model import World
from dub5.service.tokens import estimate_tokens
from dub5.simulators.answers import Proof, judge

ALWAYS_KEPT = 2
SHORTENED = "[...]"


def check_prompts(world: World, record: RunRecord, people: PeopleRecord) -> None:
    """Check every prompt of every turn."""
    assert world.people is not None, "there are people"
    room = world.people.context_tokens - ANSWER_TOKENS
    of_conversation: dict[str, list[TurnRequest]] = {}
    for turn in people.turns:
        of_conversation.setdefault(turn.conversation, []).append(turn)
    for turn in people.turns:
        record.sometimes["history pruned"] += turn.pruned_turns > 0
        before = _before(turn, of_conversation[turn.conversation])
        for prompt in dict.fromkeys(turn.prompts):
            wrong = _what_is_wrong(turn, prompt, room) or (
                _what_is_missing(turn, prompt, before) if has_memory(world, record, turn) else ""
            )
            if wrong:
                record.violated("prompt_fits", f"#{turn.request.plan.number} at {prompt.target}: {wrong}")


def _before(turn: TurnRequest, turns: list[TurnRequest]) -> list[str]:
    """Return the questions of the whole turns that were kept before, the oldest first."""
    whole = [
        one
        for one in turns
        if one.outcome == "complete"
        and one.ended_kept
        and one.ended_s is not None
        and one.ended_s < turn.began_s
    ]
    return list(dict.fromkeys(one.question for one in whole))


def _what_is_wrong(turn: TurnRequest, prompt: Prompt, room: int) -> str:
    """Return what is wrong with a prompt in itself; empty if nothing."""
    *history, last = prompt.messages
    if last != ("user", turn.question):
        return f"it ends with {last}"
    roles = [role for role, _ in history]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        return f"its roles are {roles}"
    if turn.memory_lost and history:
        return "it has a memory, which was told to be lost"
    tokens = estimate_tokens([text for _, text in prompt.messages])
    if tokens > room and not (len(history) <= 2 * ALWAYS_KEPT and _is_shortened(history)):
        return f"{tokens} tokens do not fit into {room}"
    for (_, question), (_, answer) in zip(history[::2], history[1::2], strict=True):
        if judge(answer, question) is not Proof.WHOLE and SHORTENED not in answer:
            return f"{answer!r} is no whole answer"
    return ""


def _is_shortened(history: Sequence[tuple[str, str]]) -> bool:
    """Say whether the answers were shortened: questions never are, whatever room they take."""
    return all(SHORTENED in answer for _, answer in history[1::2])


def _what_is_missing(turn: TurnRequest, prompt: Prompt, before: list[str]) -> str:
    """Return what of the conversation is missing in a prompt, or out of order; empty if nothing."""
    said = [question for _, question in prompt.messages[:-1:2]]
    known = [question for question in said if question in before]
    if known != [question for question in before if question in said]:
        return f"{said} are not in order"
    if known != before[len(before) - len(known) :]:
        return f"of {before} only {known} are said"
    if not turn.pruned_turns and turn.has_begun and len(known) < len(before):
        return f"{len(before) - len(known)} turns are missing, and it was not told"
    if len(said) < min(ALWAYS_KEPT, len(before)):
        return f"it keeps {len(said)} of {len(before)} turns"
    return ""
