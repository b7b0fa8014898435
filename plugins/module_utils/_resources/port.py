# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The master of a link: membership in a bridge or a VRF, declared from either side."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Desired, Key, Operation
from .._engine.state import State
from .._kernel import messages, rtnl
from .._kernel.host import Host
from . import _fields

NAME = "port"
RANK = 30
BORROWED = True


@dataclasses.dataclass(frozen=True)
class Value:
    """That ``link`` belongs to ``master``; an empty master is none."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("link",)

    link: str
    netns: str
    master: str
    owner: t.Optional[str] = None

    def key(self) -> Key:
        return Key(NAME, self.netns, self.link)

    def needs(self) -> t.Tuple[Key, ...]:
        names = (self.link, self.master) if self.master else (self.link,)
        return tuple(Key("link", self.netns, name) for name in names)

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def desired(netns: str, link: str, master: str, path: str, owner: str) -> Desired:
    return Desired(Value(_fields.ifname(link, path), netns, _fields.ifname(master, path)), path)


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found = {}
    for key in wanted:
        record = host.find_link(key.netns, key.id) if key.kind in (NAME, model.ON_LINK) else None
        if record is None:
            continue
        if key.kind == NAME or record.master:
            value = Value(key.id, key.netns, host.name_of(key.netns, record.master) if record.master else "")
            found[value.key()] = value
        for member in host.members_of(key.netns, record) if key.kind == model.ON_LINK else ():
            name = host.name_of(key.netns, member.ifindex)
            found[Key(NAME, key.netns, name)] = Value(name, key.netns, key.id)
    return found


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def apply(host: Host, operation: Operation) -> None:
    value = operation.after
    if value is None:
        return  # the link goes, and its membership with it
    index = host.index_of(value.netns, value.master) if value.master else 0
    payload = messages.link([("IFLA_MASTER", index)], host.index_of(value.netns, value.link))
    host.request(value.netns, rtnl.RTM_NEWLINK, 0, payload)


def commands(operation: Operation) -> t.List[str]:
    value = operation.after
    if value is None:
        return []
    words = ["master", value.master] if value.master else ["nomaster"]
    return [_fields.ip(value.netns, "link", "set", value.link, *words)]


def to_item(value: Value) -> t.Optional[t.Tuple[str, t.Dict[str, t.Any]]]:
    return None  # told by the item of its link
