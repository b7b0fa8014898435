#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Run every tier, also after one failed, then sum up. With SUMMARY=no the caller does that (see .ci/run).
set -uo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

tiers=(lint unit matrix integration vm)
[ -d tests/datapath ] && tiers=(lint unit matrix datapath integration vm)

rm -f "$results"/*
# If we are stopped half-way, the rest must not look as if it had never been asked for.
for tier in "${tiers[@]}"; do printf 'unfinished\t0\n' >"$results/$tier.exit"; done
for tier in "${tiers[@]}"; do
    printf '\n== %s\n' "$tier"
    start=$SECONDS
    case $tier in
        lint | matrix | vm) "tests/tools/$tier.sh" ;;
        *) tests/tools/pytest.sh "$tier" ;;
    esac
    printf '%d\t%d\n' "$?" "$((SECONDS - start))" >"$results/$tier.exit"
done
[ "${SUMMARY:-yes}" = no ] || exec python3 tests/tools/summary.py
# Without a summary the caller still needs to know.
! grep -qv '^0' "$results"/*.exit
