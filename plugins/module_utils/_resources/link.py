# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Links that we create: veth and netkit pairs, bridge, vlan, vxlan, vrf, macvlan, dummy, tun and tap.

A pair is one resource with two ends: it is made by one request, each end deletes both, and the far end is found from the
near one by index (it may have been renamed or moved). The near end carries our mark as an altname.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, SpecError, UnsupportedError
from .._kernel import messages, namespaces, rtnl, tuntap
from .._kernel.host import Host
from . import _fields, existing_link, link_kinds, netns
from ._ends import (
    END_SPEC,
    End,
    as_left,
    belongings,
    end_commands,
    end_item,
    lost_on,
    move_end,
    near_end,
    set_end,
)
from .link_kinds import KINDS

NAME = SECTION = "link"
RANK = 10
BORROWED = False

UNNAMED = "(unnamed)"  # where an end is when its namespace has no name in /run/netns

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **END_SPEC,
    "kind": {
        "type": "str",
        "choices": [
            "veth",
            "bridge",
            "vlan",
            "vxlan",
            "vrf",
            "macvlan",
            "dummy",
            "wireguard",
            "tun",
            "tap",
            "existing",
        ],
    },
    "up": {"type": "bool"},
    "peer": {"type": "dict", "options": END_SPEC},
    "parent": {"type": "str"},
    "ports": {"type": "list", "elements": "str"},
    "stp": {"type": "bool"},
    "vlan_filtering": {"type": "bool"},
    "ageing_time": {"type": "int"},
    "forward_delay": {"type": "int"},
    "vlan_id": {"type": "int"},
    "vlan_protocol": {"type": "str", "choices": ["802.1q", "802.1ad"]},
    "vni": {"type": "int"},
    "local": {"type": "str"},
    "remote": {"type": "str"},
    "port": {"type": "int"},
    "learning": {"type": "bool"},
    "ttl": {"type": "int"},
    "table": {"type": "int"},
    "macvlan_mode": {"type": "str", "choices": ["private", "vepa", "bridge", "passthru"]},
    "fallback": {"type": "str", "choices": ["none", "tun"]},
    "recreate": {"type": "bool", "default": False},
}

# Options of one kind each: required ones first, then what a new link gets when nothing is said.
KIND_NEEDS = {
    "veth": ("peer",),
    "vlan": ("parent", "vlan_id"),
    "vxlan": ("vni",),
    "vrf": ("table",),
    "macvlan": ("parent",),
}
DEFAULTS: t.Dict[str, t.Dict[str, t.Any]] = {
    "vlan": {"vlan_protocol": "802.1q"},
    "vxlan": {"port": 4789},  # RFC 7348; the kernel's own default is the older 8472
    "macvlan": {"macvlan_mode": "bridge"},
}
RANGES = {
    "vlan_id": (1, 4094),
    "vni": (0, (1 << 24) - 1),
    "port": (1, 65535),
    "ttl": (0, 255),
    "table": (1, (1 << 32) - 1),
    "ageing_time": (0, 1_000_000),
    "forward_delay": (0, 30),
}

SPECIAL = sorted(
    {name for row in KINDS.values() for name in row.options} | {"peer", "parent", "ports", "fallback"}
)


@dataclasses.dataclass(frozen=True)
class Value:
    """A link. ``netns`` and ``name`` observed are where and what it is now, which may differ from its identity ``id``."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("name",)

    name: str
    netns: str
    kind: str
    up: t.Optional[bool] = None
    mtu: t.Optional[int] = None
    mac: t.Optional[str] = None
    parent: t.Optional[str] = None
    options: t.Optional[t.Dict[str, t.Any]] = None
    peer: t.Optional[End] = None
    owner: t.Optional[str] = None
    id: t.Optional[t.Tuple[str, str]] = None  # (netns, name) as declared, where the link is elsewhere now
    blocked: t.Optional[str] = (
        None  # observed: a declared name of this link that somebody else's link has now
    )
    strangers: t.Optional[t.Tuple[str, ...]] = None  # observed: links on top of this one

    def key(self) -> Key:
        space, name = self.id or (self.netns, self.name)
        return Key(NAME, space, name)

    def needs(self) -> t.Tuple[Key, ...]:
        needed = [
            Key("netns", "", space) for space in (self.netns, self.peer.netns if self.peer else "") if space
        ]
        if self.parent:
            needed.append(Key(NAME, self.netns, self.parent))
        return tuple(key for key in needed if key.id != UNNAMED)

    def provides(self) -> t.Tuple[Key, ...]:
        if self.peer is None:
            return (self.key(),)
        return (self.key(), Key(NAME, self.peer.netns, self.peer.name))


# --- input -------------------------------------------------------------------------------------------------------------


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    kind = item.get("kind")
    if kind is None:
        raise SpecError(
            f"{path}.kind",
            "missing; say which kind of link to make, or existing to configure one that is there",
        )
    _check_options(kind, item, path)
    if kind == "existing":
        return existing_link.parse(item, path, owner)
    value = Value(
        kind=kind,
        **near_end(item, path),
        parent=_fields.ifname(item["parent"], f"{path}.parent") if item.get("parent") else None,
        options=_options(kind, item, path),
        peer=far_end(item["peer"], f"{path}.peer") if item.get("peer") else None,
        owner=owner,
    )
    check_ends(value, path)
    # Another headerless device for a process to open, so that what is built around it stays the same.
    tun = dataclasses.replace(value, kind="tun") if item.get("fallback") == "tun" else None
    main = Desired(value, path, bool(item.get("recreate")), bool(item.get("adopt")), alternative=tun)
    return [main, *belongings(item, path, owner)]


def check_ends(value: Value, path: str) -> None:
    if value.peer is not None and (value.peer.netns, value.peer.name) == (value.netns, value.name):
        raise SpecError(
            f"{path}.peer.name",
            f"{value.name} is the name of the near end too; the ends need two names or two namespaces",
        )


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    space = _fields.netns(item.get("netns"), f"{path}.netns")
    name = _fields.ifname(item["name"], f"{path}.name")
    borrowed = Key(existing_link.NAME, space, name)
    if borrowed not in claims:
        return [Key(NAME, space, name)]
    on_it = [
        key
        for key in claims
        if key.netns == space and key.kind in ("address", "port") and key.id.split()[0] == name
    ]
    return [borrowed, *on_it]


def far_end(item: t.Mapping[str, t.Any], path: str) -> End:
    return End(**near_end(item, path))


def _check_options(kind: str, item: t.Mapping[str, t.Any], path: str) -> None:
    for name in KIND_NEEDS.get(kind, ()):
        if item.get(name) is None:
            raise SpecError(f"{path}.{name}", f"missing; {_article(kind)} {kind} link needs it")
    allowed = set(KINDS[kind].options) if kind in KINDS else set()
    allowed |= set(KIND_NEEDS.get(kind, ()))
    if kind == "bridge":
        allowed.add("ports")
    if kind in ("vxlan", "vlan", "macvlan"):
        allowed.add("parent")
    if kind == "wireguard":
        allowed.add("fallback")
    for name in SPECIAL:
        if name not in allowed and item.get(name) is not None:
            fitting = sorted(allowed.intersection(SPECIAL))
            raise SpecError(
                f"{path}.{name}",
                f"does not apply to {_article(kind)} {kind} link"
                + (f"; it takes {', '.join(fitting)}" if fitting else ""),
            )
    if item.get("stp") and item.get("forward_delay") is not None and item["forward_delay"] < 2:
        raise SpecError(f"{path}.forward_delay", "is 2 to 30 seconds with stp; raise it or turn stp off")
    for name, (lowest, highest) in RANGES.items():
        _fields.whole(item.get(name), lowest, highest, f"{path}.{name}")


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeiou" else "a"


def _options(kind: str, item: t.Mapping[str, t.Any], path: str) -> t.Optional[t.Dict[str, t.Any]]:
    options = {name: item[name] for name in KINDS[kind].options if item.get(name) is not None}
    for name, value in DEFAULTS.get(kind, {}).items():
        options.setdefault(name, value)
    for name in ("local", "remote"):
        if name in options:
            options[name] = _fields.spelled(_fields.address(options[name], f"{path}.{name}"))
    return options or None


# --- observe -----------------------------------------------------------------------------------------------------------


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found = {}
    for key in wanted:
        if key.kind != NAME:
            continue
        located = _locate(host, key, topology, key in claimed)
        if located is not None:
            space, record = located
            value = observe_one(host, space, record)
            if (space, record.name) != (key.netns, key.id):
                value = dataclasses.replace(value, id=(key.netns, key.id))
                if space == key.netns:
                    host.declare_name(space, record.name, key.id)
            found[key] = value
            _declare_far_name(host, wanted[key], value)
    return {
        key: dataclasses.replace(value, blocked=_blocked(host, wanted[key], value))
        for key, value in found.items()
    }


def _blocked(host: Host, desired: t.Optional[Value], value: Value) -> t.Optional[str]:
    """A name that the link shall get and that a link has which keeps it: neither this one nor one of ours that is renamed too."""
    ends = [(value, desired)] + (
        [(value.peer, desired.peer)] if desired and desired.peer and value.peer else []
    )
    for end, wanted in ends:
        if wanted is None or (end.netns, end.name) == (wanted.netns, wanted.name):
            continue
        if wanted.name in host.links(wanted.netns).by_name and not host.is_renamed(wanted.netns, wanted.name):
            return f"{wanted.name} in {wanted.netns or 'the host namespace'}"
    return None


def _declare_far_name(host: Host, desired: t.Optional[Value], value: Value) -> None:
    wanted, actual = desired.peer if desired else None, value.peer
    if wanted and actual and wanted.netns == actual.netns and wanted.name != actual.name:
        host.declare_name(actual.netns, actual.name, wanted.name)


def _locate(host: Host, key: Key, topology: str, known: bool) -> t.Optional[t.Tuple[str, rtnl.LinkRecord]]:
    """Our link by its mark wherever it is now, else whatever holds the name. Renames and moves by hand are found this way."""
    mark = _fields.mark_of(topology, key)
    links = host.links(key.netns)
    record = links.by_altname.get(mark) or links.by_name.get(key.id)
    if record is not None:
        return key.netns, record
    if not known:
        return None  # never made by us: no need to look for it elsewhere
    for space in ("", *sorted(host.namespaces())):
        elsewhere = host.link_with_altname(space, mark) if space != key.netns else None
        if elsewhere is not None:
            return space, elsewhere
    return None


def observe_one(host: Host, space: str, record: rtnl.LinkRecord) -> Value:
    """A link record as a value, with its far end when it is one of a pair."""
    kind = link_kinds.name_of_kind(record.kind, record.data)
    parent_index = record.link
    if kind == "vxlan" and link_kinds.IFLA_VXLAN_LINK in record.data:
        parent_index = rtnl.U32.unpack_from(record.data[link_kinds.IFLA_VXLAN_LINK])[0]
    is_pair = kind in KINDS and KINDS[kind].pair
    return Value(
        name=record.name,
        netns=space,
        kind=kind,
        up=bool(record.flags & rtnl.IFF_UP),
        mtu=record.mtu,
        mac=record.mac,
        parent=host.name_of(space, parent_index)
        if parent_index and not is_pair and record.link_netnsid is None
        else None,
        options=link_kinds.decode_options(kind, record.data) or None,
        peer=_observe_far_end(host, space, record) if is_pair else None,
        owner=_fields.owner_of(record.altnames),
        strangers=host.stacked_on(space, record) or None,
    )


def _observe_far_end(host: Host, space: str, record: rtnl.LinkRecord) -> End:
    far: t.Optional[str] = space
    if record.link_netnsid is not None:
        far = host.namespace_of_id(space, record.link_netnsid)
    peer = host.links(far).by_index.get(record.link) if far is not None else None
    if far is None or peer is None:
        return End(UNNAMED, UNNAMED)
    return End(peer.name, far, bool(peer.flags & rtnl.IFF_UP), peer.mtu, peer.mac)


def lacking(host: Host, value: Value) -> t.Optional[str]:
    """What the kernel lacks to make a link of this kind; None when it can."""
    if value.kind in ("tun", "tap"):
        return (
            None
            if tuntap.available()
            else "this kernel has no /dev/net/tun: it lacks CONFIG_TUN or the tun module"
        )
    if host.supports_link_kind(value.kind):
        return None
    since = " (Linux 6.7)" if value.kind == "netkit" else ""
    return f"this kernel cannot make {value.kind} links: it lacks {KINDS[value.kind].config}{since} or the module for it"


def remedy(value: Value) -> str:
    fallback = {"netkit": ", or set fallback: veth", "wireguard": ", or set fallback: tun"}
    return f"use a kernel that has it{fallback.get(value.kind, '')}"


# --- plan --------------------------------------------------------------------------------------------------------------


def merged(observed: Value, desired: Value) -> Value:
    """Head and tail room are wishes for creation: the kernel may report more later (ndo_set_rx_headroom)."""
    target = t.cast(Value, model.merge(observed, desired))
    had, has = observed.options or {}, target.options or {}
    grown: t.Dict[str, t.Any] = {
        name: had[name] for name in ("headroom", "tailroom") if name in had and had[name] >= has[name]
    }
    return dataclasses.replace(target, options={**has, **grown}) if grown else target


def fixed(before: Value, after: Value) -> t.List[str]:
    names = []
    if before.kind != after.kind:
        return ["kind"]
    options = KINDS[after.kind].options if after.kind in KINDS else {}
    for name, _had, _has in model.differences(before, after):
        option = options.get(name)
        if (option and not option.mutable) or name in ("parent", "options"):
            names.append(name)
    return names


def broken(value: Value) -> bool:
    """Whether an end is out of reach: damage that is repaired by building the pair anew without being asked."""
    return bool(value.peer and value.peer.netns == UNNAMED)


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    """What vanishes from the ends of a link that moves, goes down or gets too small for IPv6."""
    before, after = operation.before, operation.after
    if operation.verb != model.CHANGE:
        return {}
    lost = lost_on(before, after, state)
    if before.peer and after.peer:
        lost.update(lost_on(before.peer, after.peer, state))
    lost.pop(operation.key, None)
    return lost


# --- apply -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    if operation.verb == model.CREATE:
        _create(host, operation.after)
    elif operation.verb == model.DELETE:
        _delete(host, operation.before)
    else:
        _change(host, operation)


def _end_attributes(value: t.Any, kind: str, options: t.Mapping[str, t.Any]) -> messages.AttributeList:
    attrs: messages.AttributeList = [("IFLA_IFNAME", value.name)]
    if value.mtu:
        attrs.append(("IFLA_MTU", value.mtu))
    # netkit in L3 mode has no hardware address and refuses one (EOPNOTSUPP), also its own all-zero one read back.
    if value.mac and not (
        kind == "netkit" and options.get("mode", "l3") == "l3" and not int(value.mac.replace(":", ""), 16)
    ):
        attrs.append(("IFLA_ADDRESS", value.mac))
    return attrs


def _create(host: Host, value: Value) -> None:
    if value.kind in ("tun", "tap"):
        with namespaces.entered(value.netns):
            tuntap.create(value.name, value.kind)
        set_end(host, value.netns, value.name, End(value.name, value.netns), value)
    elif value.peer is not None and value.peer.netns != value.netns:
        with namespaces.descriptor(value.peer.netns) as descriptor:
            _request_new(host, value, descriptor)
    else:
        _request_new(host, value, None)
    if value.kind == "bridge" and value.mtu:
        # Said once more it is the user's: else the kernel lowers it to that of the ports (BROPT_MTU_SET_BY_USER).
        host.request(
            value.netns,
            rtnl.RTM_NEWLINK,
            0,
            messages.link([("IFLA_IFNAME", value.name), ("IFLA_MTU", value.mtu)]),
        )
    netns.mark(host, value.netns, value.name, value.key(), None, value.owner)
    if value.peer and value.peer.up:
        # Not in the same request: netkit ignores the flags of the peer's ifinfomsg, veth refuses them (ENOTCONN, its far end
        # is not linked yet when the kernel opens it).
        host.request(
            value.peer.netns, rtnl.RTM_NEWLINK, 0, messages.link([("IFLA_IFNAME", value.peer.name)], up=True)
        )


def _request_new(host: Host, value: Value, peer_descriptor: t.Optional[int]) -> None:
    kind, options = KINDS[value.kind], value.options or {}
    data: messages.AttributeList = link_kinds.encode_options(value.kind, options, creating=True)
    attrs = _end_attributes(value, value.kind, options)
    if value.peer is not None:
        far = _end_attributes(value.peer, value.kind, options)
        if peer_descriptor is not None:
            far.append(("IFLA_NET_NS_FD", peer_descriptor))
        data.append((kind.peer_attribute, {"attrs": far}))
    if value.parent:
        index = host.index_of(value.netns, value.parent)
        (data if kind.parent_attribute != "IFLA_LINK" else attrs).append((kind.parent_attribute, index))
    info: messages.AttributeList = [("IFLA_INFO_KIND", value.kind)]
    if data:
        info.append(("IFLA_INFO_DATA", {"attrs": data}))
    attrs.append(("IFLA_LINKINFO", {"attrs": info}))
    payload = messages.link(attrs, up=value.up or None)
    try:
        host.request(value.netns, rtnl.RTM_NEWLINK, messages.NLM_F_CREATE | messages.NLM_F_EXCL, payload)
    except KernelError as problem:
        if problem.name == "EOPNOTSUPP" and options.get("vlan_filtering"):
            raise UnsupportedError(
                "this kernel lacks CONFIG_BRIDGE_VLAN_FILTERING; leave vlan_filtering out or use a kernel that has it"
            ) from problem
        raise
    host.links_changed(value.netns, value.name)
    if value.peer is not None:
        host.links_changed(value.peer.netns, value.peer.name)


def _delete(host: Host, value: Value) -> None:
    host.links_changed(value.netns, value.name)
    if value.peer is not None:
        host.links_changed(value.peer.netns, value.peer.name)
    try:
        host.request(value.netns, rtnl.RTM_DELLINK, 0, messages.link([("IFLA_IFNAME", value.name)]))
    except KernelError as problem:
        if problem.name not in ("ENODEV", "ENOENT"):
            raise


def _change(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    move_end(host, before, after)
    if before.peer is not None and after.peer is not None:
        move_end(host, before.peer, after.peer)
        set_end(host, after.peer.netns, after.peer.name, as_left(before.peer, after.peer), after.peer)
    if before.owner != after.owner:
        netns.mark(host, after.netns, after.name, after.key(), before.owner, after.owner)
    had, has = before.options or {}, after.options or {}
    changed = {name: value for name, value in has.items() if had.get(name) != value}
    set_end(host, after.netns, after.name, as_left(before, after), after, changed)


# --- words -------------------------------------------------------------------------------------------------------------


def commands(operation: Operation) -> t.List[str]:
    value = operation.value
    if operation.verb == model.DELETE:
        return [_fields.ip(value.netns, "link", "del", value.name)]
    if operation.verb == model.CHANGE:
        return _change_commands(operation.before, operation.after)
    return _create_commands(value)


def _create_commands(value: Value) -> t.List[str]:
    if value.kind in ("tun", "tap"):
        lines = [_fields.ip(value.netns, "tuntap", "add", "mode", value.kind, "dev", value.name)]
        return lines + end_commands(End(value.name, value.netns), value) + _mark_commands(value)
    words = ["link", "add", value.name, *_settings(value)]
    if value.parent:
        words += ["link", value.parent] if value.kind != "vxlan" else []
    words += ["type", value.kind, *link_kinds.iproute_options(value.options or {})]
    if value.parent and value.kind == "vxlan":
        words += ["dev", value.parent]
    if value.peer:
        words += ["peer", "name", value.peer.name, *_settings(value.peer)]
        if value.peer.netns != value.netns:
            words += ["netns", value.peer.netns or "1"]
    lines = [_fields.ip(value.netns, *words)]
    lines += [
        _fields.ip(end.netns, "link", "set", end.name, "up")
        for end in (value, value.peer)
        if end is not None and end.up
    ]
    return lines + _mark_commands(value)


def _mark_commands(value: Value) -> t.List[str]:
    if not value.owner:
        return []
    mark = _fields.mark_of(value.owner, value.key())
    return [_fields.ip(value.netns, "link", "property", "add", "dev", value.name, "altname", mark)]


def _settings(end: t.Any) -> t.List[str]:
    words: t.List[str] = []
    if end.mtu is not None:
        words += ["mtu", str(end.mtu)]
    if end.mac is not None and int(end.mac.replace(":", "") or "0", 16):
        words += ["address", end.mac]
    return words


def _change_commands(before: Value, after: Value) -> t.List[str]:
    lines = end_commands(before, after)
    if before.peer and after.peer:
        lines += end_commands(before.peer, after.peer)
    had, has = before.options or {}, after.options or {}
    changed = {name: value for name, value in has.items() if had.get(name) != value}
    if changed:
        words = link_kinds.iproute_options(changed)
        lines.append(_fields.ip(after.netns, "link", "set", after.name, "type", after.kind, *words))
    if before.owner != after.owner:
        for verb, owner in (("del", before.owner), ("add", after.owner)):
            if owner:
                mark = _fields.mark_of(owner, after.key())
                lines.append(
                    _fields.ip(after.netns, "link", "property", verb, "dev", after.name, "altname", mark)
                )
    return lines


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    """The value in the words of the input: a netkit pair for netkit_link, everything else for link."""
    item: t.Dict[str, t.Any] = {"name": value.name}
    if value.netns:
        item["netns"] = value.netns
    section = "netkit_link" if value.kind == "netkit" else SECTION
    if section == SECTION:
        item["kind"] = value.kind
    item.update(end_item(value))
    if value.parent:
        item["parent"] = value.parent
    item.update(
        {name: option for name, option in (value.options or {}).items() if option not in ("", "0.0.0.0")}
    )
    if value.peer:
        place = {"netns": value.peer.netns} if value.peer.netns else {}
        item["peer"] = {"name": value.peer.name, **place, **end_item(value.peer)}
    return section, item
