"""The HTTP endpoints: OpenAI-compatible chat and embeddings, operations, administration and the page."""
