"""Conversations: what people ask and are answered, kept in the store. They call the gateway as anybody does."""
