"""Admission control: caller keys, the bound on open requests, and the queue for providers at capacity."""
