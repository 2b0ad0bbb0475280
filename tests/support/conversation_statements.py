"""The statements of conversations, with values as somebody gives them who knows every id."""

import importlib

from dub5.service.conversation.statements import ASK, CREATE
from dub5.service.documents.statements import CREATE as CREATE_DOCUMENT
from dub5.service.feedback.statements import GIVE_OF_TURN
from dub5.service.jobs.statements import CLAIM, RENEW
from dub5.service.jobs.statements import CREATE as CREATE_JOB
from dub5.service.store.base import Statement, Value
from dub5.service.study.statements import ADD_PART
from dub5.service.study.statements import CREATE as CREATE_DECK
from tests.support.source import ROOT

ME, STRANGER = "session:me", "session:stranger"
TALK, TURN, NOW = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAX", 1_000.0
OTHER = "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"  # a conversation of somebody else, and its turn
LEASE = "0123456789abcdef"


def statements() -> dict[str, Statement]:
    """Return every statement of the files `statements.py`, by name."""
    found = {}
    for file in (ROOT / "service").rglob("statements.py"):
        module = ".".join(("dub5", *file.relative_to(ROOT).with_suffix("").parts))
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, Statement):
                assert value.name not in found, f"two statements are named {value.name}"
                found[value.name] = value
    return found


END = ("complete", "chat", "whole", 3, "estimate", 2, "estimate", None, "stop", "one/m", None, None, NOW + 1)
# The values after the owner, as somebody gives them who knows every id.
VALUES: dict[str, tuple[Value, ...]] = {
    "conversation_list": (10,),
    "conversation_list_before": (OTHER, 10),
    "conversation_read": (TALK, NOW, "8", 10),
    "conversation_rename": (TALK, "theirs", "other"),
    "conversation_delete": (TALK,),
    "conversation_use": (TALK, "theirs", NOW + 10),
    "turn_history": (TALK, "new", "new", 1_000),
    "turn_ask": (TALK, "new", "new", "Hi", 1, "estimate", "", "", "req", "worker", NOW),
    "turn_asked": (TALK, NOW, "asked"),
    "turn_end": (TALK, TURN, *END),
    "turn_read": (TURN, NOW),
    "turn_watch": (TALK, TURN, NOW + 10),
    "turn_watched": (TALK, TURN, NOW),
    "document_list": (10,),
    "document_list_before": (OTHER, 10),
    "document_counted": (10,),
    "document_read": (TALK,),
    "document_text": (TALK,),
    "document_use": (TALK, NOW + 10),
    "document_delete": (TALK,),
    "turn_abandon": (TALK, TURN, NOW, "other"),
    "deck_counted": (10,),
    "deck_list": (10,),
    "deck_list_before": (OTHER, 10),
    "deck_read": (TALK,),
    "deck_parts": (TALK,),
    "deck_use": (TALK, NOW + 10),
    "deck_job": (TALK,),
    "deck_delete": (TALK,),
    "deck_add_part": (TALK, 2, 1, 1, "theirs"),
    "deck_take_over": (TALK, "new", TURN),
    "deck_next_part": (TALK, TURN),
    "deck_keep_part": (TALK, TURN, 1, "[]", "template"),
    "job_read": (TURN,),
    "job_stop": (TURN, "It was stopped.", NOW + 1),
    "job_delete": (TALK,),
    "job_claim_one": (TURN, LEASE, NOW + 60, NOW + 90),
    "job_renew": (TURN, LEASE, NOW + 60),
    "job_advance": (TURN, LEASE, 0, NOW + 1, NOW + 31),
    "job_fail": (TURN, LEASE, "It failed.", NOW + 1),
    "job_release": (TURN, LEASE, NOW + 1, 0),
    "feedback_give_of_turn": ("new", "issue", "new", None, "Slow", NOW, 0.0, 10, TURN),
    "feedback_find": ("answer", f"turn {TURN}"),
    "feedback_find_turn": (TURN,),
    "feedback_list": (TALK, "8", 10),
}
FOR_ITS_MAKER = {
    "conversation_create",
    "deck_create",
    "document_create",
    "document_lock_owner",
    "job_create",
    "feedback_give",
}
FOR_ALL_OWNERS = {
    "deck_delete_old",
    "document_delete_old",
    "document_delete_old_counts",
    "job_claim",
    "job_unclaim",
    "job_delete_old",
    "feedback_list_all",
    "feedback_mark",
    "feedback_delete_old",
}  # of a process by itself
OWNED_TABLES = ("conversation", "deck", "document", "feedback", "job")  # with an owner in each row
TABLES = (*OWNED_TABLES, "deck_part", "turn")
# A conversation of mine, whose one turn is open, a document, a job at work for a deck; and as much of others.
FILLING = [
    bound
    for owner, id_, turn in ((ME, TALK, TURN), ("session:other", OTHER, OTHER))
    for bound in (
        CREATE.bind(owner, id_, "", "chat", NOW, None),
        ASK.bind(owner, id_, turn, "asked", "Hi", 1, "estimate", "", "", "r", "w", NOW),
        CREATE_DOCUMENT.bind(owner, id_, "a.txt", "txt", 4, 1, 1, "", "text", NOW, 50),
        CREATE_JOB.bind(owner, turn, "deck", id_, 2, NOW),
        CLAIM.bind(LEASE, NOW, NOW + 30, "deck"),
        RENEW.bind(owner, turn, LEASE, NOW + 30),
        CREATE_DECK.bind(owner, id_, id_, "A", "chat", turn, NOW, 100),
        ADD_PART.bind(owner, id_, 1, 1, 5, "text"),
        GIVE_OF_TURN.bind(owner, turn, "answer", f"turn {turn}", 1, None, NOW, 0.0, 10, turn),
    )
]
