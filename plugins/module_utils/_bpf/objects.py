# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Objects on a host: what their pins and marks say, and putting one set of programs and maps in the place of another.

Programs are replaced under their attachments by BPF_LINK_UPDATE: between two packets, without a gap.
"""

from __future__ import annotations

import os
import typing as t

from .._errors import KernelError, PlanError
from .._kernel import bpf, bpffs
from . import mark, pins
from .libbpf import Loaded


class Program(t.NamedTuple):
    """A pinned program; ``mark`` None: somebody else pinned it there."""

    info: bpf.ProgInfo
    mark: t.Optional[mark.Mark]


class Installed(t.NamedTuple):
    """The pins of an object. ``maps`` are ids; not ``tidy``: a killed run left something half-way."""

    programs: t.Dict[str, Program]
    maps: t.Dict[str, int]
    tidy: bool

    def marks(self) -> t.List[mark.Mark]:
        return [program.mark for program in self.programs.values() if program.mark is not None]


def read(topology: str, name: str) -> t.Optional[Installed]:
    """What is pinned of an object, None when there is no directory of it."""
    directory = pins.object_directory(topology, name)
    if not os.path.isdir(directory):
        return None
    programs, maps, tidy = {}, {}, True
    for entry in bpffs.list_pins(pins.directory_of(topology, name, pins.PROGRAMS)):
        if entry.endswith(bpffs.REPLACEMENT):
            tidy = False
            continue
        with pinned(pins.program_pin(topology, name, entry)) as fd:
            info = bpf.prog_info(fd)
        programs[entry] = Program(info, mark.read(info))
    for entry in bpffs.list_pins(pins.directory_of(topology, name, pins.MAPS)):
        if entry.endswith(bpffs.REPLACEMENT):
            tidy = False
            continue
        with pinned(pins.map_pin(topology, name, entry)) as fd:
            maps[entry] = bpf.map_info(fd).id
    return Installed(programs, maps, tidy)


def pinned(path: str) -> t.ContextManager[int]:
    """A descriptor of a pinned object for the body. KernelError ENOENT when there is none, raised at once."""
    return bpf.closing(bpf.get_pinned(path))


def map_names(topology: str, name: str) -> t.List[str]:
    return bpffs.list_pins(pins.directory_of(topology, name, pins.MAPS))


def program_fd(topology: str, name: str, program: str) -> int:
    """A descriptor of a pinned program, the caller's to close. PlanError says which programs there are."""
    try:
        return bpf.get_pinned(pins.program_pin(topology, name, program))
    except KernelError as problem:
        if problem.name != "ENOENT":
            raise
    known = bpffs.list_pins(pins.directory_of(topology, name, pins.PROGRAMS))
    has = f"it has {', '.join(known)}" if known else "it has none"
    raise PlanError(f"bpf_object {topology}/{name} has no program {program}; {has}")


def take(topology: str, name: str) -> Loaded:
    """Descriptors of an object's programs and maps; maps that lost their pin are found through the programs that use them."""
    taken = Loaded({}, {})
    try:
        for entry in bpffs.list_pins(pins.directory_of(topology, name, pins.PROGRAMS)):
            if not entry.endswith(bpffs.REPLACEMENT):
                taken.programs[entry] = bpf.get_pinned(pins.program_pin(topology, name, entry))
        for entry in bpffs.list_pins(pins.directory_of(topology, name, pins.MAPS)):
            if not entry.endswith(bpffs.REPLACEMENT):
                taken.maps[entry] = bpf.get_pinned(pins.map_pin(topology, name, entry))
        for fd in taken.programs.values():
            info = bpf.prog_info(fd)
            found = mark.read(info)
            missing = _by_kernel_name(topology, name, found.pinned if found else (), taken.maps)
            for number in info.map_ids:
                _take_map(number, missing, taken.maps)
    except BaseException:
        taken.close()
        raise
    return taken


def _by_kernel_name(
    topology: str, name: str, pinned_names: t.Iterable[str], taken: t.Container[str]
) -> t.Dict[str, str]:
    """The maps without pin by the part of their names that the kernel keeps. PlanError when that does not tell them apart."""
    found: t.Dict[str, str] = {}
    for entry in pinned_names:
        if entry not in taken:
            other = found.setdefault(entry[: bpf.NAME_BYTES - 1], entry)
            if other != entry:
                raise PlanError(
                    f"bpf_object {topology}/{name}: maps {other} and {entry} lost their pins, and the kernel keeps too little of "
                    f"their names to tell them apart; remove the object and load it anew"
                )
    return found


def _take_map(number: int, missing: t.Mapping[str, str], taken: t.Dict[str, int]) -> None:
    fd = bpf.map_by_id(number)
    name = missing.get(bpf.map_info(fd).name)
    if name is None or name in taken:
        os.close(fd)
    else:
        taken[name] = fd


def install(topology: str, name: str, loaded: Loaded, replace_filter: t.Callable[[str, int], None]) -> None:
    """Let the object consist of these programs and maps: attachments first, then pins, then what is left over goes.

    ``replace_filter(path, program)`` puts a program in the place of the legacy filter whose pin has that path.
    """
    bpffs.ensure_mounted()
    for part in (pins.PROGRAMS, pins.MAPS):
        bpffs.ensure_directory(pins.directory_of(topology, name, part))
    for program, pin in pins.links(topology, name):
        if program not in loaded.programs:
            raise PlanError(
                f"bpf_object {topology}/{name}: has no program {program} any more, which is attached at "
                f"{pin.link} {pin.hook}; detach it in the same run or keep the program"
            )
    for program, pin in pins.links(topology, name):
        path = pins.link_pin(topology, name, program, pin)
        if pin.is_filter:
            replace_filter(path, loaded.programs[program])
        else:
            _update(path, loaded.programs[program])
    for part, found in ((pins.MAPS, loaded.maps), (pins.PROGRAMS, loaded.programs)):
        directory = pins.directory_of(topology, name, part)
        wanted = {entry: fd for entry, fd in found.items() if not entry.startswith(".")}
        for entry, fd in wanted.items():
            bpffs.replace_pin(fd, os.path.join(directory, entry))
        for entry in bpffs.list_pins(directory):
            if entry not in wanted:
                bpffs.unpin(os.path.join(directory, entry))


def _update(path: str, prog_fd: int) -> None:
    with pinned(path) as fd:
        try:
            bpf.link_update(fd, prog_fd)
        except KernelError as problem:
            if problem.name != "ENOLINK":  # its device is gone: whoever declares the attachment makes it anew
                raise


def remove(topology: str, name: str) -> None:
    """Detach what is still attached, unpin everything, and leave no directory."""
    for program, pin in pins.links(topology, name):
        detach(pins.link_pin(topology, name, program, pin))
    top = pins.object_directory(topology, name)
    places = [
        os.path.join(top, pins.LINKS, program)
        for program in pins.subdirectories(os.path.join(top, pins.LINKS))
    ]
    for place in (*places, *(os.path.join(top, part) for part in (pins.LINKS, pins.PROGRAMS, pins.MAPS))):
        for entry in bpffs.list_pins(place):
            bpffs.unpin(os.path.join(place, entry))
        bpffs.remove_directory(place)
    bpffs.remove_directory(top)
    bpffs.remove_directory(pins.topology_directory(topology))
    bpffs.remove_directory(pins.ROOT)


def detach(path: str) -> None:
    """Take a pinned link off its hook and unpin it; the directories that it leaves empty go too."""
    try:
        with pinned(path) as fd:
            if is_link(fd):
                bpf.link_detach(fd)
    except KernelError as problem:
        if problem.name != "ENOENT":
            raise
    bpffs.unpin(path)
    tidy_up(path)


def tidy_up(path: str) -> None:
    """Remove the directories of a link's pin that are empty."""
    program = os.path.dirname(path)
    if bpffs.remove_directory(program):
        bpffs.remove_directory(os.path.dirname(program))


def is_link(fd: int) -> bool:
    """Whether a descriptor is a link's, and not the program's that a legacy filter is remembered by."""
    return os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:bpf-prog"
