"""Faults of simulated providers: of answers, of HTTP framing and of connections."""
