"""Failover: the loop over targets, one attempt, hedges and races, probes, and the error when all failed."""
