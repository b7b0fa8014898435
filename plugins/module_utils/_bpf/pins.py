# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Where the pins of a topology lie, and what their names say.

    /sys/fs/bpf/cnf/<topology>/<object>/programs/<program>
                                       /maps/<map>
                                       /links/<program>/<hook>@<device>@<namespace>@<note>

A link's pin tells its attachment without any other file: which program at which hook of which device, and in the note
whether it was asked to be ``first`` or ``last``, and that it is a legacy filter (``clsact``, ``clsact-first``, ``clsact-last``:
the pin then is the program's).
"""

from __future__ import annotations

import os
import re
import typing as t

from .._kernel import bpffs

ROOT = os.path.join(bpffs.MOUNT_POINT, "cnf")
PROGRAMS, MAPS, LINKS = "programs", "maps", "links"
CLSACT = "clsact"
NOTES = ("", "first", "last", "clsact", "clsact-first", "clsact-last")


class LinkPin(t.NamedTuple):
    """The name of a link's pin; ``netns`` '' is the host's own, ``note`` '' nothing in particular."""

    hook: str
    link: str
    netns: str
    note: str = ""

    def place(self) -> t.Tuple[str, str, str]:
        """Where it is attached, whatever the note."""
        return self.hook, self.link, self.netns

    @property
    def is_filter(self) -> bool:
        return self.note.startswith(CLSACT)

    @property
    def order(self) -> str:
        """``first``, ``last`` or ''."""
        return self.note[len(CLSACT) :].lstrip("-") if self.is_filter else self.note


def note_of(is_filter: bool, order: str) -> str:
    return "-".join(part for part in (CLSACT if is_filter else "", order) if part)


def escape(name: str) -> str:
    """A name without what bpffs (dots) and our own separators forbid."""
    return re.sub(r"[.%@/]", lambda sign: f"%{ord(sign[0]):02X}", name)


def unescape(name: str) -> str:
    return re.sub(r"%([0-9A-F]{2})", lambda sign: chr(int(sign[1], 16)), name)


def file_name(pin: LinkPin) -> str:
    return "@".join(escape(part) for part in pin)


def parse_file_name(name: str) -> t.Optional[LinkPin]:
    """The pin that a file name tells; None for what a killed run left half-way, or others put there."""
    parts = name.split("@")
    return LinkPin(*(unescape(part) for part in parts)) if len(parts) == 4 and "%new" not in name else None


def topology_directory(topology: str) -> str:
    return os.path.join(ROOT, escape(topology))


def object_directory(topology: str, name: str) -> str:
    return os.path.join(topology_directory(topology), escape(name))


def directory_of(topology: str, name: str, part: str) -> str:
    return os.path.join(object_directory(topology, name), part)


def program_pin(topology: str, name: str, program: str) -> str:
    return os.path.join(directory_of(topology, name, PROGRAMS), program)


def map_pin(topology: str, name: str, map_name: str) -> str:
    return os.path.join(directory_of(topology, name, MAPS), map_name)


def links_directory(topology: str, name: str, program: str) -> str:
    return os.path.join(directory_of(topology, name, LINKS), program)


def link_pin(topology: str, name: str, program: str, pin: LinkPin) -> str:
    return os.path.join(links_directory(topology, name, program), file_name(pin))


def subdirectories(directory: str) -> t.List[str]:
    """The directories in one, sorted; none when it does not exist."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def topologies() -> t.List[str]:
    return [unescape(name) for name in subdirectories(ROOT)]


def objects(topology: str) -> t.List[str]:
    return [unescape(name) for name in subdirectories(topology_directory(topology))]


def links(topology: str, name: str) -> t.List[t.Tuple[str, LinkPin]]:
    """(program, pin) of every attachment of an object."""
    found = []
    for program in subdirectories(directory_of(topology, name, LINKS)):
        for entry in bpffs.list_pins(links_directory(topology, name, program)):
            pin = parse_file_name(entry)
            if pin is not None:
                found.append((program, pin))
    return found


def leftovers(directory: str) -> t.List[str]:
    """Pins that a killed run left half-way in a directory."""
    return [name for name in bpffs.list_pins(directory) if name.endswith(bpffs.REPLACEMENT)]
