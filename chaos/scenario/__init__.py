"""Scenarios: the model, the reader of the TOML files, the planned load, and the settings of a run."""
