# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Programs at a hook of one device: the ordered lists of tcx and netkit, and legacy filters (clsact) where there is no tcx.

What is attached is what the kernel's query says; a pin only keeps a link alive and remembers what was asked for. Both kinds
of list have the same methods; those of a ProgramList are called in the device's network namespace (``entered``).
"""

from __future__ import annotations

import os
import typing as t

from .._errors import KernelError, PlanError
from .._kernel import bpf, bpffs, namespaces, tc
from .._kernel.host import Host
from .._kernel.netlink import Netlink
from . import mark, objects, ordering, pins

NETKIT_TYPES = {"primary": bpf.NETKIT_PRIMARY, "peer": bpf.NETKIT_PEER}
# What a netkit program sees, a tc program sees on a veth: `primary` what leaves through the device, `peer` what enters by it.
TCX_TYPES = {
    "ingress": bpf.TCX_INGRESS,
    "egress": bpf.TCX_EGRESS,
    "primary": bpf.TCX_EGRESS,
    "peer": bpf.TCX_INGRESS,
}
DIRECTIONS = {"ingress": "ingress", "egress": "egress", "primary": "egress", "peer": "ingress"}
ATTEMPTS = 10  # others may change the list between reading it and writing to it
FILTER_HANDLE = 1

entered = namespaces.entered


class Entry(t.NamedTuple):
    """A program in a list. ``link_id`` 0: attached without a link; ``priority`` of legacy filters only."""

    prog_id: int
    link_id: int
    name: str
    mark: t.Optional[mark.Mark]
    priority: int = 0
    handle: int = 0

    @property
    def ident(self) -> str:
        if self.priority:
            return f"filter {self.priority}/{self.handle}"
        return f"link {self.link_id}" if self.link_id else f"program {self.prog_id}"


class Target(t.NamedTuple):
    """One attachment of ours: which program, and the name of its pin, which tells the device and the hook."""

    topology: str
    object: str
    program: str
    pin: pins.LinkPin

    @property
    def path(self) -> str:
        return pins.link_pin(self.topology, self.object, self.program, self.pin)

    def owns(self, found: t.Optional[mark.Mark]) -> bool:
        return found is not None and (found.topology, found.object, found.program) == self[:3]

    def paths(self) -> t.List[str]:
        """The pins there are of it, whatever their notes; and what a killed run left half-way."""
        # Asked one by one: a program may be attached at thousands of places, and each would list the others.
        path = self.path
        start = path[: len(path) - len(self.pin.note)]
        names = [start + note for note in pins.NOTES]
        return [path for name in names for path in (name, name + bpffs.REPLACEMENT) if os.path.lexists(path)]

    def __str__(self) -> str:
        place = f"{self.pin.link} {self.pin.hook}" + (f" in netns {self.pin.netns}" if self.pin.netns else "")
        return f"{self.topology}/{self.object}:{self.program} at {place}"


Where = t.Callable[[t.Sequence[Entry]], int]  # the index at which a program goes into a list


def program(prog_id: int) -> t.Optional[bpf.ProgInfo]:
    """What the kernel tells of a program, None when it has gone since its id was read."""
    try:
        fd = bpf.prog_by_id(prog_id)
    except KernelError as problem:
        if problem.name != "ENOENT":
            raise
        return None
    with bpf.closing(fd):
        return bpf.prog_info(fd)


_known: t.Dict[int, t.Tuple[str, t.Optional[mark.Mark]]] = {}


def known_program(prog_id: int) -> t.Optional[t.Tuple[str, t.Optional[mark.Mark]]]:
    """Name and mark of a program, read once: neither changes, and the kernel counts ids upwards."""
    if prog_id not in _known:
        info = program(prog_id)
        if info is None:
            return None
        _known[prog_id] = (info.name, mark.read(info))
    return _known[prog_id]


class ProgramList:
    """The programs of a tcx or netkit hook, attached by links."""

    def __init__(self, ifindex: int, attach_type: int) -> None:
        self.ifindex = ifindex
        self.attach_type = attach_type

    def read(self) -> t.List[Entry]:
        return self._read()[1]

    def _read(self) -> t.Tuple[int, t.List[Entry]]:
        """The revision to attach with, and the programs in the order in which they run."""
        query = bpf.prog_query(self.ifindex, self.attach_type)
        found = []
        for prog_id, link_id in query.entries:
            told = known_program(prog_id)
            if told is not None:
                found.append(Entry(prog_id, link_id, *told))
        is_netkit = self.attach_type in NETKIT_TYPES.values()
        # An emptied netkit hook answers 1 while its counter went on: with that every attempt would be stale.
        return 0 if is_netkit and not found else query.revision, found

    def attach(self, target: Target, prog_fd: int, where: Where) -> None:
        link = self._create(target, prog_fd, where)
        try:
            pin_link(target, link)
        except BaseException:
            bpf.link_detach(link)
            raise
        finally:
            os.close(link)

    def _create(self, target: Target, prog_fd: int, where: Where) -> int:
        """A link at the index that ``where`` chooses in the list as it is at that moment."""
        for attempt in range(ATTEMPTS):
            revision, entries = self._read()
            flags, relative = beside(entries, where(entries))
            try:
                return bpf.link_create(
                    prog_fd, self.ifindex, self.attach_type, flags=flags, relative=relative, revision=revision
                )
            except KernelError as problem:
                if problem.name == "ERANGE" and len(entries) >= bpf.MAX_PROGRAMS:
                    raise PlanError(
                        f"{target}: the hook is full: it has {len(entries)} programs, the kernel's limit is "
                        f"{bpf.MAX_PROGRAMS}; detach one first"
                    ) from problem
                if problem.name not in ("ESTALE", "ENOENT") or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt raises")

    def replace(self, target: Target, entry: Entry, prog_fd: int) -> None:
        """Put another program into an entry's place, between two packets."""
        with bpf.closing(bpf.link_by_id(entry.link_id)) as fd:
            bpf.link_update(fd, prog_fd)

    def adopt(self, target: Target, entry: Entry, prog_fd: int) -> None:
        """Give an entry of ours the pin that it should have."""
        with bpf.closing(bpf.link_by_id(entry.link_id)) as fd:
            pin_link(target, fd)

    def detach(self, entry: Entry) -> None:
        if entry.link_id:
            with bpf.closing(bpf.link_by_id(entry.link_id)) as fd:
                bpf.link_detach(fd)
            return
        with bpf.closing(bpf.prog_by_id(entry.prog_id)) as fd:
            bpf.prog_detach(fd, self.ifindex, self.attach_type)

    def move(
        self, target: Target, entry: Entry, prog_fd: int, where: Where, copy: t.Callable[[], int]
    ) -> None:
        """Bring an attachment to another place without a packet that misses it; for a moment it runs at both.

        The kernel has no move and takes each program once a hook: so a copy of the program goes to the new place, the old
        link goes, and then the program takes the place of its copy. What had no link has one afterwards.
        """

        copy_fd = copy()
        try:
            link = self._create(target, copy_fd, _without(entry, where))
        finally:
            os.close(copy_fd)
        fresh = target.path + bpffs.REPLACEMENT
        try:
            bpffs.ensure_directory(os.path.dirname(target.path))
            bpffs.unpin(fresh)
            bpf.pin(link, fresh)
            self.detach(entry)
            bpf.link_update(link, prog_fd)
            bpffs.rename(fresh, target.path)
        except BaseException:
            bpf.link_detach(link)
            bpffs.unpin(fresh)
            raise
        finally:
            os.close(link)


def _without(entry: Entry, where: Where) -> Where:
    """The index for a list that still has the entry, chosen as if it had not."""

    def elsewhere(entries: t.Sequence[Entry]) -> int:
        others = [other for other in entries if other.ident != entry.ident]
        index = where(others)
        return entries.index(others[index]) if index < len(others) else len(entries)

    return elsewhere


def beside(entries: t.Sequence[Entry], index: int) -> t.Tuple[int, int]:
    """(flags, relative) that put a program at an index: before the one that is there, or after the last."""
    if not entries:
        return 0, 0
    before = index < len(entries)
    neighbour = entries[index] if before else entries[-1]
    flags = (bpf.F_BEFORE if before else bpf.F_AFTER) | bpf.F_ID | (bpf.F_LINK if neighbour.link_id else 0)
    return flags, neighbour.link_id or neighbour.prog_id


class FilterList:
    """The filters of one direction of a clsact queueing discipline, in the order of their priorities.

    Where our pins of links would be lie pins of the programs, so that what is attached can be told from the pins as well.
    """

    def __init__(self, netlink: Netlink, ifindex: int, direction: str) -> None:
        self.netlink = netlink
        self.ifindex = ifindex
        self.direction = direction

    def read(self) -> t.List[Entry]:
        found = []
        for row in tc.filters(self.netlink, self.ifindex, self.direction):
            # Other chains run on a goto only, and u32's hash tables are no filters.
            if row.chain or (row.kind == "u32" and not row.handle & 0xFFFFF):
                continue
            told = known_program(row.prog_id) if row.prog_id else None
            name = row.name or row.kind
            found.append(Entry(row.prog_id, 0, name, told[1] if told else None, row.priority, row.handle))
        return found

    def attach(self, target: Target, prog_fd: int, where: Where) -> None:
        entries = self.read()
        index = where(entries)
        priority = tc.choose_priority(
            [entry.priority for entry in entries],
            before=entries[index].priority if index < len(entries) else None,
            after=entries[index - 1].priority if index else None,
        )
        made = not tc.has_clsact(self.netlink, self.ifindex)
        if made:
            tc.add_clsact(self.netlink, self.ifindex)
        entry = Entry(0, 0, filter_name(target, made), None, priority, FILTER_HANDLE)
        try:
            tc.add_filter(
                self.netlink,
                self.ifindex,
                self.direction,
                priority=priority,
                handle=FILTER_HANDLE,
                prog_fd=prog_fd,
                name=entry.name,
            )
        except BaseException:
            if made:
                tc.delete_clsact(self.netlink, self.ifindex)
            raise
        try:
            pin_link(target, prog_fd)
        except BaseException:
            self.detach(entry)
            raise

    def replace(self, target: Target, entry: Entry, prog_fd: int) -> None:
        self.set_program(entry, prog_fd)
        pin_link(target, prog_fd)

    def set_program(self, entry: Entry, prog_fd: int) -> None:
        """Put a program, and the entry's name, in the entry's place."""
        tc.replace_filter(
            self.netlink,
            self.ifindex,
            self.direction,
            priority=entry.priority,
            handle=entry.handle,
            prog_fd=prog_fd,
            name=entry.name,
        )

    def adopt(self, target: Target, entry: Entry, prog_fd: int) -> None:
        pin_link(target, prog_fd)

    def detach(self, entry: Entry) -> None:
        tc.delete_filter(
            self.netlink, self.ifindex, self.direction, priority=entry.priority, handle=entry.handle
        )
        if entry.name.endswith(MADE_QDISC):
            self._give_up_qdisc()

    def _give_up_qdisc(self) -> None:
        """Remove the queueing discipline that we made once nothing is in it; another filter of ours remembers it till then."""
        lists = [FilterList(self.netlink, self.ifindex, name) for name in ("ingress", "egress")]
        rows = [(found, entry) for found in lists for entry in found.read()]
        ours = [(found, entry) for found, entry in rows if entry.mark is not None]
        if not rows:
            tc.delete_clsact(self.netlink, self.ifindex)
        elif ours:
            found, entry = ours[0]
            with bpf.closing(bpf.prog_by_id(entry.prog_id)) as fd:
                found.set_program(entry._replace(name=entry.name + MADE_QDISC), fd)

    def move(
        self, target: Target, entry: Entry, prog_fd: int, where: Where, copy: t.Callable[[], int]
    ) -> None:
        self.attach(target, prog_fd, _without(entry, where))
        self.detach(entry)


List = t.Union[ProgramList, FilterList]


MADE_QDISC = "+"  # at the end of the name of the filter for whose sake we made the queueing discipline


def filter_name(target: Target, made_qdisc: bool) -> str:
    """The name by which people tell whose a filter is; the kernel keeps 255 characters."""
    return f"cnf:{target.topology}/{target.object}:{target.program}" + (MADE_QDISC if made_qdisc else "")


def slots(entries: t.Sequence[Entry], place: t.Tuple[str, str, str]) -> t.List[ordering.Slot]:
    """The entries of a list for decisions on order; notes come from the pins of those that are ours."""
    found = []
    for entry in entries:
        told = entry.mark
        if told is None:
            found.append(ordering.Slot(entry.ident, entry.prog_id, entry.name))
            continue
        target = Target(told.topology, told.object, told.program, pins.LinkPin(*place))
        names = [os.path.basename(path) for path in target.paths()]
        notes = [pin.order for pin in map(pins.parse_file_name, names) if pin]
        owner = f"{told.topology}/{told.object}"
        found.append(
            ordering.Slot(
                entry.ident, entry.prog_id, entry.name, owner, told.program, notes[0] if notes else ""
            )
        )
    return found


def pin_link(target: Target, fd: int) -> None:
    """Pin a link under its target's name, and drop the pins of other names that it had."""
    bpffs.ensure_directory(os.path.dirname(target.path))
    bpffs.replace_pin(fd, target.path)
    for path in target.paths():
        if path != target.path:
            bpffs.unpin(path)


def pinned_link(path: str) -> int:
    """The id of the link that is pinned at a path, 0 when there is none, or a program."""
    try:
        with objects.pinned(path) as fd:
            return bpf.link_info(fd).id if objects.is_link(fd) else 0
    except KernelError as problem:
        if problem.name != "ENOENT":
            raise
        return 0


def replace_filter(host: Host, path: str, prog_fd: int) -> None:
    """Put a program in the place of the filter that a pin stands for, between two packets."""
    target = target_of(path)
    record = host.find_link(target.pin.netns, target.pin.link) if target else None
    if target is not None and record is not None:
        found = FilterList(host.socket(target.pin.netns), record.ifindex, DIRECTIONS[target.pin.hook])
        for entry in found.read():
            if target.owns(entry.mark):
                found.replace(target, entry, prog_fd)
                return
    bpffs.replace_pin(prog_fd, path)


def target_of(path: str) -> t.Optional[Target]:
    """The attachment that the path of a pin tells."""
    *_above, topology, name, _links, program_name, entry = path.split("/")
    pin = pins.parse_file_name(entry)
    return Target(pins.unescape(topology), pins.unescape(name), program_name, pin) if pin else None
