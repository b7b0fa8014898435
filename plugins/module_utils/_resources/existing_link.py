# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Links that somebody else made and that we configure: a NIC's mtu, state, address and namespace.

They are borrowed: what they were before is saved when they are first changed and given back when they are no longer
declared. A device is found in the wanted namespace or, before it is moved there, in the one the module runs in.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Desired, Key, Operation
from .._engine.state import State
from .._kernel import rtnl
from .._kernel.host import Host
from . import _ends, _fields, address

NAME = "existing_link"
RANK = 20
BORROWED = True


@dataclasses.dataclass(frozen=True)
class Value:
    """A device that we did not make. ``netns`` is where it is (observed) or shall be (desired); ``id`` where it is declared."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("name",)

    name: str
    netns: str
    up: t.Optional[bool] = None
    mtu: t.Optional[int] = None
    mac: t.Optional[str] = None
    id: t.Optional[t.Tuple[str, str]] = None
    owner: t.Optional[str] = None

    def key(self) -> Key:
        space, name = self.id or (self.netns, self.name)
        return Key(NAME, space, name)

    def needs(self) -> t.Tuple[Key, ...]:
        return (Key("netns", "", self.netns),) if self.netns else ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(), Key("link", self.netns, self.name))


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    fields = _ends.near_end(item, path)
    fields["up"] = item.get("up")  # an existing device's state is left alone unless it is declared
    main = Desired(Value(**fields, id=(fields["netns"], fields["name"])), path, adopt=bool(item.get("adopt")))
    return [main, *_ends.belongings(item, path, owner)]


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found = {}
    for key in wanted:
        if key.kind != NAME:
            continue
        for space in (key.netns, ""):
            record = host.links(space).by_name.get(key.id)
            if record is not None:
                found[key] = Value(
                    name=record.name,
                    netns=space,
                    up=bool(record.flags & rtnl.IFF_UP),
                    mtu=record.mtu,
                    mac=record.mac,
                    id=(key.netns, key.id),
                    owner=_fields.owner_of(record.altnames),
                )
                break
    return found


def advice(host: Host, operations: t.Sequence[Operation]) -> t.List[str]:
    """What a move takes from a device and neither undo nor giving it back can restore."""
    notes = []
    for operation in operations:
        before, after = operation.before, operation.after
        if before is None or after is None or before.netns == after.netns:
            continue
        by_index = host.addresses(before.netns)
        record = host.find_link(before.netns, before.name) if by_index else None
        rows = by_index.get(record.ifindex, ()) if record else ()
        leased = [f"{row.local}/{row.prefixlen}" for row in rows if not row.flags & address.IFA_F_PERMANENT]
        if leased:
            notes.append(
                f"{operation.key}: the move ends {', '.join(leased)}, which a DHCP client or autoconfiguration set; "
                f"renew them after the device is back"
            )
    return notes


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    """What vanishes from a device that moves, goes down or gets too small for IPv6."""
    if operation.verb != model.CHANGE:
        return {}
    lost = _ends.lost_on(operation.before, operation.after, state)
    lost.pop(operation.key, None)
    return lost


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    if before is None or after is None:
        return  # it comes and goes with what made it
    _ends.move_end(host, before, after)
    _ends.set_end(host, after.netns, after.name, _ends.as_left(before, after), after)


def commands(operation: Operation) -> t.List[str]:
    if operation.verb != model.CHANGE:
        return []
    return _ends.end_commands(operation.before, operation.after)


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {"name": value.name, "kind": "existing"}
    if value.netns:
        item["netns"] = value.netns
    return "link", {**item, **_ends.end_item(value)}
