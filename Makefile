# Works with GNU make 3.81 and newer. Everything real is in .ci/setup and in `dub5` (src/dub5/cli.py).
DUB5 = .venv/bin/python -m dub5
PARALLEL = -n auto --dist loadfile --no-loadscope-reorder

# Bytecode is kept, or each of the many processes of a demo or a test would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test serve

help:
	@echo "make demo    a minute of an incident: three failing providers, one service, live, with a verdict and a report"
	@echo "make serve   the service and simulated providers, kept running, with a page; conversations are kept in data/"
	@echo "make test    the test suite, on all cores; long forms: .venv/bin/nox -s thorough"
	@echo
	@echo "Each makes .venv first, with the versions of constraints.txt. All verbs: .venv/bin/nox -l"

demo:
	@sh .ci/setup toxiproxy
	@$(DUB5) demo

serve:
	@sh .ci/setup
	@$(DUB5) playground

test:
	@sh .ci/setup
	@.venv/bin/python -m pytest $(PARALLEL)
