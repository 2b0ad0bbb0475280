"""All SQL of documents. Each statement has the owner, $1, in its WHERE: nobody reads another one's.

Values that an INSERT selects are cast: PostgreSQL takes them for text.
"""

from dub5.service.store.base import Statement

_DOCUMENT = "id, name, kind, size, pages, tokens, flags, made_at, used_at"

# Before CREATE, in the same transaction: two uploads of one owner are counted one after the other.
LOCK_OWNER = Statement(
    "document_lock_owner",
    "INSERT INTO document_count (owner, counted_at) VALUES ($1, $2)"
    " ON CONFLICT (owner) DO UPDATE SET counted_at = excluded.counted_at",
)
# Does nothing if the owner has $11 others. READ after it, in the same transaction, says whether it is there.
CREATE = Statement(
    "document_create",
    "INSERT INTO document (owner, id, name, kind, size, pages, tokens, flags, text, made_at, used_at)"
    " SELECT $1, $2, $3, $4, CAST($5 AS BIGINT), CAST($6 AS BIGINT), CAST($7 AS BIGINT), $8, $9,"
    " CAST($10 AS DOUBLE PRECISION), CAST($10 AS DOUBLE PRECISION)"
    " WHERE (SELECT COUNT(*) FROM document WHERE owner = $1 AND id <> $2) < CAST($11 AS BIGINT)"
    " ON CONFLICT DO NOTHING",
)
COUNTED = Statement("document_counted", "SELECT id FROM document WHERE owner = $1 LIMIT $2")
LIST = Statement(
    "document_list",
    f"SELECT {_DOCUMENT} FROM document WHERE owner = $1 ORDER BY used_at DESC, id DESC LIMIT $2",
)
LIST_BEFORE = Statement(
    "document_list_before",
    f"SELECT {_DOCUMENT} FROM document WHERE owner = $1 AND (used_at, id) <"
    " (SELECT used_at, id FROM document WHERE owner = $1 AND id = $2)"
    " ORDER BY used_at DESC, id DESC LIMIT $3",
)
READ = Statement("document_read", f"SELECT {_DOCUMENT} FROM document WHERE owner = $1 AND id = $2")
TEXT = Statement("document_text", f"SELECT {_DOCUMENT}, text FROM document WHERE owner = $1 AND id = $2")
USE = Statement(
    "document_use",
    "UPDATE document SET used_at = CAST($3 AS DOUBLE PRECISION)"
    " WHERE owner = $1 AND id = $2 AND used_at < CAST($3 AS DOUBLE PRECISION)",
)
DELETE = Statement("document_delete", "DELETE FROM document WHERE owner = $1 AND id = $2 RETURNING id")
DELETE_OLD_COUNTS = Statement(  # the rows that LOCK_OWNER leaves
    "document_delete_old_counts",
    "DELETE FROM document_count WHERE owner IN"
    " (SELECT owner FROM document_count WHERE counted_at < $1 ORDER BY counted_at LIMIT $2) RETURNING owner",
)
DELETE_OLD = Statement(  # of all owners: those that were used last before $1
    "document_delete_old",
    "DELETE FROM document WHERE id IN"
    " (SELECT id FROM document WHERE used_at < $1 ORDER BY used_at LIMIT $2) RETURNING id",
)
