"""What is known of each target: circuit breakers, limits, budgets, health, and what a failure means.

Other folders ask `fleet.Fleet`, which owns this state.
"""
