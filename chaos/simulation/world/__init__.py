"""Worlds as data: the model, generation from a seed, and building the service settings and providers."""
