#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# pytest.sh <tier> [<pytest argument> ...]: run tests/<tier> and leave its results for summary.py.
# CORE=<version>: with that ansible-core (core_versions of lib.sh), and of the integration tests those that go through Ansible.
# Tiers other than unit change network namespaces and load programs, so they run as root.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

tier=$1
name=$tier
shift
# What root writes must not stand in a user's way later: no bytecode, no cache. To compile the collection anew in each of hundreds
# of drivers takes minutes, so those keep theirs in a place of its own (tests/support/sandbox.py).
export PYTHONDONTWRITEBYTECODE=1 BYTECODE=$cache/bytecode
tests=("tests/$tier")
if [ -n "${CORE:-}" ]; then
    name=$tier-$CORE
    venv=$(core_venv "$CORE")
    [ "$tier" != integration ] || tests=(
        tests/integration/test_{ansible,policy_ansible,connection,roles}.py
        # Of the others those that come by all of their templates, and one of each way: a run of each takes half a minute.
        tests/integration/test_bpf_ansible.py::test_each_other_module_as_a_task
        "tests/integration/test_strategies.py::test_a_play_does_the_same"{"[pipelining]","[mitogen]"}
        tests/integration/test_playbooks.py::{test_site_verify_and_teardown,test_a_wave_that_is_lost_for_good_ends_the_run_with_its_table}
    )
fi
command=("$venv/bin/python" -m)
if [ "${COVERAGE:-no}" != no ]; then # for coverage.sh
    command+=(coverage run -m)
    # Next to free, where a Python has it; others warn and count as ever.
    if "$venv/bin/python" -c 'import sys; sys.monitoring' 2>/dev/null; then export COVERAGE_CORE=sysmon; fi
fi
command+=(pytest -q "${tests[@]}" "--junitxml=$results/$name.xml" "$@")

rm -f "$results/$name.xml" "$results/$name.tsv"
if [ -z "$(find "tests/$tier" -name 'test_*.py' 2>/dev/null | head -n 1)" ]; then
    result "$tier" skipped "tests/$tier" "there are none"
elif [ "$tier" = unit ]; then
    exec "${command[@]}"
elif can_be_root; then
    as_root "${command[@]}" "${no_cache[@]}"
else
    result "$tier" skipped "tests/$tier" "needs root or sudo"
    printf 'skipped tests/%s: needs root or sudo\n' "$tier"
fi
