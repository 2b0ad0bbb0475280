"""An OpenAI-compatible chat service over many unreliable AI providers, and the harness that tests it.

service      the product: failover, hedging, circuit breakers, cache, fallbacks behind one API
simulators   simulated providers that speak the real wire formats, with faults on demand
chaos        scenarios, incidents and simulated worlds, each with a verdict
loadtests    load tests with Locust, checked against objectives
"""
