"""All SQL of decks. Each statement has the owner in its WHERE, ANDed: nobody reads another one's.

$1 is the owner, $2 the deck. Values that an INSERT selects are cast: PostgreSQL takes them for text.
"""

from dub5.service.jobs.statements import COLUMNS as JOB_COLUMNS
from dub5.service.store.base import Statement

_MINE = "SELECT id FROM deck WHERE owner = $1 AND id = $2"
_DECK = (
    "d.id, d.title, d.document, d.model, d.made_at, d.used_at,"
    " (SELECT COUNT(*) FROM deck_part p WHERE p.deck = d.id),"
    " (SELECT COUNT(*) FROM deck_part p WHERE p.deck = d.id AND p.source = 'template'),"
    f" {', '.join(f'j.{column}' for column in JOB_COLUMNS.split(', '))}"
    f" FROM deck d LEFT JOIN (SELECT {JOB_COLUMNS} FROM job WHERE owner = $1) j ON j.id = d.job"
)

# Does nothing if the owner has $8 others: JOB_OF after it, in the same transaction, says whether it is there.
CREATE = Statement(
    "deck_create",
    "INSERT INTO deck (owner, id, document, title, model, job, made_at, used_at)"
    " SELECT $1, $2, $3, $4, $5, $6, CAST($7 AS DOUBLE PRECISION), CAST($7 AS DOUBLE PRECISION)"
    " WHERE (SELECT COUNT(*) FROM deck WHERE owner = $1 AND id <> $2) < CAST($8 AS BIGINT)"
    " ON CONFLICT DO NOTHING",
)
ADD_PART = Statement(
    "deck_add_part",
    "INSERT INTO deck_part (deck, number, page, wanted, text)"
    " SELECT id, CAST($3 AS BIGINT), CAST($4 AS BIGINT), CAST($5 AS BIGINT), $6"
    " FROM deck WHERE owner = $1 AND id = $2 ON CONFLICT DO NOTHING RETURNING number",
)
COUNTED = Statement("deck_counted", "SELECT id FROM deck WHERE owner = $1 LIMIT $2")
LIST = Statement("deck_list", f"SELECT {_DECK} WHERE d.owner = $1 ORDER BY d.id DESC LIMIT $2")
LIST_BEFORE = Statement(
    "deck_list_before", f"SELECT {_DECK} WHERE d.owner = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3"
)
READ = Statement("deck_read", f"SELECT {_DECK} WHERE d.owner = $1 AND d.id = $2")
PARTS = Statement(
    "deck_parts",
    f"SELECT number, page, cards, source FROM deck_part WHERE deck IN ({_MINE}) ORDER BY number",
)
USE = Statement(
    "deck_use",
    "UPDATE deck SET used_at = CAST($3 AS DOUBLE PRECISION)"
    " WHERE owner = $1 AND id = $2 AND used_at < CAST($3 AS DOUBLE PRECISION)",
)
JOB_OF = Statement("deck_job", "SELECT job FROM deck WHERE owner = $1 AND id = $2")
DELETE = Statement("deck_delete", "DELETE FROM deck WHERE owner = $1 AND id = $2 RETURNING id")
# Another job, $3, in place of $4. Of two at one time one finds the job that it has read.
TAKE_OVER = Statement(
    "deck_take_over",
    "UPDATE deck SET job = $3 WHERE owner = $1 AND id = $2 AND job IN ($3, $4) RETURNING id",
)
# The part that the job $3 is to ask for next, while it is the one of its deck.
NEXT_PART = Statement(
    "deck_next_part",
    "SELECT p.number, p.wanted, p.text, d.title, d.model FROM deck d JOIN deck_part p ON p.deck = d.id"
    " WHERE d.owner = $1 AND d.id = $2 AND d.job = $3 AND (p.source IS NULL OR p.source = 'template')"
    " AND (p.asked_by IS NULL OR p.asked_by <> $3) ORDER BY p.number LIMIT 1",
)
KEEP_PART = Statement(  # once for each job: of two workers at one step the first one counts
    "deck_keep_part",
    "UPDATE deck_part SET cards = $5, source = $6, asked_by = $3"
    " WHERE deck IN (SELECT id FROM deck WHERE owner = $1 AND id = $2 AND job = $3)"
    " AND number = $4 AND (asked_by IS NULL OR asked_by <> $3) RETURNING number",
)
DELETE_OLD = Statement(
    "deck_delete_old",
    "DELETE FROM deck WHERE id IN (SELECT id FROM deck WHERE used_at < $1 ORDER BY used_at LIMIT $2)"
    " RETURNING id",
)
