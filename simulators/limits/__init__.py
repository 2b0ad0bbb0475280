"""Limits of simulated providers: rate limits and concurrency."""
