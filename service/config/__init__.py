"""The settings: their types and defaults, the file and the environment, checks, secrets, fallback texts."""
