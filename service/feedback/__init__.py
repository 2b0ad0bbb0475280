"""Feedback: what people say of answers, and of what is wrong."""
