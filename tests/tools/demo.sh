#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The demo: two namespaces joined through a host by netkit pairs, converged by Ansible, broken by hand and healed.
#   run    in a virtual machine of its own; the user's network is not touched
#   local  on this machine's kernel, with the declared veth fallback where it has no netkit
#   shell  into the demo machine       clean  no trace of either
set -euo pipefail
# shellcheck source=tests/tools/lib.sh
source "$(dirname "$0")/lib.sh"

export PATH=$venv/bin:$PATH
demo=tests/tools/demo
work=$cache/demo
machine=(python3 tests/vm/machine.py)
export ANSIBLE_CONFIG=$root/$demo/ansible.cfg ANSIBLE_SSH_CONTROL_PATH_DIR=$work/ssh
unset ANSIBLE_NOCOLOR

say() { printf '\n\033[1m## %s\033[0m\n' "$*"; }

# show <command...>: print the line that a reader could type, then run it.
show() {
    printf '\033[2m$ %s\033[0m\n' "$*"
    "$@"
}

# play <playbook...>: on the machine of this mode; the two modes can live side by side.
play() { show ansible-playbook -i "${work#"$root"/}/$mode" "$@"; }

packages() {
    local missing
    missing=$("${machine[@]}" requirements)
    [ -z "$missing" ] && return
    printf 'installing for the test machine: %s\n' "$missing"
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -qy --no-install-recommends $missing >"$logs/demo-apt.log" 2>&1 ||
        { as_root apt-get update -q >>"$logs/demo-apt.log" 2>&1 &&
            DEBIAN_FRONTEND=noninteractive as_root apt-get install -qy --no-install-recommends $missing >>"$logs/demo-apt.log" 2>&1; } ||
        die "apt-get install $missing failed, see ${logs#"$root"/}/demo-apt.log"
}

inventory() { # the machine on standard input
    mkdir -p "$work/$mode" "$work/ssh"
    chmod 700 "$work" "$work/ssh"
    rm -rf "$work/$mode/group_vars"
    cp -r "$demo/group_vars" "$work/$mode/"
    cat >"$work/$mode/machines.yml"
}

walk() {
    say "What would change (check and diff; nothing is written)"
    play playbooks/site.yml --check --diff
    say "Apply"
    play playbooks/site.yml
    say "ns1 reaches ns2 through the host, IPv4 and IPv6"
    play "$demo/ping.yml"
    say "The second run changes nothing"
    play playbooks/site.yml
    say "Break it by hand: delete a pair and an address"
    play "$demo/break.yml"
    say "One run heals it, and only that"
    play playbooks/site.yml --diff
    play "$demo/show.yml"
}

run() {
    local start=$SECONDS
    packages
    "${machine[@]}" build
    "${machine[@]}" reset demo >/dev/null 2>&1 || "${machine[@]}" start demo
    "${machine[@]}" inventory demo | inventory
    walk
    say "Done in $((SECONDS - start)) s. The machine is yours: make demo-shell, then: ip netns exec ns1 ping 10.0.2.2"
    printf 'make demo-clean removes it.\n'
}

run_local() {
    python3 -c '
import json, subprocess, sys
links = json.loads(subprocess.run(["ip", "-j", "route"], capture_output=True, check=True).stdout)
taken = [row["dst"] for row in links if row["dst"] in ("10.0.1.0/24", "10.0.2.0/24") and row.get("dev") not in ("nk1", "nk2")]
sys.exit(f"demo-local: this machine already has {taken[0]}; use make demo" if taken else 0)'
    inventory <<HOST
all:
  children:
    machines:
      hosts:
        localhost:
          ansible_connection: local
          ansible_python_interpreter: $venv/bin/python
HOST
    walk
    say "Done. Look around: ip netns exec ns1 ping 10.0.2.2"
    printf 'make demo-clean removes it all.\n'
}

clean() {
    mode=local
    [ ! -e "$work/local/machines.yml" ] || play "$demo/clean.yml"
    [ ! -d "${CNF_VM_RUN:-${CNF_VM_CACHE:-$cache/vm}/run}" ] || "${machine[@]}" stop demo
    rm -rf "$work"
}

shell() {
    "${machine[@]}" status demo >/dev/null || die "the demo machine is not running; make demo starts it"
    exec "${machine[@]}" ssh demo
}

mode=${1:-}
case $mode in
    run) run ;;
    local) run_local ;;
    shell) shell ;;
    clean) clean ;;
    *) die "usage: demo.sh run|local|shell|clean" ;;
esac
