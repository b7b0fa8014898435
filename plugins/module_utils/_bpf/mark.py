# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whose a loaded program is and what it was built from, written into the kernel itself.

A program in the kernel has a name, a tag that differs between compilers, and its maps. So each of ours gets one more map
(BPF_PROG_BIND_MAP, Linux 5.10), read-only and named CNF_MARK, which holds the answer as JSON. It goes wherever the program
goes: it is there when pins were lost or hidden, when the store was lost, and for each program by itself when a run was
killed half-way.
"""

from __future__ import annotations

import json
import os
import time
import typing as t

from .._errors import KernelError
from .._kernel import bpf

NAME = "cnf_mark"
FORMAT = 1
KEY = b"\0\0\0\0"
LONGEST = 1 << 20  # bytes of JSON that are believed


class Mark(t.NamedTuple):
    """``code`` is the digest of the sources (sources.code_of), ``main`` the main one's name, ``source`` what the user called it.

    ``compiler`` is its name and version, ``build`` and ``compiler_id`` as in ``build``. ``maps`` are the sizes that were asked
    for, ``pinned`` the names of all maps that have a pin. ``loaded`` is in seconds since the epoch.
    """

    topology: str
    object: str
    program: str
    source: str
    main: str
    code: str
    compiler: str
    compiler_id: str
    build: str
    constants: t.Dict[str, t.Any]
    maps: t.Dict[str, int]
    pinned: t.Sequence[str] = ()
    loaded: float = 0.0


def put(prog_fd: int, mark: Mark) -> None:
    """Mark a program. It cannot be marked again, and keeps the mark as long as it lives."""
    content = encode(mark._replace(loaded=mark.loaded or time.time()))
    fd = bpf.map_create(bpf.MapType.ARRAY, 4, len(content), 1, name=NAME)
    try:
        bpf.map_update(fd, KEY, content)
        bpf.map_freeze(fd)
        bpf.prog_bind_map(prog_fd, fd)
    finally:
        os.close(fd)


def encode(mark: Mark) -> bytes:
    return json.dumps({"format": FORMAT, **mark._asdict()}, separators=(",", ":"), sort_keys=True).encode()


def decode(content: bytes) -> t.Optional[Mark]:
    """The mark that bytes hold; None when it is not one of ours, or of a later format."""
    try:
        data = json.loads(content.rstrip(b"\0"))
        if data.pop("format") != FORMAT:
            return None
        return Mark(**data)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def read(info: bpf.ProgInfo) -> t.Optional[Mark]:
    """The mark of a program, None when it has none."""
    for number in reversed(info.map_ids):  # bound last
        try:
            fd = bpf.map_by_id(number)
        except KernelError as problem:
            if problem.name != "ENOENT":
                raise
            continue  # the program has just gone
        try:
            found = bpf.map_info(fd)
            if found.name == NAME and found.max_entries == 1 and found.value_size <= LONGEST:
                content = bpf.map_lookup(fd, KEY, found.value_size)
                return decode(content) if content else None
        finally:
            os.close(fd)
    return None
