# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Network namespaces: the file below /run/netns, the loopback device's state, and our mark as an altname of ``lo``."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, PlanError, SpecError
from .._kernel import messages, namespaces, rtnl
from .._kernel.host import Host
from . import _fields

NAME = SECTION = "netns"
RANK = 0
BORROWED = False
KEEPS_CONTENT = (
    True  # a removed namespace lives on until the run is confirmed, so undo brings back what was in it
)

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "lo_up": {"type": "bool", "default": True},
}

# Devices that the kernel itself puts into each new namespace when their module is loaded (net.core.fb_tunnels_only_for_init_net).
FALLBACK_DEVICES = frozenset(
    ("lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0")
)


@dataclasses.dataclass(frozen=True)
class Value:
    """A named network namespace. ``strangers`` (observed only) are the links in it that are neither the kernel's
    nor, by their marks, of this topology."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("name",)

    name: str
    lo_up: t.Optional[bool] = None
    owner: t.Optional[str] = None
    strangers: t.Optional[t.Tuple[str, ...]] = None

    def key(self) -> Key:
        return Key(NAME, "", self.name)

    def needs(self) -> t.Tuple[Key, ...]:
        return ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(), Key("link", self.name, "lo"))


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    name = _fields.netns(item["name"], f"{path}.name")
    if not name:
        raise SpecError(f"{path}.name", "a namespace needs a name")
    return [Desired(Value(name, item["lo_up"], owner), path, adopt=bool(item.get("adopt")))]


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [Key(NAME, "", _fields.netns(item["name"], f"{path}.name"))]


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found = {}
    for key in wanted:
        if key.kind != NAME:
            continue
        if not host.has_namespace(key.id):
            if namespaces.has_file(key.id) and wanted[key] is not None:
                _check_leftover(key.id)
            continue
        found[key] = _observe_one(host, key.id, topology, leaving=wanted[key] is None)
    return found


def _observe_one(host: Host, name: str, topology: str, leaving: bool) -> Value:
    links = host.links(name)
    loopback = links.by_name.get("lo")
    strangers = [
        record.name
        for record in (links.by_name.values() if leaving else ())
        if record.name not in FALLBACK_DEVICES and owner_of_link(host, name, record) != topology
    ]
    return Value(
        name,
        lo_up=bool(loopback and loopback.flags & rtnl.IFF_UP),
        owner=_fields.owner_of(loopback.altnames) if loopback else None,
        strangers=tuple(sorted(strangers)),
    )


def owner_of_link(host: Host, space: str, record: rtnl.LinkRecord) -> t.Optional[str]:
    """Whose a link is by its own mark, or by that of its other end: only one end of a pair is marked."""
    owner = _fields.owner_of(record.altnames)
    if owner is None and record.kind in ("veth", "netkit"):
        far = space if record.link_netnsid is None else host.namespace_of_id(space, record.link_netnsid)
        peer = host.links(far).by_index.get(record.link) if far is not None else None
        owner = _fields.owner_of(peer.altnames) if peer else None
    return owner


def _check_leftover(name: str) -> None:
    """A file without a namespace behind it: what `ip netns add` leaves when it is killed; an empty one can be replaced."""
    path = namespaces.path_of(name)
    if not namespaces.is_empty_file(name):
        raise PlanError(f"netns {name}: {path} is in the way and is no network namespace; remove it")


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    """With its loopback device down a namespace loses the IPv6 addresses and the routes on it."""
    before, after = operation.before, operation.after
    if operation.verb != model.CHANGE or not before.lo_up or after.lo_up is not False:
        return {}
    on_lo = state.standing_on(Key("link", after.name, "lo"))
    return {key: None for key in on_lo if key.kind == "route" or (key.kind == "address" and ":" in key.id)}


def apply(host: Host, operation: Operation) -> None:
    if operation.verb == model.DELETE:
        if host.has_namespace(operation.before.name):
            host.remove_namespace(operation.before.name)
        return
    value = operation.after
    if operation.verb == model.CREATE and not host.has_namespace(value.name):
        host.create_namespace(value.name)
    before = operation.before or Value(value.name, lo_up=False)
    if value.owner != before.owner:
        mark(host, value.name, "lo", value.key(), before.owner, value.owner)
    if value.lo_up is not None and value.lo_up != before.lo_up:
        host.request(value.name, rtnl.RTM_NEWLINK, 0, messages.link([("IFLA_IFNAME", "lo")], up=value.lo_up))


def mark(
    host: Host, netns: str, link: str, key: Key, before: t.Optional[str], after: t.Optional[str]
) -> None:
    """Change whose a link (or the namespace around ``lo``) is: remove the old owner's altname, add the new one's."""
    for owner, kind in ((before, rtnl.RTM_DELLINKPROP), (after, rtnl.RTM_NEWLINKPROP)):
        if owner in (None, model.ANY_TOPOLOGY):
            continue
        payload = messages.link(
            [
                ("IFLA_IFNAME", link),
                ("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", _fields.mark_of(str(owner), key))]}),
            ]
        )
        try:
            host.request(netns, kind, messages.NLM_F_EXCL if kind == rtnl.RTM_NEWLINKPROP else 0, payload)
        except KernelError as problem:
            if problem.name not in ("EEXIST", "ENOENT", "EINVAL"):
                raise


def commands(operation: Operation) -> t.List[str]:
    value = operation.value
    if operation.verb == model.DELETE:
        return [_fields.ip("", "netns", "del", value.name)]
    lines = []
    if operation.verb == model.CREATE:
        lines.append(_fields.ip("", "netns", "add", value.name))
    if value.lo_up is not None and (operation.before is None or operation.before.lo_up != value.lo_up):
        if value.lo_up or operation.before:
            lines.append(_fields.ip(value.name, "link", "set", "lo", "up" if value.lo_up else "down"))
    if value.owner and (operation.before is None or operation.before.owner != value.owner):
        mark_name = _fields.mark_of(value.owner, value.key())
        lines.append(_fields.ip(value.name, "link", "property", "add", "dev", "lo", "altname", mark_name))
    return lines


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    return SECTION, {"name": value.name, "lo_up": value.lo_up}
