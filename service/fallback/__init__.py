"""Fallback answers for requests that no provider could answer: labelled texts, and the offline pack."""
