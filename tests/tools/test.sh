#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Run every tier, also after one failed, then sum up. With SUMMARY=no the caller does that (see .ci/run).
set -uo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

# The machines run on one core, the other tiers on the other, but for the static checks, which take what they get. When those tiers
# are done, their core takes what is left of the machines.
tiers=(vm lint unit matrix datapath integration integration-2.18 coverage)
export COVERAGE=yes

rm -f "$results"/*
rm -rf "$cache/coverage"
mkdir -p "$cache/coverage"
CLAIMS=$(mktemp -d)
export CLAIMS
# If we are stopped half-way, the rest must not look as if it had never been asked for.
for tier in "${tiers[@]}"; do printf 'unfinished\t0\n' >"$results/$tier.exit"; done

run_tier() {
    local tier=$1 start=$SECONDS status=0
    case $tier in
        lint | matrix | vm | coverage) "tests/tools/$tier.sh" ;;
        *-*) COVERAGE=no CORE=${tier#*-} tests/tools/pytest.sh "${tier%%-*}" ;;
        *) tests/tools/pytest.sh "$tier" ;;
    esac || status=$?
    printf '%d\t%d\n' "$status" "$((SECONDS - start))" >"$results/$tier.exit"
}

run_tier vm >"$logs/tier-vm.log" 2>&1 </dev/null &
machines=$!
trap 'kill "$machines" 2>/dev/null; rm -rf "$CLAIMS"' EXIT
for tier in "${tiers[@]:1}"; do
    printf '\n== %s\n' "$tier"
    run_tier "$tier"
done
printf '\n== vm\n'
tests/tools/vm.sh >"$logs/tier-vm-2.log" 2>&1 </dev/null
others=$?
wait "$machines"
[ "$others" = 0 ] || sed -i 's/^0/1/' "$results/vm.exit"
cat "$logs/tier-vm.log" "$logs/tier-vm-2.log"
[ "${SUMMARY:-yes}" = no ] || { python3 tests/tools/summary.py; exit; }
# Without a summary the caller still needs to know.
! grep -qv '^0' "$results"/*.exit
