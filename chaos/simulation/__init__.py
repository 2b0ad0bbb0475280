"""Generated worlds, simulated on virtual time against invariants: `dub5 simulate`."""
