"""One run of a scenario: its clients, the judge of their replies, the journal, and the verdict on it."""
