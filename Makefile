# The commands for people; each makes what it needs. `nox -l` lists the rest.
PYTHON := .venv/bin/python

.PHONY: help setup demo test serve clean

help:
	@echo "make demo    three providers, one bad minute: live view, verdict, report (about 70 s)"
	@echo "make test    the whole test suite"
	@echo "make serve   simulated providers and the service, until Ctrl-C; prints the page's address"
	@echo "make clean   remove .venv, .tools, .nox and reports"
	@echo "more: .venv/bin/nox -l, and .venv/bin/dub5 --help"

setup:
	@.ci/setup

demo: setup
	@$(PYTHON) -m chaos demo

serve: setup
	@$(PYTHON) -m chaos serve

test: setup
	@$(PYTHON) -m pytest

clean:
	rm -rf .venv .tools .nox reports
