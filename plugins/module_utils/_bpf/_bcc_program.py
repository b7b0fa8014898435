# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The program that compiles and loads with BCC, in a process of its own.

python3-bpfcc works under the distribution's interpreter only, which need not be the module's, and brings 125 MB of LLVM
along. So ``compile`` runs the text of this file with that interpreter: it imports nothing of the collection. The order
comes as JSON on standard input; the rest are messages on the socket whose number is the argument: JSON, and with it
descriptors. What BCC and the verifier say is on standard error.

Order: {"source", "flags": [], "programs": {name: type}}.
Once compiled: {"maps": [names]} with the new maps. Reply: {"reuse": [names]} with the maps to take instead.
Answer: {"programs": [names], "maps": [names]} with both, or, instead of either message,
{"stage": "import" | "compile" | "map" | "program" | "load", "name", "error"}.

It ends with the other side: without a reply nothing is loaded.
"""

from __future__ import annotations

import array
import ctypes
import importlib
import json
import os
import socket
import sys
import typing as t

DESCRIPTORS = 250  # the kernel sends 253 in one message (SCM_MAX_FD)


class Refused(Exception):
    """What ends the program: the stage that failed, the program or map, and the reason."""

    def __init__(self, stage: str, name: str, error: object) -> None:
        self.answer = {"stage": stage, "name": name, "error": str(error)}
        super().__init__(str(error))


def compiled(order: t.Dict[str, t.Any]) -> t.Tuple[t.Any, t.Any]:
    """BCC's module and its C library."""
    try:
        bcc = importlib.import_module("bcc")
        library = bcc.lib
    except (ImportError, AttributeError) as problem:
        raise Refused("import", "", problem) from problem
    try:
        return bcc.BPF(src_file=order["source"], cflags=order["flags"]), library
    except Exception as problem:
        raise Refused("compile", "", problem) from problem


def send(connection: socket.socket, message: t.Dict[str, t.Any], descriptors: t.Sequence[int]) -> None:
    if len(descriptors) > DESCRIPTORS:
        raise Refused("load", "", f"more than {DESCRIPTORS} programs and maps")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]
    connection.sendmsg([json.dumps(message).encode()], rights if descriptors else [])


def chosen(connection: socket.socket) -> t.Dict[str, int]:
    """The maps to take instead of new ones; the end of the program when nobody waits for it any more."""
    data, ancillary, _flags, _address = connection.recvmsg(1 << 16, socket.CMSG_SPACE(DESCRIPTORS * 4))
    if not data:
        os._exit(1)
    descriptors = array.array("i")
    for _level, _kind, content in ancillary:
        descriptors.frombytes(content)
    return dict(zip(json.loads(data)["reuse"], descriptors))


def tables(bpf: t.Any, library: t.Any) -> t.Dict[str, int]:
    """The descriptors of the source's maps."""
    library.bpf_table_name.restype = ctypes.c_char_p
    library.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return {
        library.bpf_table_name(bpf.module, index).decode(): library.bpf_table_fd_id(bpf.module, index)
        for index in range(library.bpf_num_tables(bpf.module))
    }


def described(descriptor: int) -> t.Dict[str, str]:
    """What makes maps alike, from the kernel's description of a descriptor (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        rows = dict(line.split(":", 1) for line in file if ":" in line)
    known = ("map_type", "key_size", "value_size", "max_entries", "map_flags")
    return {name: rows.get(name, "").strip() for name in known}


def put_in_place(maps: t.Dict[str, int], reuse: t.Dict[str, int]) -> None:
    """Make instructions that name a new map by its descriptor's number find the old one under that number."""
    for name, descriptor in reuse.items():
        if name not in maps:
            raise Refused("map", name, "unknown; it has " + ", ".join(sorted(maps)))
        has, wants = described(descriptor), described(maps[name])
        differences = [
            f"{field} ({has[field]}, not {wants[field]})" for field in wants if has[field] != wants[field]
        ]
        if differences:
            raise Refused("map", name, "the one to reuse differs in " + ", ".join(differences))
        os.dup2(descriptor, maps[name], inheritable=False)


def loaded(bpf: t.Any, library: t.Any, wanted: t.Dict[str, int]) -> t.Dict[str, int]:
    known = [
        library.bpf_function_name(bpf.module, index).decode()
        for index in range(library.bpf_num_functions(bpf.module))
    ]
    programs = {}
    for name, kind in wanted.items():
        if name not in known:
            raise Refused("program", name, "unknown; it has " + ", ".join(sorted(known)))
        try:
            programs[name] = bpf.load_func(name, kind).fd
        except Exception as problem:
            raise Refused("load", name, problem) from problem
    return programs


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    order = json.load(sys.stdin)
    try:
        bpf, library = compiled(order)
        maps = tables(bpf, library)
        send(connection, {"maps": list(maps)}, list(maps.values()))
        put_in_place(maps, chosen(connection))
        programs = loaded(bpf, library, order["programs"])
        answer = {"programs": list(programs), "maps": list(maps)}
        send(connection, answer, [*programs.values(), *maps.values()])
    except Refused as refused:
        send(connection, refused.answer, [])
    sys.stdout.flush()
    os._exit(0)  # BCC's clean-up at exit is slow and needless


if __name__ == "__main__":
    main()
