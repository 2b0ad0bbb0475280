"""The statements of conversations, with values as somebody gives them who knows every id."""

import importlib

from dub5.service.conversation.statements import ASK, CREATE
from dub5.service.documents.statements import CREATE as CREATE_DOCUMENT
from dub5.service.store.base import Statement, Value
from tests.support.source import ROOT

ME, STRANGER = "session:me", "session:stranger"
TALK, TURN, NOW = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAX", 1_000.0
OTHER = "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"  # a conversation of somebody else, and its turn


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


END = ("complete", "chat", "whole", 3, "estimate", 2, "estimate", None, "stop", "one/m", None, NOW + 1)
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
}
FOR_ITS_MAKER = {"conversation_create", "document_create", "document_lock_owner"}
# A conversation of mine, whose one turn is open, and a document; and those of somebody else.
FILLING = [
    bound
    for owner, id_, turn in ((ME, TALK, TURN), ("session:other", OTHER, OTHER))
    for bound in (
        CREATE.bind(owner, id_, "", "chat", NOW),
        ASK.bind(owner, id_, turn, "asked", "Hi", 1, "estimate", "", "", "r", "w", NOW),
        CREATE_DOCUMENT.bind(owner, id_, "a.txt", "txt", 4, 1, 1, "", "text", NOW, 50),
    )
]
