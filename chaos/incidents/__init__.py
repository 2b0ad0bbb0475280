"""Incidents of real providers, replayed against the service with and without the mechanism that handles
them."""
