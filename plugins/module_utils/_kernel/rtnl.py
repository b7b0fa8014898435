# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Reading rtnetlink: small typed records of links, addresses, routes, rules and neighbours.

pyroute2 decodes a link in 0.2 ms and its return types differ between releases; here each record takes a few
microseconds and only the attributes that the collection compares are looked at. Layouts: linux/if_link.h, if_addr.h,
rtnetlink.h, fib_rules.h, neighbour.h. Integers are in host byte order, addresses are text.
"""

from __future__ import annotations

import socket
import struct
import typing as t

from .._errors import KernelError
from .netlink import Attributes, Netlink, attribute, attributes

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_GETNSID = 90
RTN_UNICAST = 1
NTF_USE = 0x01
RTM_NEWLINKPROP = 108
RTM_DELLINKPROP = 109

IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_EXT_MASK, IFLA_LINK_NETNSID, IFLA_XDP, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 29, 37, 43, 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_NETKIT_MODE = 5
# IFLA_XDP_{DRV,SKB,HW}_PROG_ID. Of two modes at once the plain IFLA_XDP_PROG_ID is missing, these never are.
XDP_MODES = (("native", 5), ("generic", 6), ("offload", 7))
XDP_NOTHING_BYTES = 8  # IFLA_XDP with nothing but IFLA_XDP_ATTACHED, which then is zero
RTEXT_FILTER_SKIP_STATS = 1 << 3
NETNSA_NSID, NETNSA_FD = 1, 3

AF_INET, AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)
U8, U16, U32, S32 = struct.Struct("=B"), struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=i")
IFINFOMSG = struct.Struct("=BxHiII")
IFADDRMSG = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
RULE_HEADER = struct.Struct("=BBBBBBBBI")
NDMSG = struct.Struct("=BxxxiHBB")


def _u32(found: Attributes, kind: int) -> t.Optional[int]:
    data = found.get(kind)
    return U32.unpack_from(data)[0] if data else None


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")


def address_text(data: bytes) -> str:
    """An address in its canonical spelling, from 4 or 16 bytes in network byte order."""
    return socket.inet_ntop(AF_INET if len(data) == 4 else AF_INET6, data)


class LinkRecord(t.NamedTuple):
    """A link as the kernel reports it. ``data`` is IFLA_INFO_DATA undecoded; 0 and None mean absent.

    ``xdp``: (mode, program id) of each attached XDP program; modes are native, generic and offload.
    """

    ifindex: int
    name: str
    flags: int
    mtu: int
    mac: str
    kind: str
    data: Attributes
    master: int
    link: int
    link_netnsid: t.Optional[int]
    altnames: t.Tuple[str, ...]
    xdp: t.Tuple[t.Tuple[str, int], ...] = ()


class AddressRecord(t.NamedTuple):
    ifindex: int
    family: int
    local: str
    peer: str
    prefixlen: int
    scope: int
    flags: int
    proto: int


class RouteRecord(t.NamedTuple):
    family: int
    destination: str
    prefixlen: int
    table: int
    protocol: int
    scope: int
    kind: int
    flags: int
    oif: int
    gateway: str
    metric: int
    source: str
    multipath: bool
    selective: bool = False  # for a TOS or a source prefix only


class RuleRecord(t.NamedTuple):
    family: int
    source: str
    destination: str
    tos: int
    action: int
    flags: int
    table: int
    priority: int
    fwmark: int
    fwmask: int
    iif: str
    oif: str
    protocol: int
    ip_proto: int
    sport: t.Optional[t.Tuple[int, int]]
    dport: t.Optional[t.Tuple[int, int]]
    plain: bool  # only attributes that this record knows


class NeighborRecord(t.NamedTuple):
    ifindex: int
    family: int
    address: str
    lladdr: str
    state: int
    flags: int
    flags_ext: int
    protocol: int


def _altnames(data: bytes) -> t.Tuple[str, ...]:
    found = []
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        if kind & 0x3FFF == IFLA_ALT_IFNAME:
            found.append(_text(data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return tuple(found)


def _xdp(data: bytes) -> t.Tuple[t.Tuple[str, int], ...]:
    found = attributes(data)
    return tuple((mode, U32.unpack_from(found[kind])[0]) for mode, kind in XDP_MODES if kind in found)


def decode_link(payload: bytes) -> LinkRecord:
    _family, _kind, index, flags, _change = IFINFOMSG.unpack_from(payload)
    found = attributes(payload, IFINFOMSG.size)
    info = attributes(found[IFLA_LINKINFO]) if IFLA_LINKINFO in found else {}
    netnsid = found.get(IFLA_LINK_NETNSID)
    xdp = found.get(IFLA_XDP, b"")
    return LinkRecord(
        ifindex=index,
        name=_text(found[IFLA_IFNAME]),
        flags=flags,
        mtu=_u32(found, IFLA_MTU) or 0,
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        data=attributes(info[IFLA_INFO_DATA]) if IFLA_INFO_DATA in info else {},
        master=_u32(found, IFLA_MASTER) or 0,
        link=_u32(found, IFLA_LINK) or 0,
        link_netnsid=S32.unpack_from(netnsid)[0] if netnsid else None,
        altnames=_altnames(found[IFLA_PROP_LIST]) if IFLA_PROP_LIST in found else (),
        xdp=_xdp(xdp) if len(xdp) > XDP_NOTHING_BYTES else (),
    )


def links(netlink: Netlink) -> t.List[LinkRecord]:
    request = IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_EXT_MASK, U32.pack(RTEXT_FILTER_SKIP_STATS))
    return [decode_link(payload) for payload in netlink.dump(RTM_GETLINK, request)]


def link_by_altname(netlink: Netlink, altname: str) -> t.Optional[LinkRecord]:
    request = IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_ALT_IFNAME, altname.encode() + b"\0")
    payload = netlink.query(RTM_GETLINK, request)
    return decode_link(payload) if payload else None


def nsid(netlink: Netlink, descriptor: int) -> int:
    """The id under which the socket's namespace knows the namespace behind the descriptor; -1: none assigned yet."""
    payload = netlink.query(RTM_GETNSID, U8.pack(0) + b"\0" * 3 + attribute(NETNSA_FD, U32.pack(descriptor)))
    data = attributes(payload, 4).get(NETNSA_NSID) if payload else None
    return S32.unpack_from(data)[0] if data else -1


def addresses(netlink: Netlink) -> t.List[AddressRecord]:
    found = []
    for payload in netlink.dump(RTM_GETADDR, IFADDRMSG.pack(0, 0, 0, 0, 0)):
        family, prefixlen, flags, scope, index = IFADDRMSG.unpack_from(payload)
        values = attributes(payload, IFADDRMSG.size)
        if 1 not in values:
            continue
        far = values[1]  # IFA_ADDRESS: the far end on a point-to-point address
        local = values.get(2, far)
        found.append(
            AddressRecord(
                ifindex=index,
                family=family,
                local=address_text(local),
                peer=address_text(far) if far != local else "",
                prefixlen=prefixlen,
                scope=scope,
                flags=_u32(values, 8) or flags,
                proto=values[11][0] if 11 in values else 0,
            )
        )
    return found


def _decode_route(payload: bytes) -> RouteRecord:
    family, prefixlen, source_length, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(payload)
    found = attributes(payload, RTMSG.size)
    gateway = address_text(found[5]) if 5 in found else address_text(found[18][2:]) if 18 in found else ""
    return RouteRecord(
        family=family,
        destination=address_text(found[1]) if 1 in found else ("0.0.0.0" if family == AF_INET else "::"),
        prefixlen=prefixlen,
        table=_u32(found, 15) or table,
        protocol=protocol,
        scope=scope,
        kind=kind,
        flags=flags,
        oif=_u32(found, 4) or 0,
        gateway=gateway,
        metric=_u32(found, 6) or 0,
        source=address_text(found[7]) if 7 in found else "",
        multipath=9 in found,
        selective=bool(tos or source_length),
    )


def routes(
    netlink: Netlink,
    family: int,
    table: int,
    protocol: int = 0,
    prefixlens: t.Optional[t.Container[int]] = None,
    oif: int = 0,
) -> t.List[RouteRecord]:
    """Routes of one table (0: all tables); the kernel filters by table, protocol and device, this code by prefix length.

    A router with a full table is dumped this way without decoding routes that nobody asked about.
    """
    request = RTMSG.pack(family, 0, 0, 0, table if table < 256 else 0, protocol, 0, 0, 0)
    if table:
        request += attribute(15, U32.pack(table))
    if oif:
        request += attribute(4, U32.pack(oif))
    try:
        payloads = netlink.dump(RTM_GETROUTE, request)
    except KernelError as problem:
        if problem.name in ("ENOENT", "EAFNOSUPPORT", "EOPNOTSUPP"):
            return []  # no such table yet, or no IPv6 in this kernel
        raise
    # A strict dump answers a cloned route (RTM_F_CLONED 0x200) only when asked for; rtm_family and length are bytes 0 and 1.
    return [
        _decode_route(payload)
        for payload in payloads
        if payload[0] == family and (prefixlens is None or payload[1] in prefixlens)
    ]


_RULE_KNOWN = frozenset((1, 2, 3, 6, 10, 14, 15, 16, 17, 18, 21, 22, 23, 24))
_PORT_MASKS = (28, 29)  # FRA_SPORT_MASK and FRA_DPORT_MASK, which newer kernels report with every single port
_WHOLE_PORT = b"\xff\xff"


def _is_plain(values: Attributes) -> bool:
    unknown = set(values) - _RULE_KNOWN
    return all(kind in _PORT_MASKS and values[kind][:2] == _WHOLE_PORT for kind in unknown)


def _range(data: t.Optional[bytes]) -> t.Optional[t.Tuple[int, int]]:
    return t.cast(t.Tuple[int, int], struct.unpack("=HH", data[:4])) if data else None


def rules(netlink: Netlink, family: int) -> t.List[RuleRecord]:
    found = []
    try:
        payloads = netlink.dump(RTM_GETRULE, RULE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    except KernelError as problem:
        if problem.name in ("EAFNOSUPPORT", "EOPNOTSUPP"):
            return []
        raise
    for payload in payloads:
        got_family, dst_len, src_len, tos, table, _r1, _r2, action, flags = RULE_HEADER.unpack_from(payload)
        if got_family != family:
            continue
        values = attributes(payload, RULE_HEADER.size)
        suppress = _u32(values, 14)
        found.append(
            RuleRecord(
                family=family,
                source=f"{address_text(values[2])}/{src_len}" if 2 in values else "",
                destination=f"{address_text(values[1])}/{dst_len}" if 1 in values else "",
                tos=tos,
                action=action,
                flags=flags,
                table=_u32(values, 15) or table,
                priority=_u32(values, 6) or 0,
                fwmark=_u32(values, 10) or 0,
                fwmask=_u32(values, 16) or 0,
                iif=_text(values.get(3, b"")),
                oif=_text(values.get(17, b"")),
                protocol=values[21][0] if 21 in values else 0,
                ip_proto=values[22][0] if 22 in values else 0,
                sport=_range(values.get(23)),
                dport=_range(values.get(24)),
                plain=_is_plain(values) and suppress in (None, 0xFFFFFFFF),
            )
        )
    return found


def neighbors(netlink: Netlink) -> t.List[NeighborRecord]:
    """Neighbour entries of IPv4 and IPv6 (bridge forwarding entries are another table)."""
    found = []
    for family in (AF_INET, AF_INET6):
        for payload in netlink.dump(RTM_GETNEIGH, NDMSG.pack(family, 0, 0, 0, 0)):
            got_family, index, state, flags, _kind = NDMSG.unpack_from(payload)
            values = attributes(payload, NDMSG.size)
            if got_family != family or 1 not in values:
                continue
            found.append(
                NeighborRecord(
                    ifindex=index,
                    family=family,
                    address=address_text(values[1]),
                    lladdr=values.get(2, b"").hex(":"),
                    state=state,
                    flags=flags,
                    flags_ext=_u32(values, 15) or 0,
                    protocol=values[12][0] if 12 in values else 0,
                )
            )
    return found
