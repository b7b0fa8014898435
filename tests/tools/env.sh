#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Make .venv: the newest Python here, the newest ansible-core for it, and the tools that the tests need.
# Does nothing, quickly, while the requirements are what .venv was made from.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

requirements=(tests/requirements/*.txt)

link_collection() {
    local link=$ANSIBLE_COLLECTIONS_PATH/ansible_collections/cnf/ebpf
    [ "$(readlink "$link")" = ../../../.. ] && return
    mkdir -p "${link%/*}"
    ln -sfn ../../../.. "$link"
}

# Debian keeps ensurepip, which venv needs, in a package of its own.
install_ensurepip() {
    local version=$1 package=python$1-venv
    command -v apt-get >/dev/null || die "Python $version has no ensurepip: install its venv package"
    if can_be_root </dev/null; then
        { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy "$package"; } >"$logs/apt.log" 2>&1 && return
    fi
    die "Python $version cannot make virtual environments here; run: sudo apt-get install -y $package"
}

make_venv() {
    local version python
    # Of this machine's own: a Python that python.sh fetched is there to be tested under.
    read -r version python < <(find_pythons | grep -vF "$cache/" | tail -n 1) || true
    case ${version:-} in
        "" | 3.9 | 3.10) die "needs Python 3.11 or newer, for an ansible-core that is still supported" ;;
    esac
    "$python" -c 'import ensurepip' 2>/dev/null || install_ensurepip "$version"
    printf 'making .venv with Python %s ... ' "$version"
    "$python" -m venv --clear "$venv"
    if ! "$venv/bin/pip" install -q --disable-pip-version-check "${requirements[@]/#/--requirement=}" >"$logs/venv.log" 2>&1; then
        cat "$logs/venv.log" >&2
        die "pip could not install ${requirements[*]}"
    fi
    "$venv/bin/python" -c 'from importlib.metadata import version; print("ansible-core", version("ansible-core"))'
}

link_collection
stamp=$(cat "${requirements[@]}" | sha256sum)
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -f "$cache/pythons"
    make_venv
    printf '%s\n' "$stamp" >"$venv/.stamp"
fi
