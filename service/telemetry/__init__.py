"""Subscribers of the events: metrics, log lines, the status board, and costs."""
