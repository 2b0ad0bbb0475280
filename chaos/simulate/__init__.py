"""The deterministic simulation: the whole service against drawn worlds, in virtual time, every promise watched."""
