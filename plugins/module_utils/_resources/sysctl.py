# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Values below /proc/sys/net of a namespace. They are borrowed: absent gives back what was found before.

Writing ``conf/all/forwarding`` is not one change but many: the kernel sets ``default`` and every interface along with it
(inet_forward_change, addrconf_forward_change). What those were is part of the value, so that undo restores each of them.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine.model import Key, Operation
from .._engine.state import State
from .._kernel import rtnl
from .._kernel.host import Host

NAME = "sysctl"
RANK = 40
BORROWED = True

MAIN_TABLE, RTPROT_RA = 254, 9
REDIRECTS = (
    "net/ipv4/conf/all/accept_redirects"  # "accept_redirects" is one byte too long for an interface's name
)
SPREADING = {"net/ipv4/conf/all/forwarding": "ipv4", "net/ipv6/conf/all/forwarding": "ipv6"}


@dataclasses.dataclass(frozen=True)
class Value:
    """One value. ``exceptions`` (of ``all`` only, observed) are the interfaces whose own value differs from it."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("name",)

    name: str
    netns: str
    value: str
    exceptions: t.Optional[t.Dict[str, str]] = None
    owner: t.Optional[str] = None

    def key(self) -> Key:
        return Key(NAME, self.netns, self.name)

    def needs(self) -> t.Tuple[Key, ...]:
        found = [Key("netns", "", self.netns)] if self.netns else []
        interface = interface_of(self.name)
        if interface not in ("all", "default", ""):
            found.append(Key("link", self.netns, interface))
        return tuple(found)

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def interface_of(name: str) -> str:
    """The interface part of ``net/<family>/conf/<interface>/<field>``, or an empty string."""
    parts = name.split("/")
    return parts[3] if len(parts) == 5 and parts[2] == "conf" else ""


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    by_space: t.Dict[str, t.List[Key]] = {}
    for key in wanted:
        if key.kind == NAME:
            by_space.setdefault(key.netns, []).append(key)
    found = {}
    for space, keys in by_space.items():
        for name, text in host.sysctls(space, [key.id for key in keys]).items():
            if text is None:
                continue
            key = Key(NAME, space, name)
            desired = wanted[key]
            same = desired is not None and desired.value == text and key not in claimed
            exceptions = (
                None if same or name not in SPREADING else _exceptions(host, space, SPREADING[name], text)
            )
            found[key] = Value(name, space, text, exceptions)
    return found


def _exceptions(host: Host, space: str, family: str, common: str) -> t.Dict[str, str]:
    names = [
        f"net/{family}/conf/{name}/forwarding" for name in ("default", *host.sysctl_interfaces(space, family))
    ]
    values = host.sysctls(space, names)
    found = {interface_of(name): text for name, text in values.items() if text is not None and text != common}
    if family == "ipv4":
        # inet_forward_change sets it to the opposite: what it was has to come back with the switch.
        redirects = host.sysctls(space, [REDIRECTS])[REDIRECTS]
        if redirects is not None and redirects == common:
            found["accept_redirects"] = redirects
    return found


def advice(host: Host, operations: t.Sequence[Operation]) -> t.List[str]:
    """A router does not listen to routers: with forwarding on, an interface accepts advertisements only with accept_ra 2."""
    notes = []
    for operation in operations:
        value = operation.after
        if value is None or value.value == "0" or not value.name.startswith("net/ipv6/conf/"):
            continue
        if not value.name.endswith("/forwarding"):
            continue
        records = host.routes(value.netns, rtnl.AF_INET6, MAIN_TABLE, RTPROT_RA)
        learning = sorted({host.name_of(value.netns, record.oif) for record in records if record.oif})
        for name in learning:
            key = f"net/ipv6/conf/{name}/accept_ra"
            planned = {op.after.name: op.after.value for op in operations if op.after is not None}
            accepts = planned.get(key) or host.sysctls(value.netns, [key])[key]
            if interface_of(value.name) in ("all", name) and accepts == "1":
                notes.append(
                    f"{operation.key}: {name} has routes from router advertisements and stops accepting them when it "
                    f"forwards; set accept_ra: always for interface {name} to keep them"
                )
    return notes


def _exception_name(family: t.Optional[str], interface: str) -> str:
    return REDIRECTS if interface == "accept_redirects" else f"net/{family}/conf/{interface}/forwarding"


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def merged(observed: Value, desired: Value) -> Value:
    """Setting ``all`` leaves no exceptions, unless they are what is to be restored."""
    if observed.value == desired.value and desired.exceptions is None:
        return observed
    exceptions = desired.exceptions if desired.exceptions is not None or observed.exceptions is None else {}
    return dataclasses.replace(observed, value=desired.value, exceptions=exceptions)


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    """Writing ``all`` changes the other values of its kind that the plan knows."""
    value = operation.after
    family = SPREADING.get(operation.key.id)
    if family is None or value is None or (operation.before and operation.before.value == value.value):
        return {}
    found: t.Dict[Key, t.Any] = {}
    for key, other in state.items():
        interface = interface_of(key.id) if key.kind == NAME and key.netns == operation.key.netns else ""
        if key != operation.key and interface and key.id == f"net/{family}/conf/{interface}/forwarding":
            text = (value.exceptions or {}).get(interface, value.value)
            if other.value != text:
                found[key] = dataclasses.replace(other, value=text)
    return found


def apply(host: Host, operation: Operation) -> None:
    value = operation.after
    if value is None:
        return  # it goes with its interface
    if operation.before is None or operation.before.value != value.value:
        host.write_sysctl(value.netns, value.name, value.value)
    family = SPREADING.get(value.name)
    for interface, text in (value.exceptions or {}).items() if family else ():
        name = _exception_name(family, interface)
        if host.sysctls(value.netns, [name])[name] not in (None, text):
            host.write_sysctl(value.netns, name, text)


def commands(operation: Operation) -> t.List[str]:
    value = operation.after
    if value is None:
        return []
    inside = f"ip netns exec {value.netns} " if value.netns else ""
    lines = [f"{inside}sysctl -w {dotted(value.name)}={value.value}"]
    family = SPREADING.get(value.name)
    for interface, text in (value.exceptions or {}).items() if family else ():
        lines.append(f"{inside}sysctl -w {dotted(_exception_name(family, interface))}={text}")
    return lines


def dotted(name: str) -> str:
    """The name as sysctl(8) takes it: dots between parts, slashes for dots within one (sysctl.d(5))."""
    return ".".join(part.replace(".", "/") for part in name.split("/"))


def to_item(value: Value) -> t.Optional[t.Tuple[str, t.Dict[str, t.Any]]]:
    return None  # several values make one item, see sysctl_forwarding.items_of
