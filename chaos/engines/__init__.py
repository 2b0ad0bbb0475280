"""Engines run a scenario: `virtual` in this process on virtual time, `toxiproxy` on real processes and
sockets."""
