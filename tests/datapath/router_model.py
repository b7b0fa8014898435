# SPDX-License-Identifier: GPL-3.0-or-later
"""What policy_router.bpf.c is to do, in plain Python and by the documentation: from a policy and a frame to a decision.

Nothing here is taken from the program but its names. Addresses are those of ipaddress, numbers host numbers.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import struct
import sys
import typing as t

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

CONDITIONAL, SOURCE, DESTINATION, DEFAULT = "CONDITIONAL", "SOURCE", "DESTINATION", "DEFAULT"
NEXT_HOPS, POOL, PASS, DROP, EXEMPT = "NEXT_HOPS", "POOL", "PASS", "DROP", "EXEMPT"
FLOW, BY_SOURCE, RANDOM = "FLOW", "SOURCE", "RANDOM"
VERDICTS = {
    "REDIRECT": 7,
    "PASS": 0,
    "DROP": 2,
    "STRICT_DROP": 2,
    "FAILED": 2,
}  # of outcomes; of all others NEXT
SKIPPED, PROBE, TOO_BIG, RANDOM_CHOICE, UNRESOLVED = 1, 2, 4, 8, 16
POOL_PROBES = 8

_PORTS = {6, 17, 33, 132, 136}
_EXTENSIONS = {0, 43, 44, 51, 60}
_IPV4, _IPV6, _TAGS = 0x0800, 0x86DD, {0x8100, 0x88A8}
_WORD = (1 << 64) - 1


class Choice(t.NamedTuple):
    action: int
    counter: int = 0


class Action(t.NamedTuple):
    kind: str
    nexthops: t.Tuple[int, ...] = ()
    pool: int = 0
    strict: bool = False
    check: bool = False


class NextHop(t.NamedTuple):
    """``address`` None: the packet's destination."""

    ifindex: int
    address: t.Optional[Address] = None


class Pool(t.NamedTuple):
    """``members``: the next hop of each slot."""

    members: t.Tuple[int, ...]
    mode: str = FLOW
    symmetric: bool = False


@dataclasses.dataclass(frozen=True)
class Policy:
    """``ports``: the class of a protocol and destination port, port 0 for any. ``defaults``: by IP version."""

    sources: t.Mapping[Network, Choice] = dataclasses.field(default_factory=dict)
    destinations: t.Mapping[Network, Choice] = dataclasses.field(default_factory=dict)
    ports: t.Mapping[t.Tuple[int, int], int] = dataclasses.field(default_factory=dict)
    conditions: t.Mapping[t.Tuple[int, Network], Choice] = dataclasses.field(default_factory=dict)
    defaults: t.Mapping[int, Choice] = dataclasses.field(default_factory=dict)
    actions: t.Mapping[int, Action] = dataclasses.field(default_factory=dict)
    nexthops: t.Mapping[int, NextHop] = dataclasses.field(default_factory=dict)
    pools: t.Mapping[int, Pool] = dataclasses.field(default_factory=dict)
    dead: t.FrozenSet[int] = frozenset()  # next hops
    mtus: t.Mapping[int, int] = dataclasses.field(default_factory=dict)  # of next hops that are asked about
    chain: t.Tuple[str, ...] = (CONDITIONAL, SOURCE, DESTINATION, DEFAULT)
    decrement_ttl: bool = False


class Decision(t.NamedTuple):
    """``explain``'s answer; names are those of the enums without their prefixes, verdict as the hook's number."""

    outcome: str
    verdict: int = -1
    cause: str = ""
    table: str = "NONE"
    action: int = 0
    kind: str = "NONE"
    counter: int = 0
    nexthop: int = 0
    ifindex: int = 0
    family: int = 0
    address: t.Optional[Address] = None
    flags: int = 0


class Packet(t.NamedTuple):
    source: Address
    destination: Address
    protocol: int
    ports: t.Tuple[int, int]
    fragment: str  # "", first or later
    transport: int
    ttl: int
    length: int  # as it says itself, 0 when it does not


def decide(policy: Policy, frame: bytes) -> Decision:
    """For a frame with Ethernet header, received by a device whose address is all zeros."""
    packet = _routable(frame)
    if isinstance(packet, str):
        return Decision(packet)
    found = _match(policy, packet)
    if found is None:
        return Decision("NO_MATCH")
    table, choice = found
    action = policy.actions.get(choice.action)
    decision = Decision("", table=table, action=choice.action, counter=choice.counter)
    if action is None:
        return decision._replace(outcome="FALLBACK", cause="BAD_ACTION")
    decision = decision._replace(kind=action.kind)
    if action.kind in (PASS, DROP, EXEMPT):
        return decision._replace(outcome=action.kind, verdict=VERDICTS.get(action.kind, -1))
    route = _route(policy, action, packet)
    if isinstance(route, str):
        outcome = "STRICT_DROP" if action.strict else "FALLBACK"
        return decision._replace(outcome=outcome, verdict=VERDICTS.get(outcome, -1), cause=route)
    index, flags = route
    hop = policy.nexthops[index]
    decision = decision._replace(
        nexthop=index,
        ifindex=hop.ifindex,
        family=0 if hop.address is None else {4: 2, 6: 10}[hop.address.version],
        address=packet.destination if hop.address is None else hop.address,
    )
    if policy.decrement_ttl and packet.ttl <= 1:
        return decision._replace(outcome="TTL")
    return decision._replace(outcome="REDIRECT", verdict=VERDICTS["REDIRECT"], flags=flags)


# --- Packets --------------------------------------------------------------------------------------------------------


def _routable(frame: bytes) -> t.Union[Packet, str]:
    """The packet, or why it is left alone."""
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype in _TAGS:
        return "VLAN"
    if ethertype not in (_IPV4, _IPV6):
        return "OTHER"
    group = frame[0] & 1
    if any(frame[:6]) and not group:
        return "OTHER_HOST"
    packet = (_ipv4 if ethertype == _IPV4 else _ipv6)(frame[14:])
    if isinstance(packet, str):
        return packet
    destination = packet.destination
    if group or destination.is_multicast or (int(destination) >> 28 == 0xF and destination.version == 4):
        return "GROUP"
    if destination.is_loopback or destination.is_link_local:
        return "LOCAL"
    if packet.protocol == 58 and destination.version == 6 and packet.fragment != "later":
        kind = frame[14 + packet.transport :][:1]
        if not kind:
            return "TRUNCATED"
        if 133 <= kind[0] <= 137:
            return "NEIGHBOR"
    return packet


def _ipv4(data: bytes) -> t.Union[Packet, str]:
    header, total = 4 * (data[0] & 15), int.from_bytes(data[2:4], "big")
    if data[0] >> 4 != 4 or header < 20 or 0 < total < header:
        return "BAD_HEADER"
    if len(data) < header:
        return "TRUNCATED"
    flags = int.from_bytes(data[6:8], "big")
    fragment = "later" if flags & 0x1FFF else "first" if flags & 0x2000 else ""
    packet = Packet(
        ipaddress.IPv4Address(data[12:16]),
        ipaddress.IPv4Address(data[16:20]),
        data[9],
        (0, 0),
        fragment,
        header,
        data[8],
        total,
    )
    return _with_ports(packet, data, total or 1 << 32)


def _ipv6(data: bytes) -> t.Union[Packet, str]:
    if data[0] >> 4 != 6:
        return "BAD_HEADER"
    payload = int.from_bytes(data[4:6], "big")
    end = 40 + payload if payload else 1 << 32
    protocol, at, fragment, headers = data[6], 40, "", 0
    while protocol in _EXTENSIONS and fragment != "later":
        if headers == 8:
            return "TOO_DEEP"
        headers += 1
        if at + 4 > min(end, len(data)):
            return "TRUNCATED"
        if protocol == 44:
            flags, length = int.from_bytes(data[at + 2 : at + 4], "big"), 8
            fragment = "later" if flags & 0xFFF8 else "first" if flags & 1 else fragment
        else:
            length = 4 * (data[at + 1] + 2) if protocol == 51 else 8 * (data[at + 1] + 1)
        protocol, at = data[at], at + length
    if at > end:
        return "BAD_HEADER"
    if at > len(data):
        return "TRUNCATED"
    packet = Packet(
        ipaddress.IPv6Address(data[8:24]),
        ipaddress.IPv6Address(data[24:40]),
        protocol,
        (0, 0),
        fragment,
        at,
        data[7],
        40 + payload if payload else 0,
    )
    return _with_ports(packet, data, end)


def _with_ports(packet: Packet, data: bytes, end: int) -> t.Union[Packet, str]:
    if packet.fragment == "later" or packet.protocol not in _PORTS:
        return packet
    if packet.transport + 4 > min(end, len(data)):
        return "TRUNCATED"
    ports = struct.unpack_from("!HH", data, packet.transport)
    return packet._replace(ports=(ports[0], ports[1]))


# --- The chain ------------------------------------------------------------------------------------------------------


def _match(policy: Policy, packet: Packet) -> t.Optional[t.Tuple[str, Choice]]:
    for member in policy.chain:
        found = _MEMBERS[member](policy, packet)
        if found is not None:
            return found
    return None


def _longest(table: t.Mapping[Network, Choice], address: Address) -> t.Optional[t.Tuple[Network, Choice]]:
    found = [row for row in table.items() if row[0].version == address.version and address in row[0]]
    return max(found, key=lambda row: row[0].prefixlen, default=None)


def _conditional(policy: Policy, packet: Packet) -> t.Optional[t.Tuple[str, Choice]]:
    for table, port in (("PORT", packet.ports[1]), ("PROTOCOL", 0)):
        number = policy.ports.get((packet.protocol, port)) if port or table == "PROTOCOL" else None
        rows = {network: choice for (owner, network), choice in policy.conditions.items() if owner == number}
        found = _longest(rows, packet.source)
        if found:
            return table, found[1]
    return None


def _by_address(
    name: str, table: t.Mapping[Network, Choice], address: Address
) -> t.Optional[t.Tuple[str, Choice]]:
    found = _longest(table, address)
    if not found:
        return None
    network, choice = found
    return f"{name}_EXACT" if network.prefixlen == network.max_prefixlen else name, choice


def _default(policy: Policy, packet: Packet) -> t.Optional[t.Tuple[str, Choice]]:
    choice = policy.defaults.get(packet.source.version)
    return ("DEFAULT", choice) if choice and choice.action else None


_MEMBERS: t.Dict[str, t.Callable[[Policy, Packet], t.Optional[t.Tuple[str, Choice]]]] = {
    CONDITIONAL: _conditional,
    SOURCE: lambda policy, packet: _by_address("SOURCE", policy.sources, packet.source),
    DESTINATION: lambda policy, packet: _by_address("DESTINATION", policy.destinations, packet.destination),
    DEFAULT: _default,
    "NONE": lambda policy, packet: None,
}


# --- The next hop ---------------------------------------------------------------------------------------------------


def _route(policy: Policy, action: Action, packet: Packet) -> t.Union[t.Tuple[int, int], str]:
    """Index of the next hop and flags, or the cause why there is none."""
    candidates: t.Sequence[int] = action.nexthops
    if action.kind == POOL:
        pool = policy.pools.get(action.pool)
        if pool is None or not pool.members:
            return "BAD_POOL"
        slot = slot_of(pool, packet)
        looks = min(POOL_PROBES, len(pool.members))
        stride = max(1, len(pool.members) // POOL_PROBES)
        candidates = [pool.members[(slot + each * stride) % len(pool.members)] for each in range(looks)]
    cause, last = "BAD_ACTION", -1
    for index in candidates:
        if index == last:
            continue
        cause = _unusable(policy, action, packet, index)
        if not cause:
            too_big = action.check and packet.length > policy.mtus.get(index, 1 << 32)
            return index, (SKIPPED if last >= 0 else 0) | (TOO_BIG if too_big else 0)
        last = index
    return cause


def _unusable(policy: Policy, action: Action, packet: Packet, index: int) -> str:
    hop = policy.nexthops.get(index)
    if hop is None:
        return "BAD_ACTION"
    if hop.address is not None and hop.address.version == 4 and packet.source.version == 6:
        return "FAMILY"
    return "DEAD" if action.check and index in policy.dead else ""


def slot_of(pool: Pool, packet: Packet, seed: int = 0) -> int:
    hashed = (
        _hash_source(packet, seed) if pool.mode == BY_SOURCE else _hash_flow(packet, seed, pool.symmetric)
    )
    return hashed * len(pool.members) >> 32


def _mix(value: int, word: int) -> int:
    value = (value ^ word) * 0x9E3779B97F4A7C15 & _WORD
    return value ^ value >> 32


def _end(seed: int, address: Address, port: int) -> int:
    words = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
    stands = int.from_bytes(struct.pack("!H", port), sys.byteorder)  # as in the packet
    if address.version == 4:
        return _mix(seed, words[0] | stands << 32)
    return _mix(_mix(_mix(seed, words[0] | words[1] << 32), words[2] | words[3] << 32), stands)


def _finish(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _WORD
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return value >> 32


def _hash_flow(packet: Packet, seed: int, symmetric: bool) -> int:
    ports, protocol = ((0, 0), 0) if packet.fragment else (packet.ports, packet.protocol)
    source, destination = _end(seed, packet.source, ports[0]), _end(seed, packet.destination, ports[1])
    return _finish(source * (1 if symmetric else 3) + destination + protocol & _WORD)


def _hash_source(packet: Packet, seed: int) -> int:
    return _finish(_end(seed, packet.source, 0))
