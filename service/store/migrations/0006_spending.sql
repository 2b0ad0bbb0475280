-- What each process has spent with each provider's key, by day (UTC, days since the epoch).

CREATE TABLE spending (
  day BIGINT NOT NULL,
  worker TEXT NOT NULL,
  provider TEXT NOT NULL,
  key TEXT NOT NULL,
  usd {real} NOT NULL,
  PRIMARY KEY (day, worker, provider, key)
);

-- undo
DROP TABLE spending;
