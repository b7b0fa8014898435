# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Neighbour entries: permanent ones, and managed ones, which the kernel itself keeps resolved (NTF_EXT_MANAGED, 5.16)."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, SpecError
from .._kernel import messages, rtnl
from .._kernel.host import Host
from . import _fields

NAME = SECTION = "neighbor"
RANK = 60
BORROWED = False
PUT_BACK = True  # a foreign entry that a change of its link flushes is made again at once

NUD_NONE, NUD_PERMANENT = 0x00, 0x80
NTF_EXT_MANAGED = 1

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "dev": {"type": "str"},
    "address": {"type": "str"},
    "netns": {"type": "str"},
    "mac": {"type": "str"},
    "managed": {"type": "bool", "default": False},
}
REQUIRED = ("dev", "address")


@dataclasses.dataclass(frozen=True)
class Value:
    """A neighbour. A managed one has the hardware address that the kernel resolves; it is not compared."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("dev", "address")
    SHAREABLE: t.ClassVar[bool] = True

    dev: str
    netns: str
    address: str
    mac: t.Optional[str] = None
    managed: t.Optional[bool] = None
    owner: t.Optional[str] = None
    made_by: t.Optional[str] = None

    def key(self) -> Key:
        return Key(NAME, self.netns, f"{self.dev} {self.address}")

    def needs(self) -> t.Tuple[Key, ...]:
        return (Key("link", self.netns, self.dev),)

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    value = _identity(item, path)
    mac, managed = _fields.mac(item.get("mac"), f"{path}.mac"), bool(item.get("managed"))
    if bool(mac) == managed:
        raise SpecError(
            f"{path}.mac", "give either mac (a permanent entry) or managed: true (the kernel resolves it)"
        )
    value = dataclasses.replace(value, mac=mac, managed=managed, owner=model.ANY_TOPOLOGY)
    return [Desired(value, path, adopt=bool(item.get("adopt")))]


def _identity(item: t.Mapping[str, t.Any], path: str) -> Value:
    _fields.require(item, REQUIRED, path)
    return Value(
        _fields.ifname(item["dev"], f"{path}.dev"),
        _fields.netns(item.get("netns"), f"{path}.netns"),
        _fields.spelled(_fields.address(item["address"], f"{path}.address")),
    )


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [_identity(item, path).key()]


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    """Permanent and managed entries; what the kernel learnt by itself is its own business and makes way."""
    spaces = {key.netns for key in wanted if key.kind in (NAME, model.ON_LINK)}
    found: t.Dict[Key, Value] = {}
    for space in spaces:
        for record in host.neighbors(space):
            value = observed_value(host, space, record)
            if value is None:
                continue
            on_link = Key(model.ON_LINK, space, value.dev) in wanted
            if value.owner or on_link or value.key() in wanted:
                found[value.key()] = value
    return found


def observed_value(host: Host, space: str, record: rtnl.NeighborRecord) -> t.Optional[Value]:
    managed = bool(record.flags_ext & NTF_EXT_MANAGED)
    if not managed and not record.state & NUD_PERMANENT:
        return None
    return Value(
        dev=host.name_of(space, record.ifindex),
        netns=space,
        address=record.address,
        mac=record.lladdr,
        managed=managed,
        owner=_fields.owner_of_protocol(record.protocol),
    )


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    if before is not None and (after is None or before.managed != after.managed):
        # The managed flag of an entry does not go away by replacing it.
        try:
            host.request(before.netns, rtnl.RTM_DELNEIGH, 0, _payload(host, before, deleting=True))
        except KernelError as problem:
            if problem.name not in ("ENOENT", "ENODEV"):
                raise
    if after is not None:
        flags = messages.NLM_F_CREATE | messages.NLM_F_REPLACE
        host.request(after.netns, rtnl.RTM_NEWNEIGH, flags, _payload(host, after))


def _payload(host: Host, value: Value, deleting: bool = False) -> bytes:
    attrs: messages.AttributeList = [("NDA_DST", value.address)]
    state = NUD_NONE
    if not deleting:
        if value.managed:
            attrs.append(("NDA_FLAGS_EXT", NTF_EXT_MANAGED))
        else:
            state = NUD_PERMANENT
            attrs.append(("NDA_LLADDR", value.mac))
        if value.owner:
            attrs.append(("NDA_PROTOCOL", _fields.PROTOCOL))
    family = rtnl.AF_INET6 if ":" in value.address else rtnl.AF_INET
    return messages.neighbor(family, host.index_of(value.netns, value.dev), state, 0, attrs)


def commands(operation: Operation) -> t.List[str]:
    value = operation.value
    if operation.verb == model.DELETE:
        return [_fields.ip(value.netns, "neigh", "del", value.address, "dev", value.dev)]
    words = ["managed"] if value.managed else ["lladdr", value.mac, "nud", "permanent"]
    mark = ["protocol", _fields.PROTOCOL] if value.owner else []
    return [_fields.ip(value.netns, "neigh", "replace", value.address, "dev", value.dev, *words, *mark)]


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {"dev": value.dev, "address": value.address}
    if value.netns:
        item["netns"] = value.netns
    item.update({"managed": True} if value.managed else {"mac": value.mac})
    return SECTION, item
