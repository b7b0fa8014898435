# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One end of a link: the fields, requests and command lines that every device has, whoever made it."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine.model import Desired, Key
from .._engine.state import State
from .._errors import KernelError, SpecError
from .._kernel import messages, namespaces, rtnl
from .._kernel.host import Host
from . import _fields, address, link_kinds, port

END_SPEC: t.Dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "netns": {"type": "str"},
    "up": {"type": "bool", "default": True},
    "mtu": {"type": "int"},
    "mac": {"type": "str"},
    "addresses": {"type": "list", "elements": "str"},
    "master": {"type": "str"},
}


@dataclasses.dataclass(frozen=True)
class End:
    """A device: the far end of a pair, or what other values share with it."""

    name: str
    netns: str
    up: t.Optional[bool] = None
    mtu: t.Optional[int] = None
    mac: t.Optional[str] = None


def near_end(item: t.Mapping[str, t.Any], path: str) -> t.Dict[str, t.Any]:
    """The fields that both ends of a pair and every other link have."""
    up = item.get("up")
    return {
        "name": _fields.ifname(item["name"], f"{path}.name"),
        "netns": _fields.netns(item.get("netns"), f"{path}.netns"),
        "up": True if up is None else up,
        "mtu": _fields.mtu(item.get("mtu"), f"{path}.mtu"),
        "mac": _fields.mac(item.get("mac"), f"{path}.mac"),
    }


def belongings(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    """What a link item declares beside the link: addresses and masters of both ends, ports of a bridge."""
    found: t.List[Desired] = []
    adopt = bool(item.get("adopt"))
    _check_mtu(item, path)
    for end, end_path in ((item, path), (item.get("peer"), f"{path}.peer")):
        if not end:
            continue
        name, space = end["name"], end.get("netns") or ""
        for number, text in enumerate(end.get("addresses") or ()):
            found.append(address.desired(space, name, text, f"{end_path}.addresses[{number}]", owner, adopt))
        if end.get("master"):
            found.append(port.desired(space, name, end["master"], f"{end_path}.master", owner))
    for number, member in enumerate(item.get("ports") or ()):
        found.append(
            port.desired(item.get("netns") or "", member, item["name"], f"{path}.ports[{number}]", owner)
        )
    return found


IPV6_MTU = 1280  # RFC 8200: below it the kernel takes IPv6 off the device


def _check_mtu(item: t.Mapping[str, t.Any], path: str) -> None:
    for end, end_path in ((item, path), (item.get("peer") or {}, f"{path}.peer")):
        mtu = end.get("mtu")
        if (
            mtu is not None
            and mtu < IPV6_MTU
            and any(":" in str(text) for text in end.get("addresses") or ())
        ):
            raise SpecError(
                f"{end_path}.mtu",
                f"{mtu} is too small for the IPv6 addresses; IPv6 needs {IPV6_MTU} bytes or more",
            )


def lost_on(before: t.Any, after: t.Any, state: State) -> t.Dict[Key, None]:
    """The values on one device that the kernel drops along with a change of it.

    A move drops everything; going down drops routes, IPv6 addresses and neighbours (fib_sync_down_dev, addrconf_ifdown,
    neigh_ifdown); another hardware address drops neighbours (neigh_changeaddr); a small MTU drops IPv6.
    """
    place = Key("link", before.netns, before.name)
    down = bool(before.up and after.up is False)
    small = (before.mtu or 0) >= IPV6_MTU > (after.mtu or IPV6_MTU)
    dropped: t.Set[str] = set()
    dropped6: t.Set[str] = set()
    if down:
        dropped, dropped6 = {"route", "neighbor"}, {"address"}
    if small:
        dropped6 |= {"route", "address"}
    if after.mac is not None and before.mac != after.mac:
        dropped |= {"neighbor"}
    moved = before.netns != after.netns
    if not (moved or dropped or dropped6):
        return {}
    lost: t.Dict[Key, None] = {}
    for key in state.standing_on(place):
        value = state[key]
        six = ":" in str(getattr(value, "destination", None) or getattr(value, "address", ""))
        if moved or key.kind in dropped or (six and key.kind in dropped6):
            lost[key] = None
    return lost


def move_end(host: Host, before: t.Any, after: t.Any) -> None:
    """Bring one device from where and what it is to the namespace and the name that it shall have."""
    host.links_changed(before.netns, before.name, after.name)
    host.links_changed(after.netns, before.name, after.name)
    if before.netns != after.netns:
        with namespaces.descriptor(after.netns) as descriptor:
            payload = messages.link(
                [("IFLA_NET_NS_FD", descriptor), ("IFLA_IFNAME", after.name)],
                host.index_of(before.netns, before.name),
            )
            host.request(before.netns, rtnl.RTM_NEWLINK, 0, payload)
        host.links_changed(before.netns, before.name)
    elif before.name != after.name:
        _rename(host, before.netns, before.name, after.name)
        host.links_changed(before.netns, before.name)


def _rename(host: Host, space: str, old: str, new: str) -> None:
    index = host.index_of(space, host.set_aside.pop((space, old), old))
    if host.gives_up_name(space, new):
        # Two links that take each other's names: the other one waits under a third name for its own turn.
        other = host.index_of(space, new)
        aside = f"cnf-{other}"
        _set_name(host, space, other, aside)
        host.set_aside[space, new] = aside
        host.links_changed(space, new)
    _set_name(host, space, index, new)


def _set_name(host: Host, space: str, index: int, name: str) -> None:
    rename = messages.link([("IFLA_IFNAME", name)], index)
    try:
        host.request(space, rtnl.RTM_NEWLINK, 0, rename)
    except KernelError as problem:
        if problem.name != "EBUSY":
            raise
        # Kernels before 6.2 rename only devices that are down.
        host.request(space, rtnl.RTM_NEWLINK, 0, messages.link([], index, up=False))
        host.request(space, rtnl.RTM_NEWLINK, 0, rename)
        host.request(space, rtnl.RTM_NEWLINK, 0, messages.link([], index, up=True))


def as_left(before: t.Any, after: t.Any) -> t.Any:
    """An end as it is after its move: the kernel takes a moving device down."""
    return before if before.netns == after.netns else dataclasses.replace(before, up=False)


def set_end(
    host: Host,
    space: str,
    name: str,
    before: t.Any,
    after: t.Any,
    options: t.Optional[t.Mapping[str, t.Any]] = None,
) -> None:
    """Send the differences of one device in one request; nothing when there is none."""
    attrs: messages.AttributeList = []
    if after.mtu is not None and after.mtu != before.mtu:
        attrs.append(("IFLA_MTU", after.mtu))
    if after.mac is not None and after.mac != before.mac:
        attrs.append(("IFLA_ADDRESS", after.mac))
    if options:
        info = [
            ("IFLA_INFO_KIND", after.kind),
            ("IFLA_INFO_DATA", {"attrs": link_kinds.encode_options(after.kind, options)}),
        ]
        attrs.append(("IFLA_LINKINFO", {"attrs": info}))
    up = after.up if after.up is not None and after.up != before.up else None
    if attrs or up is not None:
        host.request(space, rtnl.RTM_NEWLINK, 0, messages.link(attrs, host.index_of(space, name), up))


def end_commands(before: t.Any, after: t.Any) -> t.List[str]:
    """The lines that change one device from before to after."""
    lines = []
    if before.netns != after.netns:
        lines.append(
            _fields.ip(
                before.netns, "link", "set", before.name, "netns", after.netns or "1", "name", after.name
            )
        )
    elif before.name != after.name:
        lines.append(_fields.ip(before.netns, "link", "set", before.name, "name", after.name))
    words: t.List[str] = []
    for name in ("mtu", "mac"):
        if getattr(after, name) is not None and getattr(after, name) != getattr(before, name):
            words += [{"mac": "address"}.get(name, name), str(getattr(after, name))]
    left = as_left(before, after)
    if after.up is not None and after.up != left.up:
        words.append("up" if after.up else "down")
    if words:
        lines.append(_fields.ip(after.netns, "link", "set", after.name, *words))
    return lines


def end_item(end: t.Any) -> t.Dict[str, t.Any]:
    item = {"up": end.up, "mtu": end.mtu}
    if end.mac and int(end.mac.replace(":", ""), 16):
        item["mac"] = end.mac
    return {name: value for name, value in item.items() if value is not None}
