-- Documents, as text; and a row of each owner, which is locked while the documents are counted.

CREATE TABLE document (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  size BIGINT NOT NULL,
  pages BIGINT NOT NULL,
  tokens BIGINT NOT NULL,
  flags TEXT NOT NULL,
  text TEXT NOT NULL,
  made_at {real} NOT NULL,
  used_at {real} NOT NULL
);
CREATE INDEX document_of ON document (owner, used_at, id);
CREATE INDEX document_used ON document (used_at);

CREATE TABLE document_count (
  owner TEXT PRIMARY KEY,
  counted_at {real} NOT NULL
);

-- undo
DROP TABLE document_count;
DROP TABLE document;
