"""The ways to run a scenario: `run(scenario, seed, watch, ...) -> Journal`, by name."""
