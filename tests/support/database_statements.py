"""Statements on the tables of conversations, for tests of the databases."""

from dub5.service.store.base import BoundStatement, Statement

WORKER = Statement(
    "add worker",
    "INSERT INTO worker (id, until) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING RETURNING id, until",
)
WORKERS = Statement("workers", "SELECT id, until FROM worker ORDER BY id")
RENEW = Statement("renew", "UPDATE worker SET until = $2 WHERE id = $1 AND until < $2 RETURNING until")
CONVERSATION = Statement(
    "add conversation",
    "INSERT INTO conversation (id, owner, title, model, made_at, used_at) VALUES ($1, $2, $3, $4, $5, $6)"
    " ON CONFLICT (id) DO NOTHING",
)
DELETE = Statement("delete conversation", "DELETE FROM conversation WHERE id = $1 AND owner = $2")
TURN = Statement(
    "add turn",
    "INSERT INTO turn (id, conversation, asked_as, question, question_tokens, question_source, flags, state,"
    " model, request_id, worker, asked_at, answer_tokens)"
    " VALUES ($1, $2, $1, $3, $4, 'estimate', '', 'open', 'chat', 'r', 'w', 1.5, NULL)",
)
TURNS = Statement(
    "turns",
    "SELECT id, question, question_tokens, asked_at, answer, answer_tokens FROM turn"
    " WHERE conversation = $1 ORDER BY id",
)


def talk(name: str) -> BoundStatement:
    """Return the statement that adds a conversation."""
    return CONVERSATION.bind(name, "owner", "A title", "chat", 1.25, 2.5)
