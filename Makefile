SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PYTHON := .venv/bin/python
# How many guests `make lab-up` boots, beside the flake host.
N ?= 4

.PHONY: help setup demo test soak lint lab-up lab-down clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Build .venv and install the system packages that the lab needs
	@tests/tools/setup

demo: setup ## Boot a lab of four hosts and run a whole night on it
	@$(SUDO) tests/tools/demo

test: setup ## Run every linter and every test but the long ones
	@$(SUDO) $(PYTHON) -m tests.tools.check

soak: setup ## Run the long tests: races and enumerations
	@$(SUDO) $(PYTHON) -m tests.tools.check soak

lint: setup ## Run the linters and check the built collection
	@$(PYTHON) -m tests.tools.check lint

lab-up: setup ## Boot the demo's lab and leave it running (N=4 hosts)
	@$(SUDO) $(PYTHON) -m tests.lab up $(N)

lab-down: setup ## Stop the demo's lab and remove it
	@$(SUDO) $(PYTHON) -m tests.lab down

clean: ## Remove what make has built here; a running lab stays
	@$(SUDO) rm -rf .venv .ansible .hypothesis .mypy_cache .pytest_cache .ruff_cache tests/output
	@$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +
