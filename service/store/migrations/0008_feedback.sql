-- What people say of answers, and of what is wrong. It outlives its turn: the note was written to the operator.

CREATE TABLE feedback (
  owner TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('answer', 'issue', 'crash')),
  subject TEXT NOT NULL,
  id TEXT NOT NULL,
  value BIGINT,
  note TEXT,
  turn TEXT REFERENCES turn (id) ON DELETE SET NULL,
  request_id TEXT,
  route TEXT,
  target TEXT,
  state TEXT NOT NULL CHECK (state IN ('open', 'done')),
  made_at {real} NOT NULL,
  done_at {real},
  PRIMARY KEY (owner, kind, subject)
);
CREATE INDEX feedback_id ON feedback (id);
CREATE INDEX feedback_owner ON feedback (owner, made_at);
CREATE INDEX feedback_made ON feedback (made_at);
CREATE INDEX feedback_turn ON feedback (turn);

-- undo
DROP TABLE feedback;
