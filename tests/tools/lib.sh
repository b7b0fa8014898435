# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What the scripts beside this one share. Source it; it changes to the repository root.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
cache=$root/.cache
results=$cache/results
logs=$cache/logs
# shellcheck disable=SC2034 # for those who source this
venv=$root/.venv
mkdir -p "$results" "$logs"
export ANSIBLE_COLLECTIONS_PATH=$cache/collections
export ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_NOCOLOR=1
# A checkout may belong to another user than the one who runs the tests, as in CI; git is only asked for names here.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'

# Python versions worth looking for, oldest first: what managed hosts may run, up to what ansible-core may run on.
python_versions=(3.9 3.10 3.11 3.12 3.13 3.14)

# shellcheck disable=SC2034
# For runs that must not share pytest's cache; the setting of its place then counts as unknown.
no_cache=(-p no:cacheprovider -W ignore::pytest.PytestConfigWarning)

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# result <tier> passed|failed|skipped <name> [<why>]: one line for summary.py.
result() {
    printf '%s\t%s\t%s\n' "$2" "$3" "${4:-}" >>"$results/$1.tsv"
}

# The commands that might be Python <version>: on PATH, then what pyenv has built, its newest first.
_python_candidates() {
    type -aP "python$1"
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/"python$1" | sort -rV
}

# find_python <version>: path of the real interpreter. Running it tells a shim of an inactive version from a Python.
find_python() {
    local version=$1 candidate
    while read -r candidate; do
        [ -x "$candidate" ] || continue
        "$candidate" -Ic '
import os, sys
sys.version_info[:2] == tuple(map(int, sys.argv[1].split("."))) or sys.exit(1)
print(os.path.realpath(sys.executable))' "$version" 2>/dev/null && return
    done < <(_python_candidates "$version")
    return 1
}

# find_pythons: one "<version> <path>" per line, oldest first. Kept for a day: asking each shim takes its time.
find_pythons() {
    local list=$cache/pythons version path
    if [ -z "$(find "$list" -mmin -1440 2>/dev/null)" ]; then
        for version in "${python_versions[@]}"; do
            path=$(find_python "$version") && printf '%s %s\n' "$version" "$path"
        done >"$list.$$"
        mv "$list.$$" "$list"
    fi
    cat "$list"
}

missing_pythons() {
    local version
    for version in "${python_versions[@]}"; do
        grep -q "^$version " "$cache/pythons" || printf '%s ' "$version"
    done | sed 's/ $//'
}

# Root, by sudo where needed. Asks for a password only on a terminal.
can_be_root() {
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null && sudo -v; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E env "PATH=$PATH" "$@"; fi
}
