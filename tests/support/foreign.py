# SPDX-License-Identifier: GPL-3.0-or-later
"""foreign.py <name> <device> <hook> <options as JSON> <directory>: attach a program as another tool would.

The program is called <name> and passes everything on. Options: "first": true (else last), "linkless": true (attached without
a link, as bpftool does; else its link is pinned at /sys/fs/bpf/<name>), "copies": n (n programs <name>0, <name>1, ...),
"mode": "native"|"generic" (XDP by netlink, without link). Prints the ids of the programs.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import compile as build
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf, tc
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.netlink import Netlink

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("{section}") int {name}(void *ctx) {{ return {verdict}; }}
char _license[] SEC("license") = "GPL";
"""
TYPES = {
    "ingress": bpf.TCX_INGRESS,
    "egress": bpf.TCX_EGRESS,
    "primary": bpf.NETKIT_PRIMARY,
    "peer": bpf.NETKIT_PEER,
}


def load(name: str, hook: str, directory: str) -> int:
    section, verdict = ("xdp", 2) if hook == "xdp" else ("tc", -1)
    source = os.path.join(directory, f"{name}.bpf.c")
    with open(source, "w", encoding="ascii") as file:
        file.write(SOURCE.format(name=name, section=section, verdict=verdict))
    build.compile_clang(source, f"{source}.o")
    with libbpf.load(f"{source}.o") as loaded:
        return os.dup(loaded.programs[name])


def main() -> None:
    name, device, hook, options, directory = (
        sys.argv[1],
        sys.argv[2],
        sys.argv[3],
        json.loads(sys.argv[4]),
        sys.argv[5],
    )
    index = socket.if_nametoindex(device)
    count = options.get("copies", 0)
    for one in [f"{name}{number}" for number in range(count)] or [name]:
        program = load(one, hook, directory)
        print(bpf.prog_info(program).id)
        if hook == "xdp":
            tc.set_xdp(Netlink(), index, program, options.get("mode", "native"))
            continue
        flags = bpf.F_BEFORE if options.get("first") else 0
        if options.get("linkless"):
            bpf.prog_attach(program, index, TYPES[hook], flags=flags)
        else:
            bpf.pin(bpf.link_create(program, index, TYPES[hook], flags=flags), f"/sys/fs/bpf/{one}")


if __name__ == "__main__":
    main()
