# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""All BPF programs at the network hooks of a host, the objects they belong to, and netkit devices.

What is attached is what the kernel's lists say. Pins are told where they can be seen, and nothing is concluded from them: a
second bpffs mounted over the first hides them all, and that is when this matters most.
"""

from __future__ import annotations

import datetime
import os
import time
import typing as t

from . import _inspect_maps
from ._bpf import mark, pins
from ._errors import KernelError, SpecError, UnsupportedError
from ._inspect_maps import Program, Types
from ._kernel import bpf, bpffs, namespaces, rtnl, tc
from ._kernel.host import Host
from ._kernel.netlink import attributes
from ._resources import link_kinds

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "netns": {"type": "str"},
    "link": {"type": "str"},
    "sample": {"type": "float", "default": 0.0},
    "fill": {"type": "bool", "default": True},
}

TCX = {"tcx ingress": bpf.TCX_INGRESS, "tcx egress": bpf.TCX_EGRESS}
NETKIT = {"netkit primary": bpf.NETKIT_PRIMARY, "netkit peer": bpf.NETKIT_PEER}
HOOK_NAMES = {number: name for name, number in (*TCX.items(), *NETKIT.items(), ("xdp", bpf.XDP))}
OLD_QDISC = "ingress"  # clsact's predecessor: one hook, whose filters are the children of the qdisc itself
NETKIT_ENDS = {"netkit": "primary", "netkit peer": "peer"}


class Row(t.NamedTuple):
    """A place in the list of a hook. ``prog_id`` 0: a filter that is no BPF program; ``priority`` 0: no filter."""

    prog_id: int
    link_id: int = 0
    priority: int = 0
    kind: str = ""


class Hook(t.NamedTuple):
    """A hook of a device with its list in the order of running. ``revision`` None where there is none (XDP, clsact)."""

    netns: str
    device: str
    ifindex: int
    name: str
    mode: str
    revision: t.Optional[int]
    rows: t.Sequence[Row]


Pins = t.Dict[t.Tuple[str, int], t.List[str]]  # ("program", id) to the paths at which it is pinned


class Kernel(t.NamedTuple):
    """All that was read, before it is put into shape. ``sampled``: runs and ns of each program within the sample."""

    hooks: t.Sequence[Hook]
    programs: t.Mapping[int, Program]
    links: t.Sequence[bpf.LinkInfo]
    pins: Pins
    notes: t.Sequence[str]
    booted: float
    sampled: t.Mapping[int, t.Tuple[int, int]]
    seconds: float


# --- Reading ------------------------------------------------------------------------------------------------------


def read(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """The answer of bpf_info. Raises SpecError, KernelError."""
    if params["sample"] < 0:
        raise SpecError("sample", f"{params['sample']} is not a time to count for; give seconds, or 0")
    with Host() as host:
        if params["netns"] and not host.has_namespace(params["netns"]):
            raise SpecError("netns", f"there is no network namespace {params['netns']!r}")
        every = ("", *sorted(host.namespaces()))
        spaces = every if params["netns"] is None else (params["netns"],)
        kernel = _read_kernel(host, spaces, params["link"], params["sample"])
        netkit = [row for space in spaces for row in netkit_of(host, space, params["link"])]
    objects = objects_of(kernel, params["fill"])
    notes = list(kernel.notes)
    if params["netns"] is None and params["link"] is None:
        notes += elsewhere(kernel)
    devices = devices_of(kernel)
    return {
        "devices": devices,
        "objects": objects,
        "netkit": netkit,
        "notes": notes,
        "text": text_of(devices, objects, netkit, notes),
    }


def _read_kernel(host: Host, spaces: t.Sequence[str], device: t.Optional[str], sample: float) -> Kernel:
    hooks = [hook for space in spaces for hook in hooks_of(host, space, device)]
    used = {row.prog_id for hook in hooks for row in hook.rows if row.prog_id}
    sampled = _sample(used, sample) if sample else {}
    found_pins, notes = find_pins()
    return Kernel(
        hooks=hooks,
        programs={row.info.id: row for row in _inspect_maps.programs()},
        links=_links(),
        pins=found_pins,
        notes=notes,
        booted=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
        sampled=sampled,
        seconds=sample,
    )


def hooks_of(host: Host, space: str, device: t.Optional[str]) -> t.List[Hook]:
    """The hooks of a namespace's devices at which anything is attached; one visit to the namespace."""
    wanted = [
        record
        for record in host.links(space).by_name.values()
        if device is None or device == record.name or device in record.altnames
    ]
    found: t.Dict[int, t.List[Hook]] = {record.ifindex: _xdp(space, record) for record in wanted}
    with namespaces.entered(space):
        for record in wanted:
            hooks = dict(TCX) if host.supports_tcx() else {}
            # Through its peer a netkit pair answers EACCES: only the primary manages programs.
            if link_kinds.name_of_kind(record.kind, record.data) == "netkit":
                hooks = {**NETKIT, **hooks}
            for name, number in hooks.items():
                query = _query(record.ifindex, number)
                if query is not None and query.entries:
                    rows = [Row(prog_id, link_id) for prog_id, link_id in query.entries]
                    found[record.ifindex].append(
                        Hook(space, record.name, record.ifindex, name, "", query.revision, rows)
                    )
    kinds = _ingress_qdiscs(host, space)
    for record in wanted:
        found[record.ifindex] += _filters(host, space, record, kinds.get(record.ifindex, ""))
    return [hook for record in wanted for hook in found[record.ifindex]]


def _query(ifindex: int, attach_type: int) -> t.Optional[bpf.Query]:
    try:
        return bpf.prog_query(ifindex, attach_type)
    except KernelError as problem:
        if problem.name not in ("ENODEV", "EINVAL", "EACCES"):  # gone meanwhile, or unknown to this kernel
            raise
        return None


def _xdp(space: str, record: rtnl.LinkRecord) -> t.List[Hook]:
    return [
        Hook(space, record.name, record.ifindex, "xdp", mode, None, [Row(number)])
        for mode, number in record.xdp
    ]


def _ingress_qdiscs(host: Host, space: str) -> t.Dict[int, str]:
    """``clsact`` or ``ingress`` by the index of the device that has one; one dump, whatever the number of devices."""
    found = {}
    try:
        payloads = host.socket(space).dump(tc.RTM_GETQDISC, tc.TCMSG.pack(0, 0, 0, 0, 0))
    except KernelError as problem:
        if problem.name == "EOPNOTSUPP":
            return {}  # a kernel without traffic control
        raise
    for payload in payloads:
        _family, ifindex, _handle, parent, _info = tc.TCMSG.unpack_from(payload)
        if parent == tc.QDISC_PARENT:
            kind = attributes(payload, tc.TCMSG.size).get(tc.TCA_KIND, b"")
            found[ifindex] = kind.rstrip(b"\0").decode("ascii", "replace")
    return found


def _filters(host: Host, space: str, record: rtnl.LinkRecord, kind: str) -> t.List[Hook]:
    netlink = host.socket(space)
    lists: t.Dict[str, t.List[tc.Filter]] = {}
    if kind == "clsact":
        lists = {f"clsact {hook}": tc.filters(netlink, record.ifindex, hook) for hook in tc.HOOKS}
    elif kind == OLD_QDISC:
        request = tc.TCMSG.pack(0, record.ifindex, 0, tc.QDISC_HANDLE, 0)
        rows = netlink.dump(tc.RTM_GETTFILTER, request)
        lists = {
            "qdisc ingress": [
                tc.decode_filter(row, "ingress") for row in rows if tc.TCMSG.unpack_from(row)[2]
            ]
        }
    found = []
    for name, filters in lists.items():
        rows_of = [Row(row.prog_id, 0, row.priority, row.kind) for row in filters if _is_filter(row)]
        if any(row.prog_id for row in rows_of):
            found.append(Hook(space, record.name, record.ifindex, name, "", None, rows_of))
    return found


def _is_filter(row: tc.Filter) -> bool:
    """Not those of other chains, which run on a goto only, and not u32's hash tables."""
    return not row.chain and not (row.kind == "u32" and not row.handle & 0xFFFFF)


def _links() -> t.List[bpf.LinkInfo]:
    found = []
    for number in bpf.link_ids():
        try:
            with bpf.closing(bpf.link_by_id(number)) as fd:
                found.append(bpf.link_info(fd))
        except KernelError as problem:
            if problem.name not in ("ENOENT", "EAGAIN"):  # gone, or about to come
                raise
    return found


def _sample(numbers: t.Iterable[int], seconds: float) -> t.Dict[int, t.Tuple[int, int]]:
    """Runs and nanoseconds of programs while the kernel counts them for some seconds."""
    with bpf.closing(bpf.enable_stats()):
        first = _runs(numbers)
        time.sleep(seconds)
        last = _runs(numbers)
    return {
        number: (runs - first[number][0], spent - first[number][1])
        for number, (runs, spent) in last.items()
        if number in first
    }


def _runs(numbers: t.Iterable[int]) -> t.Dict[int, t.Tuple[int, int]]:
    found = {}
    for number in numbers:
        try:
            with bpf.closing(bpf.prog_by_id(number)) as fd:
                info = bpf.prog_info(fd)
        except KernelError as problem:
            if problem.name != "ENOENT":
                raise
            continue
        found[number] = (info.run_cnt, info.run_time_ns)
    return found


def find_pins() -> t.Tuple[Pins, t.List[str]]:
    """All pins that can be seen on any bpffs, and a note when a second bpffs hides others."""
    notes = []
    try:
        points = bpffs.mounts()
    except UnsupportedError as problem:
        notes.append(f"{problem}; what the kernel's lists say is told all the same")
        with open(bpffs.MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            mounts = bpffs.parse_mounts(file.read())
        points = sorted({mount.point for mount in mounts if mount.kind == "bpf"})
    found: Pins = {}
    for point in points:
        for directory, _directories, names in os.walk(point):
            for name in names:
                path = os.path.join(directory, name)
                key = _pinned(path)
                if key is not None and path not in found.setdefault(key, []):
                    found[key].append(path)
    return found, notes


def _pinned(path: str) -> t.Optional[t.Tuple[str, int]]:
    try:
        with bpf.closing(bpf.get_pinned(path)) as fd:
            kind = _inspect_maps.object_kind(fd)
            if kind == "program":
                return kind, bpf.prog_info(fd).id
            if kind == "map":
                return kind, bpf.map_info(fd).id
            return ("link", bpf.link_info(fd).id) if kind == "link" else None
    except KernelError:
        return None  # gone, or of a kind that cannot be opened


def netkit_of(host: Host, space: str, device: t.Optional[str]) -> t.List[t.Dict[str, t.Any]]:
    """The netkit devices of a namespace with their settings and other ends, as `ip -d link show type netkit` tells."""
    found = []
    for record in host.links(space).by_name.values():
        end = NETKIT_ENDS.get(link_kinds.name_of_kind(record.kind, record.data))
        if end is None or (device is not None and device not in (record.name, *record.altnames)):
            continue
        found.append(
            {
                "netns": space,
                "link": record.name,
                "ifindex": record.ifindex,
                "end": end,
                "peer": _far_end(host, space, record),
                **link_kinds.decode_options("netkit", record.data),
            }
        )
    return found


def _far_end(host: Host, space: str, record: rtnl.LinkRecord) -> t.Optional[t.Dict[str, str]]:
    """Name and namespace of a pair's other end, None when its namespace has no name."""
    far = space if record.link_netnsid is None else host.namespace_of_id(space, record.link_netnsid)
    peer = host.links(far).by_index.get(record.link) if far is not None else None
    return {"name": peer.name, "netns": far} if far is not None and peer is not None else None


# --- Shaping: pure, but for reading the maps ----------------------------------------------------------------------


def devices_of(kernel: Kernel) -> t.List[t.Dict[str, t.Any]]:
    """The devices with anything attached, each with its hooks."""
    found: t.Dict[t.Tuple[str, int], t.Dict[str, t.Any]] = {}
    for hook in kernel.hooks:
        device = found.setdefault(
            (hook.netns, hook.ifindex),
            {"netns": hook.netns, "link": hook.device, "ifindex": hook.ifindex, "hooks": []},
        )
        device["hooks"].append(
            {
                "hook": hook.name,
                "mode": hook.mode or None,
                "revision": hook.revision,
                "programs": [_shown_row(kernel, hook, row) for row in hook.rows],
            }
        )
    return list(found.values())


def _shown_row(kernel: Kernel, hook: Hook, row: Row) -> t.Dict[str, t.Any]:
    link_id = row.link_id or (_xdp_link(kernel, hook, row) if hook.name == "xdp" else 0)
    program = kernel.programs.get(row.prog_id)
    told = program.mark if program else None
    info = program.info if program else None
    shown: t.Dict[str, t.Any] = {
        "id": row.prog_id or None,
        "name": info.name if info else None,
        "tag": info.tag if info else None,
        "type": type_name(info.type) if info else row.kind or None,
        "link_id": link_id or None,
        "pin": pin_of(kernel.pins, hook, row.prog_id, link_id),
        "priority": row.priority or None,
        "topology": told.topology if told else None,
        "object": told.object if told else None,
        "program": told.program if told else None,
        "since": when(kernel.booted + info.load_time / 1e9) if info else None,
        "run_count": info.run_cnt if info else None,
        "run_time_ns": info.run_time_ns if info else None,
    }
    if kernel.seconds:
        runs, spent = kernel.sampled.get(row.prog_id, (0, 0))
        shown["runs_per_second"] = round(runs / kernel.seconds, 3)
        shown["ns_per_run"] = round(spent / runs, 1) if runs else None
    return shown


def _xdp_link(kernel: Kernel, hook: Hook, row: Row) -> int:
    """The link of an XDP program, which netlink does not tell."""
    for info in kernel.links:
        if info.type == bpf.LinkType.XDP and (info.prog_id, info.ifindex) == (row.prog_id, hook.ifindex):
            return info.id
    return 0


def pin_of(known: Pins, hook: Hook, prog_id: int, link_id: int) -> t.Optional[str]:
    """The pin of an attachment: its link's; without a link that of the program, of several the one that means this place."""
    if link_id:
        paths = known.get(("link", link_id), [])
        return min(paths) if paths else None
    place = (hook.name.split()[-1], hook.device, hook.netns)
    paths = sorted(known.get(("program", prog_id), []))
    for path in paths:
        told = pins.parse_file_name(os.path.basename(path))
        if told is not None and told.place() == place:
            return path
    return paths[0] if paths else None


def type_name(number: int) -> str:
    """``sched_cls``; the number where the collection knows no name."""
    try:
        return bpf.ProgType(number).name.lower()
    except ValueError:
        return str(number)


def when(seconds: float) -> str:
    """A time since the epoch as ISO 8601, UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def objects_of(kernel: Kernel, fill: bool) -> t.List[t.Dict[str, t.Any]]:
    """The objects of all topologies: those whose programs are in the kernel, and those of which only pins are left."""
    groups: t.Dict[t.Tuple[str, str], t.List[Program]] = {}
    for topology in pins.topologies():
        for name in pins.objects(topology):
            groups[topology, name] = []
    for program in kernel.programs.values():
        if program.mark is not None:
            groups.setdefault((program.mark.topology, program.mark.object), []).append(program)
    attached = _attachments(kernel)
    types = Types()
    return [
        _shown_object(kernel, owner, rows, attached, types, fill) for owner, rows in sorted(groups.items())
    ]


def _attachments(kernel: Kernel) -> t.Dict[int, t.List[t.Dict[str, t.Any]]]:
    found: t.Dict[int, t.List[t.Dict[str, t.Any]]] = {}
    for hook in kernel.hooks:
        for row in hook.rows:
            place = {"netns": hook.netns, "link": hook.device, "hook": hook.name}
            found.setdefault(row.prog_id, []).append(place)
    return found


def _shown_object(
    kernel: Kernel,
    owner: t.Tuple[str, str],
    rows: t.Sequence[Program],
    attached: t.Mapping[int, t.List[t.Dict[str, t.Any]]],
    types: Types,
    fill: bool,
) -> t.Dict[str, t.Any]:
    marks = [row.mark for row in rows if row.mark is not None]
    last: t.Optional[mark.Mark] = max(marks, key=lambda one: one.loaded) if marks else None
    return {
        "topology": owner[0],
        "object": owner[1],
        "source": last.source if last else None,
        "compiler": last.compiler if last else None,
        "constants": dict(last.constants) if last else {},
        "programs": [
            {
                "program": row.mark.program if row.mark else None,
                "id": row.info.id,
                "tag": row.info.tag,
                "type": type_name(row.info.type),
                "pin": _first_pin(kernel.pins, "program", row.info.id, pins.PROGRAMS),
            }
            for row in sorted(rows, key=lambda row: (row.mark.program if row.mark else "", row.info.id))
        ],
        "maps": _shown_maps(kernel, rows, types, fill),
        "attachments": [
            {"program": row.mark.program if row.mark else None, **place}
            for row in rows
            for place in attached.get(row.info.id, ())
        ],
    }


def _first_pin(known: Pins, kind: str, number: int, part: str) -> t.Optional[str]:
    """The pin of a program or map in the directory of its object for that, or else any."""
    paths = sorted(known.get((kind, number), []))
    own = [path for path in paths if os.path.basename(os.path.dirname(path)) == part]
    return next(iter(own or paths), None)


def _shown_maps(
    kernel: Kernel, rows: t.Sequence[Program], types: Types, fill: bool
) -> t.List[t.Dict[str, t.Any]]:
    names: t.Dict[int, str] = {}
    for row in rows:
        names.update(_inspect_maps.maps_of(row))
    found = []
    for number, name in sorted(names.items(), key=lambda item: (item[1], item[0])):
        try:
            with bpf.closing(bpf.map_by_id(number)) as fd:
                info = bpf.map_info(fd)
                entries = _inspect_maps.count_entries(fd, info) if fill else None
        except KernelError as problem:
            if problem.name != "ENOENT":
                raise
            continue  # it has just gone
        pin = _first_pin(kernel.pins, "map", number, pins.MAPS)
        shown = {**_inspect_maps.about(info, types.of_map(info)), "name": name}
        found.append({**shown, "entries": entries, "pin": pin})
    return found


def elsewhere(kernel: Kernel) -> t.List[str]:
    """Links on devices of namespaces without a name, and links whose device is gone: no list shows them."""
    seen = {row.link_id for hook in kernel.hooks for row in hook.rows}
    seen.update(_xdp_link(kernel, hook, row) for hook in kernel.hooks for row in hook.rows)
    notes = []
    for info in kernel.links:
        if info.id in seen or info.attach_type not in HOOK_NAMES:
            continue
        program = kernel.programs.get(info.prog_id)
        words = f"link {info.id} ({HOOK_NAMES[info.attach_type]}, {_called(program, info.prog_id)})"
        if info.ifindex:
            notes.append(f"{words} is on device {info.ifindex} of a network namespace without a name")
        else:
            notes.append(f"{words} is left over: its device is gone")
    return notes


def _called(program: t.Optional[Program], number: int) -> str:
    if program is None:
        return f"program {number}"
    told = program.mark
    return (
        f"{told.topology}/{told.object}:{told.program}" if told else f"program {number} {program.info.name}"
    )


# --- Text ---------------------------------------------------------------------------------------------------------


def text_of(
    devices: t.Sequence[t.Mapping[str, t.Any]],
    objects: t.Sequence[t.Mapping[str, t.Any]],
    netkit: t.Sequence[t.Mapping[str, t.Any]],
    notes: t.Sequence[str],
) -> str:
    """The answer for reading: devices by namespace with their lists, then netkit devices, objects, and notes."""
    lines: t.List[str] = []
    space = None
    for device in devices:
        if device["netns"] != space:
            space = device["netns"]
            lines.append(f"[{space or 'host'}]")
        for hook in device["hooks"]:
            details = [
                str(hook["mode"]) if hook["mode"] else "",
                f"revision {hook['revision']}" if hook["revision"] is not None else "",
            ]
            lines.append(" ".join(["  " + device["link"], hook["hook"], *filter(None, details)]))
            lines += [f"    {number}. {_line_of(row)}" for number, row in enumerate(hook["programs"], 1)]
    if netkit:
        lines.append("netkit")
        lines += [f"  {_netkit_line(row)}" for row in netkit]
    if objects:
        lines.append("objects")
    for row in objects:
        places = len(row["attachments"])
        words = [row["source"] or "(no program left)", row["compiler"] or "", f"attached {places} times"]
        lines.append(f"  {row['topology']}/{row['object']}: {', '.join(filter(None, words))}")
        for found in row["maps"]:
            filled = "" if found["entries"] is None else f"{found['entries']}/"
            lines.append(f"    map {found['name']} {found['type']} {filled}{found['max_entries']}")
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines) + "\n" if lines else "no BPF program at any hook of the network\n"


def _line_of(row: t.Mapping[str, t.Any]) -> str:
    if row["id"] is None:
        return f"{row['type']} filter, priority {row['priority']}"
    ours = (
        f"{row['topology']}/{row['object']}:{row['program']}" if row["object"] else f"{row['name']} (foreign)"
    )
    words = [ours, f"program {row['id']}"]
    if row["link_id"]:
        words.append(f"link {row['link_id']}")
    if row["priority"]:
        words.append(f"priority {row['priority']}")
    if "runs_per_second" in row:
        spent = f", {row['ns_per_run']} ns each" if row["ns_per_run"] is not None else ""
        words.append(f"{row['runs_per_second']} runs/s{spent}")
    return ", ".join(words)


def _netkit_line(row: t.Mapping[str, t.Any]) -> str:
    told = ("netns", "link", "ifindex", "end", "peer")
    options = " ".join(f"{name} {value}" for name, value in row.items() if name not in told)
    peer = row["peer"]
    far = f"{peer['netns'] or 'host'}:{peer['name']}" if peer else "an end that cannot be seen"
    return f"{row['netns'] or 'host'}:{row['link']} {row['end']} {options} <-> {far}"
