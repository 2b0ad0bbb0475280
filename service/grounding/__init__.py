"""Grounding: an answer about a document is told only where the passages that it cites hold its statements."""
