-- Errors in groups, as each process counts them: a restart forgets nothing.

CREATE TABLE problem (
  worker TEXT NOT NULL,
  number BIGINT NOT NULL,
  what TEXT NOT NULL,
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  route TEXT NOT NULL,
  target TEXT NOT NULL,
  count BIGINT NOT NULL,
  anonymous BIGINT NOT NULL,
  people TEXT NOT NULL,
  requests TEXT NOT NULL,
  first_at {real} NOT NULL,
  last_at {real} NOT NULL,
  saved_at {real} NOT NULL,
  PRIMARY KEY (worker, number)
);
CREATE INDEX problem_saved ON problem (saved_at);

-- undo
DROP TABLE problem;
