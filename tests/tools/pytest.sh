#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# pytest.sh <tier> [<pytest argument> ...]: run tests/<tier> and leave its results for summary.py.
# Tiers other than unit change network namespaces and load programs, so they run as root.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

tier=$1
shift
# What root writes must not stand in a user's way later: no bytecode, no cache.
export PYTHONDONTWRITEBYTECODE=1
command=("$venv/bin/python" -m pytest -q "tests/$tier" "--junitxml=$results/$tier.xml" "$@")

rm -f "$results/$tier.xml" "$results/$tier.tsv"
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
