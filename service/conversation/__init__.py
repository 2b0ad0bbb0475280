"""Conversations: questions and answers, kept in the store. They call the gateway as anybody does."""
