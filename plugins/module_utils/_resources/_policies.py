# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What bpf_policy_entry and bpf_pool share: devices by name, the neighbours of next hops, and whether next hops are any good.

A next hop with an address needs a neighbour entry that the kernel keeps resolved: on an egress hook the packet that makes the
kernel ask for a neighbour is lost. Such entries bear a protocol number of their own, so that they are told from those that
people declare (neighbor), and go when no router of the host names the next hop any more.
"""

from __future__ import annotations

import dataclasses
import socket
import time
import typing as t

from .._bpf import objects, pins, router
from .._bpf.policy import GONE, NextHop
from .._errors import KernelError, PlanError, SpecError
from .._kernel import messages, rtnl
from .._kernel.host import Host
from . import _fields, bpf_object

PROTOCOL = _fields.PROTOCOL + 1  # on neighbours of next hops
IFF_UP, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x80, 0x10000
NUD_INCOMPLETE, NUD_FAILED, NUD_PERMANENT, NUD_NOARP = 0x01, 0x20, 0x80, 0x40
NUD_RESOLVED = 0x02 | 0x04 | 0x08 | 0x10 | NUD_PERMANENT | NUD_NOARP
NTF_EXT_MANAGED = 1
# Three questions a second apart, and the time that both ends take to be sure of their IPv6 addresses.
ANSWER_SECONDS = 8.0
POLL_SECONDS = 0.02
STRICT, WARN, OFF = "strict", "warn", "off"
VALIDATE = (STRICT, WARN, OFF)

# What may bring about what validation asks for; then it waits until all that has run.
PREPARING = (
    "netns",
    "link",
    "existing_link",
    "port",
    "sysctl",
    "address",
    "neighbor",
    "route",
)


def topology_of(item: t.Mapping[str, t.Any], path: str, owner: str) -> str:
    """Whose object an item is about: that of the topology which declares it, or the one that a single task names."""
    given = item.get("topology")
    if not given:
        return owner
    if owner != _fields.TASKS and given != owner:
        raise SpecError(f"{path}.topology", f"is for single tasks; here it is {owner}")
    return given if given == _fields.TASKS else _fields.topology_name(given, f"{path}.topology")


def name_finder(host: Host, netns: str) -> router.NameOf:
    """Names of the devices of a namespace by index."""
    links = host.links(netns)

    def name_of(index: int) -> str:
        return host.name_of(netns, index) if index in links.by_index else f"{index} {GONE}"

    return name_of


def index_finder(host: Host, netns: str) -> router.IndexOf:
    """Indexes of devices by name, as the kernel has them now; one that is gone keeps the index that it is known by."""
    return lambda name: int(name.split()[0]) if name.endswith(GONE) else host.index_of(netns, name)


def observed_index_finder(host: Host, netns: str) -> router.IndexOf:
    """The same from what was read; 0 for a device that is not there."""

    def index_of(name: str) -> int:
        record = host.find_link(netns, name)
        if name.endswith(GONE):
            return int(name.split()[0])
        return record.ifindex if record is not None else 0

    return index_of


# --- neighbours -----------------------------------------------------------------------------------------------------------


def needs_neighbor(record: rtnl.LinkRecord, hop: NextHop) -> bool:
    return bool(hop.address) and not record.flags & IFF_NOARP


def missing_neighbors(host: Host, netns: str, hops: t.Iterable[NextHop]) -> t.List[NextHop]:
    """The next hops whose neighbour the kernel does not keep resolved by itself."""
    kept = {
        (row.ifindex, row.address)
        for row in host.neighbors(netns)
        if row.flags_ext & NTF_EXT_MANAGED or row.state & NUD_PERMANENT
    }
    missing = []
    for hop in hops:
        record = host.find_link(netns, hop.interface)
        if record is not None and needs_neighbor(record, hop) and (record.ifindex, hop.address) not in kept:
            missing.append(hop)
    return missing


def add_neighbors(host: Host, netns: str, hops: t.Iterable[NextHop]) -> t.List[NextHop]:
    """Make the missing ones, and return them."""
    host.cache_drop(("neighbors", netns))
    made = missing_neighbors(host, netns, hops)
    for hop in made:
        attrs: messages.AttributeList = [
            ("NDA_DST", hop.address),
            ("NDA_FLAGS_EXT", NTF_EXT_MANAGED),
            ("NDA_PROTOCOL", PROTOCOL),
        ]
        flags = messages.NLM_F_CREATE | messages.NLM_F_REPLACE
        payload = messages.neighbor(_family(hop), host.index_of(netns, hop.interface), 0, 0, attrs)
        host.request(netns, rtnl.RTM_NEWNEIGH, flags, payload)
    return made


def drop_neighbors(host: Host, netns: str, keep: t.Container[t.Tuple[int, str]]) -> None:
    """Remove those of ours in a namespace that are not to be kept."""
    host.cache_drop(("neighbors", netns))
    for row in host.neighbors(netns):
        if row.protocol != PROTOCOL or (row.ifindex, row.address) in keep:
            continue
        family = rtnl.AF_INET6 if ":" in row.address else rtnl.AF_INET
        payload = messages.neighbor(family, row.ifindex, 0, 0, [("NDA_DST", row.address)])
        try:
            host.request(netns, rtnl.RTM_DELNEIGH, 0, payload)
        except KernelError as problem:
            if problem.name not in ("ENOENT", "ENODEV"):
                raise
    host.cache_drop(("neighbors", netns))


def stale_neighbors(host: Host, netns: str) -> t.List[str]:
    """Neighbours of ours that no router names any more."""
    used = used_next_hops(netns)
    return [
        f"{row.address}%{host.name_of(netns, row.ifindex)}"
        for row in host.neighbors(netns)
        if row.protocol == PROTOCOL and (row.ifindex, row.address) not in used
    ]


def netns_of(topology: str, name: str) -> t.Optional[str]:
    """The namespace of a router's devices; None for an object that is no router."""
    if "settings" not in objects.map_names(topology, name):
        return None
    with router.opened(topology, name) as found:
        return found.netns() if found is not None else None


def used_next_hops(netns: str) -> t.Set[t.Tuple[int, str]]:
    """(ifindex, address) of every next hop in a namespace that any router of this host has."""
    used: t.Set[t.Tuple[int, str]] = set()
    for topology in pins.topologies():
        for name in pins.objects(topology):
            if "nexthops" not in objects.map_names(topology, name):
                continue
            with router.opened(topology, name) as found:
                if found is not None and found.netns() == netns:
                    for data in found.nexthops().values():
                        ifindex, family, address = router.NEXTHOP.unpack(data)
                        if family:
                            used.add((ifindex, _address(family, address)))
    return used


def _address(family: int, raw: bytes) -> str:
    return socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)


def _family(hop: NextHop) -> int:
    return rtnl.AF_INET6 if ":" in hop.address else rtnl.AF_INET


# --- validation -----------------------------------------------------------------------------------------------------------


def problems_of(host: Host, netns: str, hop: NextHop, liveness: bool) -> t.List[str]:
    """What would keep packets from a next hop, each with what to do; whether it answers is another question."""
    where = _where(netns, hop)
    record = host.find_link(netns, hop.interface)
    if record is None:
        return [f"interface {where} does not exist; create it or correct the name"]
    found = []
    if not record.flags & IFF_UP:
        found.append(f"interface {where} is down; set it up")
    elif not record.flags & IFF_LOWER_UP:
        found.append(f"interface {where} has no carrier; connect its other end or set that up")
    found += _switches(host, netns, hop, liveness, where)
    if hop.address and not found and not _is_on_link(host, netns, hop, record):
        found.append(
            f"next hop {hop.address} is not on the link of {where}: no connected prefix of it has the address; "
            f"give {hop.interface} an address of that prefix, or correct the next hop"
        )
    return found


def silent_hops(host: Host, netns: str, hops: t.Sequence[NextHop], resolve: bool) -> t.List[NextHop]:
    """The next hops that do not answer. With ``resolve`` the kernel is made to ask for all that are unknown, at the same time."""
    asked = []
    for hop in hops:
        record = host.find_link(netns, hop.interface)
        if record is not None and needs_neighbor(record, hop):
            asked.append((hop, record))
    deadline, again = time.monotonic() + ANSWER_SECONDS, 0.0
    while True:
        host.cache_drop(("neighbors", netns))
        open_ones = [
            (hop, record) for hop, record in asked if not _state_of(host, netns, record, hop) & NUD_RESOLVED
        ]
        if not resolve:
            return [
                hop
                for hop, record in open_ones
                if _state_of(host, netns, record, hop) & (NUD_INCOMPLETE | NUD_FAILED)
            ]
        if not open_ones or time.monotonic() > deadline:
            return [hop for hop, _record in open_ones]
        if time.monotonic() - again > 1.0:
            again = time.monotonic()
            for hop, record in open_ones:
                _ask_for(host, netns, record, hop)
        time.sleep(POLL_SECONDS)


def _where(netns: str, hop: NextHop) -> str:
    return f"{hop.interface}{f' in netns {netns}' if netns else ''}"


def _switches(host: Host, netns: str, hop: NextHop, liveness: bool, where: str) -> t.List[str]:
    found = []
    versions = ["ipv6"] if ":" in hop.address else ["ipv4"] if hop.address else []
    names = {f"net/{v}/conf/{hop.interface}/forwarding": v for v in versions}
    if ":" not in hop.address:
        names.update({f"net/ipv4/conf/{device}/rp_filter": "" for device in (hop.interface, "all")})
    values = host.sysctls(netns, names)
    for key, version in names.items():
        if version and liveness and values[key] == "0":
            found.append(
                f"{version} forwarding is off on {where}, so the kernel does not tell whether {hop.address} is alive; "
                f"switch it on (sysctl_forwarding) or set liveness: false"
            )
    strictness = [int(value or 0) for key, value in values.items() if key.endswith("rp_filter")]
    if max(strictness, default=0) == 1:
        found.append(
            f"rp_filter is strict on {where}: packets of the other direction that come in there would be dropped; "
            f"set it to 2 or 0 (sysctl_forwarding) there and for all"
        )
    return found


def _is_on_link(host: Host, netns: str, hop: NextHop, record: rtnl.LinkRecord) -> bool:
    family = _family(hop)
    raw = socket.inet_pton(family, hop.address)
    if family == rtnl.AF_INET6 and raw[0] == 0xFE and raw[1] & 0xC0 == 0x80:
        return True
    number = int.from_bytes(raw, "big")
    for route in host.routes(netns, family, 0, oif=record.ifindex):
        if route.oif != record.ifindex or route.gateway or route.multipath:
            continue
        shift = 8 * len(raw) - route.prefixlen
        base = int.from_bytes(socket.inet_pton(family, route.destination), "big")
        if number >> shift == base >> shift and route.kind == rtnl.RTN_UNICAST:
            return True
    return False


def _state_of(host: Host, netns: str, record: rtnl.LinkRecord, hop: NextHop) -> int:
    for row in host.neighbors(netns):
        if row.ifindex == record.ifindex and row.address == hop.address:
            return row.state
    return 0


def _ask_for(host: Host, netns: str, record: rtnl.LinkRecord, hop: NextHop) -> None:
    """Make the kernel ask for a neighbour. An entry that was not there goes by itself after a while."""
    attrs: messages.AttributeList = [("NDA_DST", hop.address)]
    payload = messages.neighbor(_family(hop), record.ifindex, 0, rtnl.NTF_USE, attrs)
    host.request(netns, rtnl.RTM_NEWNEIGH, messages.NLM_F_CREATE | messages.NLM_F_REPLACE, payload)


def check_hops(
    host: Host,
    netns: str,
    hops: t.Mapping[NextHop, bool],
    validate: str,
    resolve: bool,
    what: str,
) -> t.List[str]:
    """Notes on next hops (with whether their liveness is asked for). PlanError for the first problem when strict."""
    if validate == OFF:
        return []
    found = {hop: problems_of(host, netns, hop, liveness) for hop, liveness in hops.items()}
    good = [hop for hop, problems in found.items() if not problems]
    for hop in silent_hops(host, netns, good, resolve):
        how = "ND" if ":" in hop.address else "ARP"
        found[hop].append(
            f"next hop {hop.address} does not answer {how} on {_where(netns, hop)}; see that it is up, or set validate: warn"
        )
    notes = [f"{what}: {problem}" for problems in found.values() for problem in problems]
    if notes and validate == STRICT:
        raise PlanError(notes[0])
    return notes


def check_attachments(value: t.Any, plan: t.Any, what: str) -> t.List[str]:
    """A note when the router is, or will be, attached in another namespace than that of its devices, whose indexes mean others there.
    PlanError when strict. At a netkit's primary hook packets are in the namespace of its far end, which a pin does not tell.
    """
    places = _attachments(value, plan)
    others = sorted(place for place in places if place[0] != "primary" and place[2] != (value.netns or ""))
    if not others or value.validate in (None, OFF):
        return []
    hook, link, netns = others[0]
    note = (
        f"{what}: the router is attached to {link} {hook} in {f'netns {netns}' if netns else 'the host namespace'}, but its devices are "
        f"looked up in {f'netns {value.netns}' if value.netns else 'the host namespace'}; set netns to where it is attached"
    )
    if value.validate == STRICT:
        raise PlanError(note)
    return [note]


def narrow_ways(host: Host, value: t.Any, hops: t.Iterable[NextHop], plan: t.Any, what: str) -> t.List[str]:
    """A note for each device of a next hop whose MTU is below that of a device that the router takes packets from.

    The kernel's routing, which would tell the sender, does not see them. Devices that are not there yet, or that the plan changes, are
    not judged.
    """
    if value.validate in (None, OFF):
        return []
    netns = value.netns or ""
    open_ones = {
        operation.key.id for operation in plan.operations if operation.key.kind in ("link", "existing_link")
    }
    taken = [
        (record.mtu, link)
        for _hook, link, place in _attachments(value, plan)
        for record in [host.find_link(netns, link)]
        if place == netns and record is not None and link not in open_ones
    ]
    if not taken:
        return []
    most, source = max(taken)
    notes = []
    for device in sorted({hop.interface for hop in hops} - open_ones):
        record = host.find_link(netns, device)
        if record is not None and record.mtu < most:
            notes.append(
                f"{what}: the MTU of {device} is {record.mtu}, that of {source} is {most}: longer packets are lost there and their "
                f"sender is not told; give both the same MTU, or clamp the MSS"
            )
    return notes


def _attachments(value: t.Any, plan: t.Any) -> t.Set[t.Tuple[str, str, str]]:
    """Hook, device and namespace of each place that a router is attached to once the plan is done."""
    places = {
        pin.place() for program, pin in pins.links(value.topology, value.object) if program == router.PROGRAM
    }
    for operation in plan.operations:
        one = operation.value
        if operation.key.kind in ("tcx_attach", "netkit_attach") and (one.owner, one.object, one.program) == (
            value.topology,
            value.object,
            router.PROGRAM,
        ):
            place = (one.hook, one.link, one.netns)
            places = places - {place} if operation.after is None else places | {place}
    return places


def is_prepared_by(plan: t.Any) -> bool:
    """Whether a plan does what could make a next hop usable that is not yet."""
    return any(operation.key.kind in PREPARING for operation in plan.operations)


def existing_router(host: Host, topology: str, name: str) -> bool:
    return bpf_object.installed(host, topology, name) is not None


def is_restored(before: t.Any, now: t.Any) -> bool:
    """Whether what undo left of a policy or a pool is what there was.

    What it has mended besides is no loss, and neighbours come and go with the carrier of their device: the next run sees to them.
    """
    health = before.health if now.health == bpf_object.OK else now.health
    return bool(before == dataclasses.replace(now, health=health, neighbors=before.neighbors))
