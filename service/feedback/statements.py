"""The SQL of feedback. $1 is the owner, but for the operator: nobody speaks of another one's turn.

One row for each owner and answer: the later feedback wins, by its id, however often both are sent. An issue
is a subject of its own. What an INSERT selects is cast: PostgreSQL takes it for text.
"""

from dub5.service.store.base import Statement

_COLUMNS = (
    "owner, id, kind, subject, value, note, made_at, turn, request_id, route, target, state"  # $1 to $7, ...
)
_GIVEN = "$2, $3, $4, CAST($5 AS BIGINT), $6, CAST($7 AS DOUBLE PRECISION)"
# Since $8 the owner has given less than $9; or changes their mind.
_HAS_ROOM = (
    "((SELECT COUNT(*) FROM feedback f WHERE f.owner = $1 AND f.made_at > $8) < $9"
    " OR EXISTS (SELECT 1 FROM feedback f WHERE f.owner = $1 AND f.kind = $3 AND f.subject = $4))"
)
_LATER_WINS = (
    " ON CONFLICT (owner, kind, subject) DO UPDATE SET id = excluded.id, value = excluded.value,"
    " note = excluded.note, made_at = excluded.made_at, route = excluded.route, target = excluded.target,"
    " state = 'open', done_at = NULL WHERE feedback.id < excluded.id"
)
ENTRY = (
    "f.id, f.kind, f.value, f.note, f.turn, f.request_id, f.route, f.target, f.made_at, f.state, f.done_at"
)

GIVE = Statement(  # of no turn: $10 is the id of a request, $11 and $12 what this process knows of it
    "feedback_give",
    f"INSERT INTO feedback ({_COLUMNS}) SELECT CAST($1 AS TEXT), {_GIVEN}, NULL, $10, $11, $12, 'open'"
    f" WHERE {_HAS_ROOM}{_LATER_WINS}",
)
GIVE_OF_TURN = Statement(  # $10 is the turn
    "feedback_give_of_turn",
    f"INSERT INTO feedback ({_COLUMNS})"
    f" SELECT c.owner, {_GIVEN}, t.id, t.request_id, t.model, t.target, 'open'"
    " FROM conversation c JOIN turn t ON t.conversation = c.id"
    f" WHERE c.owner = $1 AND t.id = $10 AND {_HAS_ROOM}{_LATER_WINS}",
)
FIND = Statement(
    "feedback_find",
    f"SELECT {ENTRY} FROM feedback f WHERE f.owner = $1 AND f.kind = $2 AND f.subject = $3",
)
FIND_TURN = Statement(
    "feedback_find_turn",
    "SELECT t.id FROM conversation c JOIN turn t ON t.conversation = c.id WHERE c.owner = $1 AND t.id = $2",
)
LIST = Statement(  # of the answers in a conversation, $2, that are older than the turn $3
    "feedback_list",
    f"SELECT {ENTRY} FROM conversation c JOIN turn t ON t.conversation = c.id"
    " JOIN feedback f ON f.turn = t.id"
    " WHERE c.owner = $1 AND c.id = $2 AND t.id < $3 AND f.owner = $1 AND f.kind = 'answer'"
    " ORDER BY t.id DESC LIMIT $4",
)
# Of the operator, who reads the feedback of all owners, and of the retention.
LIST_ALL = Statement(  # older than $1; each filter is NULL for whatever it is
    "feedback_list_all",
    f"SELECT {ENTRY}, f.owner FROM feedback f WHERE f.id < $1"
    " AND (CAST($2 AS TEXT) IS NULL OR f.kind = $2) AND (CAST($3 AS BIGINT) IS NULL OR f.value = $3)"
    " AND (CAST($4 AS TEXT) IS NULL OR f.target = $4) AND (CAST($5 AS TEXT) IS NULL OR f.state = $5)"
    " ORDER BY f.id DESC LIMIT $6",
)
MARK = Statement(
    "feedback_mark",
    "UPDATE feedback SET state = $2, done_at = CAST($3 AS DOUBLE PRECISION) WHERE id = $1"
    " RETURNING id, kind, value, note, turn, request_id, route, target, made_at, state, done_at, owner",
)
DELETE_OLD = Statement(
    "feedback_delete_old",
    "DELETE FROM feedback WHERE id IN"
    " (SELECT id FROM feedback WHERE made_at < $1 ORDER BY made_at LIMIT $2) RETURNING id",
)
