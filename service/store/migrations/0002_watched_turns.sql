-- Until when a process waits for the end of a turn that another one answers.

ALTER TABLE turn ADD COLUMN watched_until {real};

-- undo
ALTER TABLE turn DROP COLUMN watched_until;
