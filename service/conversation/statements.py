"""All SQL of conversations. Each statement has the owner in its WHERE, ANDed: nobody reads another one's.

$1 is the owner, $2 the conversation. Values that an INSERT selects are cast: PostgreSQL takes them for text.
"""

from dub5.service.store.base import Statement

_CONVERSATION = "id, title, model, made_at, used_at, document"
_MINE = "SELECT id FROM conversation WHERE owner = $1 AND id = $2"
# $3: now. A turn whose worker is gone is never ended by it.
_TURN = (
    "t.id, t.asked_as, t.question, t.question_tokens, t.question_source, t.flags, t.state, t.model,"
    " t.asked_at, t.answer, t.answer_tokens, t.answer_source, t.prompt_tokens, t.outcome, t.finish, t.target,"
    " t.degraded, t.ended_at, CASE WHEN t.state = 'ended' OR EXISTS"
    " (SELECT 1 FROM worker w WHERE w.id = t.worker AND w.until > CAST($3 AS DOUBLE PRECISION))"
    " THEN 1 ELSE 0 END, t.worker, t.grounding"
)

CREATE = Statement(
    "conversation_create",
    f"INSERT INTO conversation (owner, {_CONVERSATION}) VALUES ($1, $2, $3, $4, $5, $5, $6)"
    " ON CONFLICT DO NOTHING",
)
LIST = Statement(
    "conversation_list",
    f"SELECT {_CONVERSATION} FROM conversation WHERE owner = $1 ORDER BY used_at DESC, id DESC LIMIT $2",
)
LIST_BEFORE = Statement(
    "conversation_list_before",
    f"SELECT {_CONVERSATION} FROM conversation WHERE owner = $1 AND (used_at, id) <"
    " (SELECT used_at, id FROM conversation WHERE owner = $1 AND id = $2)"
    " ORDER BY used_at DESC, id DESC LIMIT $3",
)
READ = Statement(  # the newest turns before the turn $4
    "conversation_read",
    f"SELECT c.id, c.title, c.model, c.made_at, c.used_at, c.document, {_TURN}"
    " FROM conversation c LEFT JOIN turn t ON t.conversation = c.id AND t.id < $4"
    " WHERE c.owner = $1 AND c.id = $2 ORDER BY t.id DESC LIMIT $5",
)
RENAME = Statement(
    "conversation_rename",
    "UPDATE conversation SET title = COALESCE($3, title), model = COALESCE($4, model)"
    f" WHERE owner = $1 AND id = $2 RETURNING {_CONVERSATION}",
)
DELETE = Statement(
    "conversation_delete", "DELETE FROM conversation WHERE owner = $1 AND id = $2 RETURNING id"
)
# What is to be remembered: how many turns and tokens there are, and the newest turns: two, and twice as many
# as fit in $5 tokens, as long as turns are on average (8 more for the format). Windows (SUM OVER) would be
# exact, and take SQLite four times as long. Also which other turn than $4 was asked as $3.
HISTORY = Statement(
    "turn_history",
    "WITH mine AS (SELECT id, model, document FROM conversation WHERE owner = $1 AND id = $2),"
    " whole AS (SELECT COUNT(*) AS turns,"
    " CAST(COALESCE(SUM(question_tokens + answer_tokens), 0) AS BIGINT) AS tokens FROM turn"
    " WHERE conversation IN (SELECT id FROM mine) AND outcome = 'complete' AND answer_tokens > 0)"
    " SELECT mine.model, whole.turns, whole.tokens,"
    " (SELECT t.id FROM turn t WHERE t.conversation IN (SELECT id FROM mine) AND t.asked_as = $3"
    " AND t.id <> $4), mine.document,"
    " t.question, t.question_tokens, t.question_source, t.answer, t.answer_tokens, t.answer_source,"
    " t.asked_at, t.ended_at, t.prompt_tokens, t.target, t.model FROM mine CROSS JOIN whole LEFT JOIN"
    " turn t ON t.conversation = mine.id AND t.outcome = 'complete' AND t.answer_tokens > 0"
    " ORDER BY t.id DESC"
    " LIMIT (SELECT 2 + 2 * CAST($5 AS BIGINT) * turns / (tokens + 8 * turns + 1) FROM whole)",
)
USE = Statement(
    "conversation_use",
    "UPDATE conversation SET title = CASE WHEN title = '' THEN $3 ELSE title END,"
    " used_at = CASE WHEN used_at < CAST($4 AS DOUBLE PRECISION)"
    " THEN CAST($4 AS DOUBLE PRECISION) ELSE used_at END WHERE owner = $1 AND id = $2",
)
ASK = Statement(
    "turn_ask",
    "INSERT INTO turn (conversation, id, asked_as, question, question_tokens, question_source, flags, state,"
    " model, request_id, worker, asked_at)"
    " SELECT id, $3, $4, $5, CAST($6 AS BIGINT), $7, $8, 'open', CASE WHEN $9 = '' THEN model ELSE $9 END,"
    " $10, $11, CAST($12 AS DOUBLE PRECISION) FROM conversation WHERE owner = $1 AND id = $2"
    " ON CONFLICT DO NOTHING RETURNING id",
)
ASKED = Statement(
    "turn_asked",
    f"SELECT {_TURN} FROM turn t WHERE t.conversation IN ({_MINE}) AND t.asked_as = $4",
)
TURN = Statement(  # of a turn alone: $2 is its id
    "turn_read",
    f"SELECT {_TURN}, t.conversation FROM turn t JOIN conversation c ON c.id = t.conversation"
    " WHERE c.owner = $1 AND t.id = $2",
)
WATCH = Statement(  # another process waits for its end, until $4 at least
    "turn_watch",
    "UPDATE turn SET watched_until = CAST($4 AS DOUBLE PRECISION)"
    f" WHERE conversation IN ({_MINE}) AND id = $3 AND state = 'open'",
)
WATCHED = Statement(
    "turn_watched",
    f"SELECT t.id FROM turn t WHERE t.conversation IN ({_MINE}) AND t.id = $3"
    " AND t.watched_until > CAST($4 AS DOUBLE PRECISION)",
)
# A write whose answer was lost is sent again: the second one finds its own end, and says so.
END = Statement(
    "turn_end",
    "UPDATE turn SET state = 'ended', outcome = $4, model = $5, answer = $6,"
    " answer_tokens = CAST($7 AS BIGINT), answer_source = $8,"
    " question_tokens = CAST($9 AS BIGINT), question_source = $10,"
    " prompt_tokens = CAST($11 AS BIGINT), finish = $12, target = $13, degraded = $14,"
    " grounding = $15, ended_at = CAST($16 AS DOUBLE PRECISION)"
    f" WHERE conversation IN ({_MINE}) AND id = $3"
    " AND (state = 'open' OR ended_at = CAST($16 AS DOUBLE PRECISION)) RETURNING id",
)
ABANDON = Statement(  # what was left open by a worker that is gone, or by this one, $5
    "turn_abandon",
    "UPDATE turn SET state = 'ended', outcome = 'cut', ended_at = CAST($4 AS DOUBLE PRECISION)"
    f" WHERE conversation IN ({_MINE}) AND id = $3 AND state = 'open' AND (worker = $5 OR NOT EXISTS"
    " (SELECT 1 FROM worker w WHERE w.id = turn.worker AND w.until > CAST($4 AS DOUBLE PRECISION)))",
)
