-- Conversations, their turns, and the processes that answer them.

CREATE TABLE conversation (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  title TEXT NOT NULL,
  model TEXT NOT NULL,
  made_at {real} NOT NULL,
  used_at {real} NOT NULL
);
CREATE INDEX conversation_owner ON conversation (owner, used_at, id);
CREATE INDEX conversation_used ON conversation (used_at);

CREATE TABLE turn (
  id TEXT PRIMARY KEY,
  conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
  asked_as TEXT NOT NULL,
  question TEXT NOT NULL,
  question_tokens BIGINT NOT NULL,
  question_source TEXT NOT NULL,
  flags TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'ended')),
  model TEXT NOT NULL,
  request_id TEXT NOT NULL,
  worker TEXT NOT NULL,
  asked_at {real} NOT NULL,
  answer TEXT,
  answer_tokens BIGINT,
  answer_source TEXT,
  prompt_tokens BIGINT,
  outcome TEXT,
  finish TEXT,
  target TEXT,
  degraded TEXT,
  ended_at {real},
  UNIQUE (conversation, asked_as)
);
CREATE INDEX turn_conversation ON turn (conversation, id);
CREATE INDEX turn_said ON turn (conversation, outcome, id, question_tokens, answer_tokens);

CREATE TABLE worker (
  id TEXT PRIMARY KEY,
  until {real} NOT NULL
);

-- undo
DROP TABLE worker;
DROP TABLE turn;
DROP TABLE conversation;
