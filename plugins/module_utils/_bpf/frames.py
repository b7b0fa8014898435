# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Packets to ask a router about, and what a packet says. Pure.

Frames have an Ethernet header. Only headers matter to a router, so a packet may say of itself that it is longer than it is.
"""

from __future__ import annotations

import socket
import struct
import typing as t

from .._errors import SpecError
from . import policy_input
from .policy import PROTOCOLS, WITH_PORTS

ETHERNET_BYTES = 14
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
MAX_FRAME = 3500  # what BPF_PROG_TEST_RUN takes is a page with its overhead
MIN_RAW, DEFAULT_TTL, DEFAULT_SIZE = ETHERNET_BYTES + 20, 64, 84
TCP, UDP, ICMP, ICMPV6 = PROTOCOLS["tcp"], PROTOCOLS["udp"], PROTOCOLS["icmp"], PROTOCOLS["ipv6-icmp"]
ECHO = {ICMP: 8, ICMPV6: 128}


class Packet(t.NamedTuple):
    """What a packet is matched by. Addresses in network byte order, ports 0 where there are none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    size: int = DEFAULT_SIZE
    ttl: int = DEFAULT_TTL

    def __str__(self) -> str:
        family = socket.AF_INET if len(self.source) == 4 else socket.AF_INET6
        source, destination = (
            socket.inet_ntop(family, address) for address in (self.source, self.destination)
        )
        name = policy_input.protocol_name(self.protocol)
        port = f" port {self.destination_port}" if self.destination_port else ""
        return f"{source} -> {destination} {name}{port}"


def packet_of(item: t.Mapping[str, t.Any], path: str) -> Packet:
    """A packet from its options. Raises SpecError."""
    addresses = []
    for name in ("source", "destination"):
        if not item.get(name):
            raise SpecError(f"{path}.{name}", "missing; it is required unless raw is given")
        address, length = policy_input.prefix(item[name], f"{path}.{name}")
        if length != 8 * len(address):
            raise SpecError(f"{path}.{name}", f"{item[name]} is a prefix; a packet has one address")
        addresses.append(address)
    if len(addresses[0]) != len(addresses[1]):
        raise SpecError(f"{path}.destination", "is of another family than source")
    default = ICMP if len(addresses[0]) == 4 else ICMPV6
    protocol = policy_input.protocol_of(item.get("protocol"), f"{path}.protocol")
    protocol = default if protocol is None else protocol
    ports = []
    for name, port in (("source_port", 40000), ("destination_port", 0)):
        given = item.get(name)
        if given and protocol not in WITH_PORTS:
            raise SpecError(f"{path}.{name}", "only tcp, udp, dccp, sctp and udplite have ports")
        if given is not None and not 0 <= given <= 65535:
            raise SpecError(f"{path}.{name}", f"{given} is out of range; give 0 to 65535")
        ports.append((given if given is not None else port) if protocol in WITH_PORTS else 0)
    size, least = item.get("size") or DEFAULT_SIZE, 28 if len(addresses[0]) == 4 else 48
    if protocol == TCP:
        least += 12
    if not least <= size <= 65535:
        raise SpecError(
            f"{path}.size", f"{size} is out of range; give {least} to 65535 bytes of an IP packet"
        )
    ttl = item.get("ttl") or DEFAULT_TTL
    if not 1 <= ttl <= 255:
        raise SpecError(f"{path}.ttl", f"{ttl} is out of range; give 1 to 255")
    return Packet(addresses[0], addresses[1], protocol, ports[0], ports[1], size, ttl)


def frame_of(packet: Packet, mac: bytes) -> bytes:
    """The frame of a packet that a device with this hardware address receives."""
    version = 4 if len(packet.source) == 4 else 6
    head = (_ipv4 if version == 4 else _ipv6)(packet)
    body = _transport(packet)
    frame = mac.ljust(6, b"\0") + bytes(6) + struct.pack("!H", ETHERTYPES[version]) + head + body
    whole = min(MAX_FRAME, ETHERNET_BYTES + packet.size)
    return frame[:whole].ljust(whole, b"\0")


def _ipv4(packet: Packet) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        packet.size,
        0,
        0x4000,
        packet.ttl,
        packet.protocol,
        0,
        packet.source,
        packet.destination,
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]


def _ipv6(packet: Packet) -> bytes:
    return struct.pack(
        "!IHBB16s16s",
        6 << 28,
        packet.size - 40,
        packet.protocol,
        packet.ttl,
        packet.source,
        packet.destination,
    )


def _transport(packet: Packet) -> bytes:
    ports = (packet.source_port, packet.destination_port)
    if packet.protocol == TCP:
        return struct.pack("!HHIIBBHHH", *ports, 1, 0, 5 << 4, 2, 65535, 0, 0)  # SYN
    if packet.protocol in WITH_PORTS:
        return struct.pack("!HHHH", *ports, 8, 0)
    return bytes([ECHO.get(packet.protocol, 0)]) + bytes(7)


def raw_frame(text: t.Any, path: str) -> bytes:
    """A frame from hexadecimal digits, with or without spaces and colons."""
    digits = "".join(str(text).replace(":", " ").split())
    try:
        frame = bytes.fromhex(digits)
    except ValueError:
        raise SpecError(path, "is not a frame in hexadecimal digits") from None
    if not MIN_RAW <= len(frame) <= MAX_FRAME:
        raise SpecError(
            path, f"has {len(frame)} bytes; a frame with its Ethernet header has {MIN_RAW} to {MAX_FRAME}"
        )
    return frame


def read_frame(frame: bytes) -> t.Optional[Packet]:
    """What a router would match of a frame without extension headers; None for what is neither IPv4 nor IPv6."""
    ethertype = int.from_bytes(frame[12:14], "big")
    data = frame[ETHERNET_BYTES:]
    if ethertype == ETHERTYPES[4] and len(data) >= 20:
        at, protocol, source, destination = 4 * (data[0] & 15), data[9], data[12:16], data[16:20]
        whole = not int.from_bytes(data[6:8], "big") & 0x1FFF
    elif ethertype == ETHERTYPES[6] and len(data) >= 40:
        at, protocol, source, destination, whole = 40, data[6], data[8:24], data[24:40], True
    else:
        return None
    ports = (0, 0)
    if protocol in WITH_PORTS and whole and len(data) >= at + 4:
        ports = struct.unpack_from("!HH", data, at)
    return Packet(source, destination, protocol, *ports, size=len(data))
