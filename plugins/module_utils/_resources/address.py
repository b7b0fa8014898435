# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Addresses of links. Ours carry our protocol number (IFA_PROTO, kernel 5.18); others are never removed."""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, SpecError
from .._kernel import messages, rtnl
from .._kernel.host import Host
from . import _fields

NAME = SECTION = "address"
RANK = 50
BORROWED = False

IFA_F_NODAD, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254}
SCOPE_NAMES = {number: name for name, number in SCOPES.items()}
IFAPROT_NAMES = {1: "the kernel (loopback)", 2: "a router advertisement", 3: "the kernel (link-local)"}

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "dev": {"type": "str"},
    "address": {"type": "str"},
    "netns": {"type": "str"},
    "peer": {"type": "str"},
    "scope": {"type": "str", "choices": ["global", "link", "host"]},
    "nodad": {"type": "bool"},
    "noprefixroute": {"type": "bool"},
}
REQUIRED = ("dev", "address")


@dataclasses.dataclass(frozen=True)
class Value:
    """An address with its prefix length. An IPv6 address is on a device once, whatever its prefix length."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("dev", "address")
    SHAREABLE: t.ClassVar[bool] = True

    dev: str
    netns: str
    address: str
    prefixlen: int
    peer: t.Optional[str] = None
    scope: t.Optional[str] = None
    nodad: t.Optional[bool] = None
    noprefixroute: t.Optional[bool] = None
    owner: t.Optional[str] = None
    made_by: t.Optional[str] = None

    def key(self) -> Key:
        return Key(
            NAME,
            self.netns,
            f"{self.dev} {self.address}" + ("" if ":" in self.address else f"/{self.prefixlen}"),
        )

    def needs(self) -> t.Tuple[Key, ...]:
        return (Key("link", self.netns, self.dev),)

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)

    @property
    def family(self) -> int:
        return rtnl.AF_INET6 if ":" in self.address else rtnl.AF_INET


def desired(netns: str, dev: str, text: str, path: str, owner: str, adopt: bool = False) -> Desired:
    """One entry of a link's ``addresses``."""
    found = _fields.interface(text, path)
    value = Value(dev, netns, _fields.spelled(found.ip), found.network.prefixlen, owner=model.ANY_TOPOLOGY)
    return Desired(value, path, adopt=adopt)


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    _fields.require(item, REQUIRED, path)
    space = _fields.netns(item.get("netns"), f"{path}.netns")
    dev = _fields.ifname(item["dev"], f"{path}.dev")
    main = desired(space, dev, item["address"], f"{path}.address", owner, bool(item.get("adopt")))
    value = dataclasses.replace(
        main.value,
        peer=_fields.spelled(_fields.address(item["peer"], f"{path}.peer")) if item.get("peer") else None,
        scope=item.get("scope"),
        nodad=item.get("nodad"),
        noprefixroute=item.get("noprefixroute"),
    )
    if value.family == rtnl.AF_INET and value.nodad:
        raise SpecError(
            f"{path}.nodad", "applies to IPv6 only: IPv4 has no duplicate address detection; leave it out"
        )
    if value.family == rtnl.AF_INET6 and value.scope not in (None, "global"):
        raise SpecError(
            f"{path}.scope", "the kernel derives the scope of an IPv6 address from the address; leave it out"
        )
    return [dataclasses.replace(main, value=value, path=path)]


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [found.key for found in parse(item, path, "")]


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    """The wanted addresses, and all others on links that are ours to delete or move, which would vanish with them."""
    devices: t.Dict[str, t.Set[str]] = {}
    for key, value in wanted.items():
        if key.kind == NAME:
            devices.setdefault(key.netns, set()).add(key.id.split()[0])
        elif key.kind in ("link", "existing_link", model.ON_LINK):
            devices.setdefault(key.netns, set()).add(key.id)
            if key.kind == "existing_link":
                devices.setdefault("", set()).add(key.id)
            peer = getattr(value, "peer", None)
            if peer is not None:
                devices.setdefault(peer.netns, set()).add(peer.name)
    found = {}
    for space, names in devices.items():
        by_index = host.addresses(space)
        for name in names:
            record = host.find_link(space, name)
            for row in by_index.get(record.ifindex, ()) if record else ():
                observed = observed_value(space, name, row)
                # What the kernel makes by itself it makes again by itself: nothing to remember for undo.
                if observed.made_by is None or observed.key() in wanted:
                    found[observed.key()] = observed
    return found


def observed_value(netns: str, dev: str, row: rtnl.AddressRecord) -> Value:
    return Value(
        dev=dev,
        netns=netns,
        address=row.local,
        prefixlen=row.prefixlen,
        peer=row.peer,
        scope=SCOPE_NAMES.get(row.scope, str(row.scope)),
        nodad=bool(row.flags & IFA_F_NODAD),
        noprefixroute=bool(row.flags & IFA_F_NOPREFIXROUTE),
        owner=_fields.owner_of_protocol(row.proto),
        made_by=IFAPROT_NAMES.get(row.proto)
        or (None if row.flags & IFA_F_PERMANENT else "DHCP or autoconfiguration"),
    )


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    """With its last IPv4 address a device loses its IPv4 routes and neighbours, and with each address the routes from it.

    fib_disable_ip and fib_sync_down_addr in net/ipv4/fib_frontend.c.
    """
    gone = operation.before
    if gone is None or gone.family != rtnl.AF_INET:
        return {}
    found: t.Dict[Key, t.Any] = {
        key: None
        for key in state.of_kind("route")
        if state[key].netns == gone.netns and state[key].source == gone.address
    }
    on_link = [
        key for key in state.standing_on(Key("link", gone.netns, gone.dev)) if ":" not in _target(state[key])
    ]
    if not any(key.kind == NAME and key != operation.key for key in on_link):
        found.update({key: None for key in on_link if key.kind in ("route", "neighbor")})
    return found


def _target(value: t.Any) -> str:
    return str(getattr(value, "destination", None) or getattr(value, "address", ""))


def apply(host: Host, operation: Operation) -> None:
    if operation.before is not None:
        with _keeping_secondaries(host, operation.before):
            _request(host, rtnl.RTM_DELADDR, 0, operation.before, ("EADDRNOTAVAIL", "ENODEV"))
    if operation.after is not None:
        _request(host, rtnl.RTM_NEWADDR, messages.NLM_F_CREATE | messages.NLM_F_EXCL, operation.after, ())


@contextlib.contextmanager
def _keeping_secondaries(host: Host, value: Value) -> t.Iterator[None]:
    """Delete one IPv4 address and not, as the kernel would, all others of its subnet that were added after it."""
    key = f"net/ipv4/conf/{value.dev}/promote_secondaries"
    if value.family != rtnl.AF_INET or host.sysctls(value.netns, [key])[key] != "0":
        yield
        return
    host.write_sysctl(value.netns, key, "1")
    try:
        yield
    finally:
        host.write_sysctl(value.netns, key, "0")


def _request(host: Host, kind: int, flags: int, value: Value, tolerated: t.Container[str]) -> None:
    attrs: messages.AttributeList = [
        ("IFA_LOCAL", value.address),
        ("IFA_ADDRESS", value.peer or value.address),
    ]
    if kind == rtnl.RTM_NEWADDR:
        number = IFA_F_NODAD * bool(value.nodad) | IFA_F_NOPREFIXROUTE * bool(value.noprefixroute)
        if number:
            attrs.append(("IFA_FLAGS", number))
        if value.owner is not None:
            attrs.append(("IFA_PROTO", _fields.PROTOCOL))
    scope = SCOPES.get(value.scope or "", 0)
    try:
        payload = messages.address(
            value.family, value.prefixlen, host.index_of(value.netns, value.dev), scope, attrs
        )
        host.request(value.netns, kind, flags, payload)
    except KernelError as problem:
        if problem.name not in tolerated:
            raise


def commands(operation: Operation) -> t.List[str]:
    lines = []
    for verb, value in (("del", operation.before), ("add", operation.after)):
        if value is None:
            continue
        words = ["address", verb, f"{value.address}/{value.prefixlen}"]
        if value.peer:
            words[2:] = [value.address, "peer", f"{value.peer}/{value.prefixlen}"]
        words += ["dev", value.dev]
        if verb == "add":
            words += ["scope", value.scope] if value.scope and value.family == rtnl.AF_INET else []
            words += ["nodad"] if value.nodad else []
            words += ["noprefixroute"] if value.noprefixroute else []
            words += ["proto", str(_fields.PROTOCOL)] if value.owner else []
        lines.append(_fields.ip(value.netns, *words))
    return lines


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {"dev": value.dev, "address": f"{value.address}/{value.prefixlen}"}
    if value.netns:
        item["netns"] = value.netns
    if value.peer:
        item["peer"] = value.peer
    if value.noprefixroute:
        item["noprefixroute"] = True
    return SECTION, item
