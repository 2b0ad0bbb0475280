-- The document that a conversation asks about, and what became of the statements of an answer about one (JSON).

ALTER TABLE conversation ADD COLUMN document TEXT;
ALTER TABLE turn ADD COLUMN grounding TEXT;

-- undo
ALTER TABLE turn DROP COLUMN grounding;
ALTER TABLE conversation DROP COLUMN document;
