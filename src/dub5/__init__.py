"""A chat backend that always answers, and the harness that proves it.

service      the product: an OpenAI-compatible chat service over many unreliable providers
simulators   providers that speak the true wire formats, with faults on demand
chaos        scenarios, incidents and simulated worlds, each with a verdict
loadtests    load by Locust, held to objectives
"""
