"""The SQL of the operator, who reads the feedback of all owners, and of the retention."""

from dub5.service.feedback.statements import ENTRY
from dub5.service.store.base import Statement

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
