# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Parsing and checking of single fields, shared by all kinds. Pure; raises SpecError with the path of the field."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import typing as t

from .._engine.model import ANY_TOPOLOGY, Key
from .._errors import SpecError

IFNAMSIZ = 16  # with the final zero byte (linux/if.h)
MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; IP's total length has 16 bits
PROTOCOL = 207  # our number on addresses, routes, rules and neighbours: free in rtnetlink.h and in iproute2's rt_protos
MARK_PREFIX = "cnf-"
MARK = re.compile(rf"{MARK_PREFIX}(.+)-[0-9a-f]{{12}}\Z")
PRINTABLE = re.compile(r"[!-~]+\Z")
RESERVED = ("lock", "logs")  # files of the store
TASKS = "tasks"  # the owner of what single tasks make
TOPOLOGY_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}\Z", re.IGNORECASE)

Interface = t.Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def mark_of(topology: str, key: Key) -> str:
    """The altname by which the kernel itself tells whose a link is: readable topology, hash of the identity."""
    digest = hashlib.sha256("\0".join((topology, *key)).encode()).hexdigest()
    return f"{MARK_PREFIX}{topology}-{digest[:12]}"


def owner_of(altnames: t.Iterable[str]) -> t.Optional[str]:
    """The topology that an ownership altname names, or None."""
    for altname in altnames:
        found = MARK.match(altname)
        if found:
            return found.group(1)
    return None


def owner_of_protocol(protocol: int) -> t.Optional[str]:
    return ANY_TOPOLOGY if protocol == PROTOCOL else None


def topology_name(name: str, path: str) -> str:
    if name in RESERVED:
        raise SpecError(path, f"{name!r} is a name of the state directory's own; choose another")
    if not TOPOLOGY_NAME.match(name):
        raise SpecError(
            path, f"{name!r} is not a topology name: up to 63 of A-Z a-z 0-9 _ . - and no sign first"
        )
    return name


def ifname(name: t.Any, path: str) -> str:
    """A device name as the kernel accepts it (dev_valid_name in net/core/dev.c)."""
    text = str(name)
    if not text or len(text.encode()) >= IFNAMSIZ:
        raise SpecError(
            path,
            f"{text!r} has {len(text.encode())} bytes; a device name has 1 to {IFNAMSIZ - 1}, shorten it",
        )
    if text in (".", "..") or not PRINTABLE.match(text) or re.search(r"[/:%]", text):
        raise SpecError(
            path, f"{text!r} is not a device name: printable ASCII without '/', ':', '%' and spaces is needed"
        )
    return text


def netns(name: t.Optional[str], path: str) -> str:
    """A namespace name, '' for the one in which the module runs."""
    text = name or ""
    if text and (
        text in (".", "..") or "/" in text or text[0] == "-" or not PRINTABLE.match(text) or len(text) > 255
    ):
        raise SpecError(
            path,
            f"{text!r} is not a namespace name: a file name of up to 255 printable ASCII signs is needed",
        )
    return text


def mtu(value: t.Optional[int], path: str) -> t.Optional[int]:
    return whole(value, MTU_MIN, MTU_MAX, path, "bytes")


def whole(value: t.Optional[int], lowest: int, highest: int, path: str, unit: str = "") -> t.Optional[int]:
    if value is not None and not lowest <= value <= highest:
        raise SpecError(
            path, f"{value} is out of range; give {lowest} to {highest}{' ' + unit if unit else ''}"
        )
    return value


def mac(value: t.Optional[str], path: str) -> t.Optional[str]:
    """A unicast hardware address in lower case with colons."""
    if value is None:
        return None
    text = value.lower().replace("-", ":")
    if not re.match(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z", text):
        raise SpecError(path, f"{value!r} is not a hardware address such as 02:00:00:00:00:01")
    if int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise SpecError(
            path,
            f"{value!r} is a group or zero address; a device needs a unicast one, such as 02:00:00:00:00:01",
        )
    return text


def interface(text: t.Any, path: str) -> Interface:
    """An address with its prefix length; a bare address is a host's (/32, /128), as for iproute2."""
    try:
        if "%" in str(text):
            raise ValueError
        return ipaddress.ip_interface(str(text))
    except ValueError:
        raise SpecError(
            path, f"{text!r} is not an address with prefix length, such as 10.0.0.1/24 or fd00::1/64"
        ) from None


def network(text: t.Any, path: str) -> Network:
    """A prefix with its host bits cleared."""
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        raise SpecError(path, f"{text!r} is not a prefix, such as 10.0.0.0/8, fd00::/8 or default") from None


def address(text: t.Any, path: str, scoped: bool = False) -> Address:
    """An address; with a scope (``fe80::1%eth0``) only where the caller knows what to do with it."""
    try:
        if "%" in str(text) and not scoped:
            raise ValueError
        return ipaddress.ip_address(str(text))
    except ValueError:
        raise SpecError(path, f"{text!r} is not an IP address, such as 10.0.0.1 or fd00::1") from None


def spelled(found: Address) -> str:
    """An address as the kernel's tools spell it; Python differs for IPv4-compatible IPv6 addresses."""
    return socket.inet_ntop(socket.AF_INET if found.version == 4 else socket.AF_INET6, found.packed)


def spelled_prefix(found: Network) -> str:
    return f"{spelled(found.network_address)}/{found.prefixlen}"


def family_of(version: int) -> int:
    """AF_INET or AF_INET6 of an IP version."""
    return 2 if version == 4 else 10


def ip(netns_name: str, *words: t.Any, family: int = 2) -> str:
    """The equivalent command line of iproute2."""
    start = ["ip"] + (["-6"] if family == 10 else []) + (["-n", netns_name] if netns_name else [])
    return " ".join(str(word) for word in (*start, *words) if word != "")


def require(item: t.Mapping[str, t.Any], names: t.Iterable[str], path: str) -> None:
    for name in names:
        if item.get(name) in (None, ""):
            raise SpecError(f"{path}.{name}", "missing; it is required")
