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

# The commands that might be Python <version>: on PATH, then what pyenv has built, its newest first, then what python.sh fetched.
_python_candidates() {
    type -aP "python$1"
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/"python$1" | sort -rV
    printf '%s\n' "$cache/python/$1/usr/bin/python$1"
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

# The ansible-cores that are checked beside the one in .venv, oldest first; `next` is the newest, pre-releases among them.
# shellcheck disable=SC2034 # for those who source this
core_versions=(2.18 next)
declare -A core_requirements=([2.18]="ansible-core~=2.18.0" [next]="ansible-core>=2.22.0a0")
declare -A core_pythons=([2.18]="3.13 3.12 3.11" [next]="3.13 3.14")

# core_python <version>: "<version> <path>" of the Python that this ansible-core is tested on.
core_python() {
    local version
    for version in ${core_pythons[$1]}; do
        find_pythons | grep "^$version " && return
    done
    return 1
}

# core_venv <version>: the path of an environment with that ansible-core and what tests need, made on demand.
core_venv() {
    local home=$cache/cores/$1/venv version python packages stamp
    read -r version python < <(core_python "$1")
    packages=("${core_requirements[$1]}" hypothesis mitogen pyroute2 pytest)
    stamp="$version ${packages[*]}"
    if [ "$(cat "$home/.stamp" 2>/dev/null)" != "$stamp" ]; then
        mkdir -p "${home%/*}"
        "$python" -m venv --clear "$home" >&2
        "$home/bin/pip" install -q --disable-pip-version-check "${packages[@]}" >&2
        # What a pre-release takes from a repository's archive must be had from PyPI.
        find "$home" -path '*/ansible_test/_data/requirements/*.txt' -exec sed -i 's/ *@ https:.*//' {} +
        printf '%s\n' "$stamp" >"$home/.stamp"
    fi
    printf '%s\n' "$home"
}

# target_venv <Python> <pyroute2>: the path of an environment such as a managed host's, made on demand.
target_venv() {
    local home=$cache/targets/$1-$2 python
    python=$(find_pythons | sed -n "s/^$1 //p")
    [ -n "$python" ] || return
    if [ ! -e "$home/.complete" ]; then
        mkdir -p "${home%/*}"
        "$python" -m venv --clear "$home" >&2
        "$home/bin/pip" install -q --disable-pip-version-check "pyroute2$([ "$2" = newest ] || printf '==%s' "$2")" >&2
        touch "$home/.complete"
    fi
    printf '%s\n' "$home"
}

# Root, by sudo where needed. Asks for a password only on a terminal.
can_be_root() {
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null && sudo -v; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E env "PATH=$PATH" "$@"; fi
}
