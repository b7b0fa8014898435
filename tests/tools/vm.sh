#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Run the Molecule scenarios, each with its own log and one result: all of them, or those named on the command line.
# A failing scenario doesn't keep the others from running.
# CLAIMS=<directory>: leave out those that another such run has taken, so that several share the work (see test.sh).
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

export PATH=$venv/bin:$PATH

# Scenario names as Molecule knows them, the longest first. `default` without a converge.yml only makes and removes the machines.
scenarios() {
    local file name
    find extensions/molecule -name molecule.yml 2>/dev/null | sort | while read -r file; do
        name=${file#extensions/molecule/}
        name=${name%/molecule.yml}
        [ "$name" = default ] && [ ! -e extensions/molecule/default/converge.yml ] && continue
        case $name in netkit | fleet) printf '0 %s\n' "$name" ;; *) printf '1 %s\n' "$name" ;; esac
    done | sort | cut -d ' ' -f 2
}

# last_error <log>: the task that ended the run and what it said, in one line. Molecule frames lines with bars and colours.
last_error() {
    sed 's/\x1b\[[0-9;]*m//g; s/^ *│ *//; s/\r$//' "$1" | awk '
        /^TASK \[/ { task = $0 }
        /^(fatal:|\[ERROR\]|ERROR|CRITICAL)/ { found = task " " $0; more = 1; next }
        /^(PLAY|TASK)/ { more = 0 }
        more { found = found " " $0 }
        END { gsub(/[ \t*]+/, " ", found); print substr(found, 1, 600) }'
}

run_scenario() {
    local name=$1 log=$logs/vm-${1//\//-}.log start=$SECONDS outcome=passed reason=''
    rm -f "$results/vm-$name.xml" # what tests inside of its machines leave: see shared/tasks/guest.yml
    molecule test --scenario-name "$name" >"$log" 2>&1 </dev/null || outcome=failed
    [ "$outcome" = passed ] || reason="see ${log#"$root"/}: $(last_error "$log")"
    result vm "$outcome" "$name" "$reason"
    printf '%-7s %-30s %4d s\n' "$outcome" "$name" "$((SECONDS - start))"
    [ "$outcome" = passed ] && return
    printf '    the last lines of %s:\n' "${log#"$root"/}"
    tail -n 60 "$log" | sed 's/^/    /'
    return 1
}

[ -n "${CLAIMS:-}" ] || rm -f "$results/vm.tsv"
if [ $# -gt 0 ]; then names=("$@"); else mapfile -t names < <(scenarios); fi
[ "${#names[@]}" -gt 0 ] || { result vm skipped scenarios "there are none"; exit 0; }
status=0
for name in "${names[@]}"; do
    if [ -n "${CLAIMS:-}" ] && ! mkdir "$CLAIMS/${name//\//-}" 2>/dev/null; then continue; fi
    if command -v qemu-system-x86_64 >/dev/null; then
        run_scenario "$name" || status=1
    else
        result vm skipped "$name" "qemu-system-x86_64 is not installed"
        printf 'skipped %-30s qemu-system-x86_64 is not installed\n' "$name"
    fi
done
exit "$status"
