-- Decks of flashcards. A part keeps its text, so a deck outlives its document; `cards` is JSON, once they are
-- made. `asked_by`: the job that asked for them last.

CREATE TABLE deck (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  document TEXT NOT NULL,
  title TEXT NOT NULL,
  model TEXT NOT NULL,
  job TEXT NOT NULL,
  made_at {real} NOT NULL,
  used_at {real} NOT NULL
);
CREATE INDEX deck_owner ON deck (owner, id);
CREATE INDEX deck_used ON deck (used_at);

CREATE TABLE deck_part (
  deck TEXT NOT NULL REFERENCES deck (id) ON DELETE CASCADE,
  number BIGINT NOT NULL,
  page BIGINT NOT NULL,
  wanted BIGINT NOT NULL,
  text TEXT NOT NULL,
  cards TEXT,
  source TEXT CHECK (source IN ('model', 'template')),
  asked_by TEXT,
  PRIMARY KEY (deck, number)
);

-- undo
DROP TABLE deck_part;
DROP TABLE deck;
