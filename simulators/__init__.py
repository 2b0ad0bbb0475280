"""Simulated AI providers: real wire formats, faults on demand, a ledger of what happened."""
