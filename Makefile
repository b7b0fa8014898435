# SPDX-License-Identifier: GPL-3.0-or-later
# `make` lists the targets. What they need is in .venv (made on demand) and, beyond Python, in .ci/run.

# More arguments for the programs behind a target: make test-unit ARGS='-k plan'
ARGS ?=
# The VM scenarios to run: make test-vm SCENARIOS='netkit reboot'
SCENARIOS ?=

export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections
tools := tests/tools
made := .venv .cache .ansible .hypothesis tests/output
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help venv lint lint-fast test test-unit test-matrix test-datapath test-integration test-vm bench pythons check coverage \
	docs demo demo-local demo-shell demo-clean format changelog clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

venv:            ## make or renew .venv
	@$(tools)/env.sh

lint: venv       ## all static checks, ansible-test sanity among them; ARGS='ruff core-2.18' for some
	@$(tools)/lint.sh $(ARGS)

lint-fast: venv  ## ruff, mypy and yamllint, in a second: before each commit
	@$(tools)/lint.sh fast

check: venv      ## before each commit: put in form, lint what changed, unit tests
	@$(tools)/check.sh

test: venv       ## every tier, and a summary that says what was skipped and why
	@$(tools)/test.sh

test-unit: venv  ## pure code
	@$(tools)/pytest.sh unit $(ARGS)

pythons: venv    ## fetch Pythons that test-matrix and lint lack from Debian, into .cache (root)
	@$(tools)/python.sh

test-matrix: venv ## the unit tests under each Python found, from 3.9 on
	@$(tools)/matrix.sh

test-datapath: venv ## BPF programs against single packets (root)
	@$(tools)/pytest.sh datapath $(ARGS)

test-integration: venv ## modules against this kernel, in namespaces of their own (root)
	@$(tools)/pytest.sh integration $(ARGS)

test-vm: venv    ## Molecule scenarios on QEMU machines; SCENARIOS='one two' for some
	@$(tools)/vm.sh $(SCENARIOS)

coverage: venv   ## lines of module_utils and modules that unit, datapath and integration tests run (root)
	@$(tools)/coverage.sh unit datapath integration

bench: venv      ## speed, beside the alternatives (root)
	@source $(tools)/lib.sh && as_root .venv/bin/python tests/bench $(ARGS)

docs: venv       ## the documentation as a web site
	@$(tools)/docs.sh

demo: venv       ## try it on a small virtual machine: see the README
	@$(tools)/demo.sh run

demo-local: venv ## try it on this machine's own kernel
	@$(tools)/demo.sh local

demo-shell: venv ## a shell in the demo
	@$(tools)/demo.sh shell

demo-clean: venv ## remove the demo
	@$(tools)/demo.sh clean

format: venv     ## put Python and C files in form
	@.venv/bin/ruff check --quiet --fix . ; .venv/bin/ruff format --quiet . ; git ls-files '*.[ch]' | xargs .venv/bin/clang-format -i

changelog: venv  ## regenerate CHANGELOG.md from the fragments and the modules there are
	@PATH=$(CURDIR)/.venv/bin:$$PATH antsibull-changelog release --reload-plugins --refresh --update-existing

# What root's tests made may be root's.
clean:           ## remove what the tools made: .venv and .cache
	@rm -rf $(made) 2>/dev/null || sudo rm -rf $(made)
