#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Run tests/unit under each Python found, with the oldest pyroute2 we support on the oldest Pythons and the newest
# elsewhere: module code runs under whatever Python the managed host has.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

oldest_pyroute2=0.7.2 # Debian 12's

# Managed hosts with such a Python carry a pyroute2 of their time; later Pythons never met the old one.
pyroute2_for() {
    case $1 in
        3.9 | 3.10 | 3.11) printf 'pyroute2==%s' "$oldest_pyroute2" ;;
        *) printf 'pyroute2' ;;
    esac
}

make_venv() {
    local python=$1 home=$2 packages=(ansible-core hypothesis pytest "$3")
    local stamp="$python ${packages[*]}"
    [ "$(cat "$home/.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$home/bin/python" ] && return
    "$python" -m venv --clear "$home"
    "$home/bin/pip" install -q --disable-pip-version-check "${packages[@]}"
    printf '%s\n' "$stamp" >"$home/.stamp"
}

test_under() {
    local version=$1 python=$2 log=$logs/matrix-$1.log home=$cache/matrix/$1 pyroute2 outcome
    pyroute2=$(pyroute2_for "$version")
    if make_venv "$python" "$home" "$pyroute2" >"$log" 2>&1 \
        && EXAMPLES=0.2 "$home/bin/python" -m pytest -q "${no_cache[@]}" tests/unit >>"$log" 2>&1; then
        outcome=passed
    else
        outcome=failed
        sed 's/^/    /' "$log"
    fi
    result matrix "$outcome" "Python $version, $pyroute2" "$(tail -n 1 "$log")"
    printf '%-7s Python %-5s %-16s %s\n' "$outcome" "$version" "$pyroute2" "$(tail -n 1 "$log")"
    [ "$outcome" = passed ]
}

rm -f "$results/matrix.tsv"
status=0
own=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
while read -r version python; do
    if [ "$version" = "$own" ] && [ "$(pyroute2_for "$version")" = pyroute2 ]; then
        result matrix passed "Python $version, pyroute2" "that is the unit tier"
        continue
    fi
    test_under "$version" "$python" || status=1
done < <(find_pythons)
missing=$(missing_pythons)
[ -z "$missing" ] || result matrix skipped "Python $missing" "not on this machine"
exit "$status"
