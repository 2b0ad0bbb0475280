"""The chaos harness: scenarios, incidents and simulated worlds, each run against the service with a
verdict.

scenario    what goes wrong when, and what must hold: the TOML files and their reader
engines     where a scenario runs: on virtual time, or on real sockets with Toxiproxy
run         one run: clients, faults, samples, the judge of each reply, the journal and the verdict
report      the live view and the HTML report
incidents   incidents of real providers, replayed with and without the mechanism that handles them
simulation  generated worlds, checked against invariants
"""
