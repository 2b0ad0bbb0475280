-- Jobs: work in steps. `run_at`: from when on a worker may take it; while one has it, the end of the lease.

CREATE TABLE job (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  steps BIGINT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('ready', 'running', 'done', 'failed')),
  done BIGINT NOT NULL,
  tries BIGINT NOT NULL,
  run_at {real} NOT NULL,
  lease TEXT,
  problem TEXT,
  made_at {real} NOT NULL,
  ended_at {real}
);
CREATE INDEX job_due ON job (run_at) WHERE ended_at IS NULL;
CREATE INDEX job_subject ON job (subject);
CREATE INDEX job_made ON job (made_at);

-- undo
DROP TABLE job;
