# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Routes: unicast with a next hop, a device or both, and blackhole, unreachable and prohibit. Ours carry our protocol number."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, SpecError, UnsupportedError
from .._kernel import messages, networkd, rtnl
from .._kernel.host import Host
from . import _fields

NAME = SECTION = "route"
RANK = 70
BORROWED = False

RTNH_F_ONLINK = 4
TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
TYPE_NAMES = {number: name for name, number in TYPES.items()}
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254}
SCOPE_NAMES = {number: name for name, number in SCOPES.items()}
TABLES = {"main": 254, "local": 255, "default": 253}
TABLE_NAMES = {number: name for name, number in TABLES.items()}
PROTOCOLS = {
    1: "an ICMP redirect",
    2: "the kernel",
    3: "hand (ip route)",
    4: "an administrator",
    9: "a router advertisement",
}
PROTOCOLS.update(
    {
        11: "zebra",
        12: "bird",
        16: "a DHCP client",
        42: "babel",
        186: "BGP",
        187: "IS-IS",
        188: "OSPF",
        189: "RIP",
    }
)
KERNEL_MADE = (
    1,
    2,
    9,
)  # redirects, connected routes, router advertisements: the kernel makes them again by itself
METRIC6 = 1024  # IP6_RT_PRIO_USER: what the kernel takes when an IPv6 route names none

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "destination": {"type": "str"},
    "family": {"type": "str", "choices": ["inet", "inet6"]},
    "netns": {"type": "str"},
    "via": {"type": "str"},
    "dev": {"type": "str"},
    "table": {"type": "str", "default": "main"},
    "metric": {"type": "int"},
    "type": {"type": "str", "choices": sorted(TYPES), "default": "unicast"},
    "scope": {"type": "str", "choices": ["global", "link", "host"]},
    "source": {"type": "str"},
    "onlink": {"type": "bool"},
}
REQUIRED = ("destination",)


@dataclasses.dataclass(frozen=True)
class Value:
    """A route. Identity: namespace, table, destination and metric (the kernel's own key, without TOS)."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("destination", "table", "metric")
    SHAREABLE: t.ClassVar[bool] = True

    destination: str
    netns: str
    table: int
    metric: int
    type: t.Optional[str] = None
    via: t.Optional[str] = None
    dev: t.Optional[str] = None
    scope: t.Optional[str] = None
    source: t.Optional[str] = None
    onlink: t.Optional[bool] = None
    owner: t.Optional[str] = None
    made_by: t.Optional[str] = None

    def key(self) -> Key:
        table = TABLE_NAMES.get(self.table, str(self.table))
        return Key(NAME, self.netns, f"{self.destination} table {table} metric {self.metric}")

    def needs(self) -> t.Tuple[Key, ...]:
        if self.dev:
            return (Key("link", self.netns, self.dev),)
        return (Key("netns", "", self.netns),) if self.netns else ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)

    @property
    def family(self) -> int:
        return rtnl.AF_INET6 if ":" in self.destination else rtnl.AF_INET


def destination_of(text: str, family: t.Optional[str], via: t.Optional[str], path: str) -> str:
    """A prefix in canonical spelling; ``default`` is of the family that was named, or else of the next hop's."""
    if text in ("default", "any", "all"):
        six = family == "inet6" or (family is None and via is not None and ":" in via)
        return "::/0" if six else "0.0.0.0/0"
    found = _fields.network(text, path)
    if family and (family == "inet6") != (found.version == 6):
        raise SpecError(path, f"{text!r} is not of family {family}; correct one of the two")
    return _fields.spelled_prefix(found)


def table_of(text: t.Any, path: str) -> int:
    if text in TABLES:
        return TABLES[text]
    try:
        number = int(text)
    except ValueError:
        raise SpecError(
            path, f"{text!r} is not a table: give main, local, default or a number up to 4294967295"
        ) from None
    return t.cast(int, _fields.whole(number, 1, (1 << 32) - 1, path))


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    value = _identity(item, path)
    kind = item.get("type") or "unicast"
    via = _fields.spelled(_fields.address(item["via"], f"{path}.via")) if item.get("via") else None
    dev = _fields.ifname(item["dev"], f"{path}.dev") if item.get("dev") else None
    _check_next_hop(value, kind, via, dev, item, path)
    source = (
        _fields.spelled(_fields.address(item["source"], f"{path}.source")) if item.get("source") else None
    )
    if source and (":" in source) != (value.family == rtnl.AF_INET6):
        raise SpecError(
            f"{path}.source",
            f"{source} is not of the destination's family; a packet has addresses of one family",
        )
    if item.get("scope") not in (None, "global") and value.family == rtnl.AF_INET6:
        raise SpecError(f"{path}.scope", "IPv6 routes have no scope; leave it out")
    value = dataclasses.replace(
        value,
        type=kind,
        via=via or "",
        dev=dev,
        scope=item.get("scope"),
        source=source,
        onlink=item.get("onlink"),
        owner=model.ANY_TOPOLOGY,
    )
    return [Desired(value, path, adopt=bool(item.get("adopt")))]


def _identity(item: t.Mapping[str, t.Any], path: str) -> Value:
    _fields.require(item, REQUIRED, path)
    destination = destination_of(
        item["destination"], item.get("family"), item.get("via"), f"{path}.destination"
    )
    metric = _fields.whole(item.get("metric"), 0, (1 << 32) - 1, f"{path}.metric")
    six = ":" in destination
    return Value(
        destination,
        _fields.netns(item.get("netns"), f"{path}.netns"),
        table_of(item.get("table") or "main", f"{path}.table"),
        (metric or METRIC6) if six else (metric or 0),
    )


def _check_next_hop(
    value: Value,
    kind: str,
    via: t.Optional[str],
    dev: t.Optional[str],
    item: t.Mapping[str, t.Any],
    path: str,
) -> None:
    if kind != "unicast":
        for name in ("via", "dev", "onlink"):
            if item.get(name):
                raise SpecError(f"{path}.{name}", f"does not apply to a {kind} route; leave it out")
    elif not via and not dev:
        raise SpecError(
            path, "a unicast route needs a next hop or a device; give via, dev or both, or another type"
        )
    if via and ":" not in via and value.family == rtnl.AF_INET6:
        raise SpecError(f"{path}.via", f"{via} cannot be the next hop of an IPv6 route; give an IPv6 address")
    if item.get("onlink") and not dev:
        raise SpecError(
            f"{path}.onlink", "needs dev: the kernel cannot look the device up for an on-link next hop"
        )


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [_identity(item, path).key()]


# --- observe -----------------------------------------------------------------------------------------------------------


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    """Per namespace, family and table: first only routes with our number, the whole table only when one is missing there.

    So an unchanged run costs nothing on a host whose table holds a million routes of others.
    """
    groups: t.Dict[t.Tuple[str, int, int], t.Set[Key]] = {}
    for key in wanted:
        if key.kind == NAME:
            destination, _word, name = key.id.split()[:3]
            family = rtnl.AF_INET6 if ":" in destination else rtnl.AF_INET
            groups.setdefault((key.netns, family, TABLES.get(name) or int(name)), set()).add(key)
    found: t.Dict[Key, Value] = {}
    for (space, family, table), keys_here in groups.items():
        found.update(_select(host, space, host.routes(space, family, table, _fields.PROTOCOL), keys_here))
        missing = keys_here - found.keys()
        if missing:
            lengths = frozenset(int(key.id.split()[0].rsplit("/", 1)[1]) for key in missing)
            found.update(_select(host, space, host.routes(space, family, table, 0, lengths), missing))
    for key in wanted:
        if key.kind == model.ON_LINK:
            found.update(_on_link(host, key.netns, key.id))
    return found


def _on_link(host: Host, space: str, name: str) -> t.Dict[Key, Value]:
    """Whoever's routes over a link that may be deleted or moved: they vanish with it, and undo brings them back."""
    record = host.find_link(space, name)
    found: t.Dict[Key, Value] = {}
    if record is None:
        return found
    for family in (rtnl.AF_INET, rtnl.AF_INET6):
        for row in host.routes(space, family, 0, oif=record.ifindex):
            value = observed_value(host, space, row) if row.protocol not in KERNEL_MADE else None
            if value is not None and not row.multipath:
                found[value.key()] = value
    return found


def _select(
    host: Host, space: str, records: t.Iterable[rtnl.RouteRecord], keys_here: t.Container[Key]
) -> t.Dict[Key, Value]:
    found: t.Dict[Key, Value] = {}
    for record in records:
        value = observed_value(host, space, record)
        if value is not None and value.key() in keys_here and value.key() not in found:
            found[value.key()] = value
    return found


def observed_value(host: Host, space: str, record: rtnl.RouteRecord) -> t.Optional[Value]:
    if record.kind not in TYPE_NAMES or record.selective:
        return None
    kind = TYPE_NAMES[record.kind]
    # The kernel reports IPv6 reject routes on the loopback device; the user did not say so.
    return Value(
        destination=f"{record.destination}/{record.prefixlen}",
        netns=space,
        table=record.table,
        metric=record.metric,
        type=kind,
        via=record.gateway or ("multipath" if record.multipath else ""),
        dev=host.name_of(space, record.oif) if record.oif and kind == "unicast" else None,
        scope=SCOPE_NAMES.get(record.scope, str(record.scope)),
        source=record.source,
        onlink=bool(record.flags & RTNH_F_ONLINK),
        owner=None if record.multipath else _fields.owner_of_protocol(record.protocol),
        made_by="somebody who added next hops to it"
        if record.multipath
        else None
        if record.protocol == _fields.PROTOCOL
        else PROTOCOLS.get(record.protocol, f"routing protocol {record.protocol}"),
    )


def merged(observed: Value, desired: Value) -> Value:
    """A route of another form keeps nothing of the old one that was not declared: its device and scope came from the form."""
    target = t.cast(Value, model.merge(observed, desired))
    if (target.type, target.via, target.dev) == (observed.type, observed.via, observed.dev):
        return target
    return dataclasses.replace(target, dev=desired.dev, scope=desired.scope, onlink=desired.onlink or False)


def advice(host: Host, operations: t.Sequence[Operation]) -> t.List[str]:
    """systemd-networkd deletes what it did not make whenever it reconfigures a link of the host."""
    made_here = any(operation.after is not None and not operation.key.netns for operation in operations)
    if not made_here or not networkd.manages_foreign("ManageForeignRoutes"):
        return []
    return [
        "route: systemd-networkd removes routes of others on this host; set ManageForeignRoutes=no in networkd.conf"
    ]


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


# --- apply -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    if operation.verb == model.DELETE:
        try:
            _request(host, rtnl.RTM_DELROUTE, 0, operation.before)
        except KernelError as problem:
            if problem.name not in ("ESRCH", "ENODEV", "ENOENT"):
                raise
        return
    if operation.verb == model.CHANGE:
        _check_alone(host, operation.before)
    # Replacing is one step for the kernel: no packet finds the table without the route.
    flags = messages.NLM_F_EXCL if operation.verb == model.CREATE else messages.NLM_F_REPLACE
    _request(host, rtnl.RTM_NEWROUTE, messages.NLM_F_CREATE | flags, operation.after)


def _check_alone(host: Host, value: Value) -> None:
    """NLM_F_REPLACE takes the first route of a destination and metric, whoever made it: there must be no second one."""
    length = int(value.destination.rsplit("/", 1)[1])
    for record in rtnl.routes(host.socket(value.netns), value.family, value.table, 0, frozenset((length,))):
        other = observed_value(host, value.netns, record)
        if (
            other is not None
            and other.key() == value.key()
            and (other.via, other.owner) != (value.via, value.owner)
        ):
            raise UnsupportedError(
                f"{value.key()}: another route to the same destination with the same metric was made by {other.made_by}; "
                f"remove it or declare another metric"
            )


def _scope(value: Value) -> int:
    """As iproute2 derives it: a next hop is global, a device alone is link; IPv6 has no scopes."""
    if value.scope in SCOPES:
        return SCOPES[value.scope]
    if value.family == rtnl.AF_INET6 or value.via or value.type != "unicast":
        return SCOPES["global"]
    return SCOPES["link"]


def _request(host: Host, kind: int, flags: int, value: Value) -> None:
    address, length = value.destination.rsplit("/", 1)
    adding = kind == rtnl.RTM_NEWROUTE
    header = {
        "family": value.family,
        "dst_len": int(length),
        "src_len": 0,
        "tos": 0,
        "table": value.table if value.table < 256 else 0,
        "proto": _fields.PROTOCOL if value.owner else _foreign_protocol(value),
        "scope": _scope(value) if adding else 255,  # RT_SCOPE_NOWHERE: any, when deleting
        "type": TYPES[value.type or "unicast"],
        "flags": RTNH_F_ONLINK if value.onlink else 0,
    }
    attrs: messages.AttributeList = [("RTA_TABLE", value.table)]
    if int(length):
        attrs.append(("RTA_DST", address))
    if value.metric:
        attrs.append(("RTA_PRIORITY", value.metric))
    if value.dev:
        attrs.append(("RTA_OIF", host.index_of(value.netns, value.dev)))
    if adding and value.source:
        attrs.append(("RTA_PREFSRC", value.source))
    if value.via and value.via != "multipath":
        if ":" in value.via and value.family == rtnl.AF_INET:
            attrs.append(("RTA_VIA", {"family": rtnl.AF_INET6, "addr": value.via}))
        else:
            attrs.append(("RTA_GATEWAY", value.via))
    host.request(value.netns, kind, flags, messages.route(header, attrs))


def _foreign_protocol(value: Value) -> int:
    """The number of a foreign route that undo puts back."""
    numbers = {name: number for number, name in PROTOCOLS.items()}
    text = value.made_by or ""
    return numbers.get(text) or (int(text.rsplit(" ", 1)[1]) if text.startswith("routing protocol ") else 3)


def commands(operation: Operation) -> t.List[str]:
    value = operation.value
    verb = {model.CREATE: "add", model.CHANGE: "replace", model.DELETE: "del"}[operation.verb]
    words: t.List[t.Any] = ["route", verb]
    if value.type not in (None, "unicast"):
        words.append(value.type)
    words.append("default" if value.destination in ("0.0.0.0/0", "::/0") else value.destination)
    if value.via:
        words += (
            ["via"] + (["inet6"] if ":" in value.via and value.family == rtnl.AF_INET else []) + [value.via]
        )
    for word, text in (("dev", value.dev), ("src", value.source), ("scope", value.scope)):
        words += [word, text] if (text and verb != "del") or (word == "dev" and text) else []
    words += ["table", TABLE_NAMES.get(value.table, value.table)] if value.table != TABLES["main"] else []
    words += ["metric", value.metric] if value.metric not in (0, METRIC6) else []
    words += ["onlink"] if value.onlink else []
    words += ["proto", _fields.PROTOCOL] if value.owner and verb != "del" else []
    return [_fields.ip(value.netns, *words, family=value.family)]


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {"destination": value.destination}
    if value.netns:
        item["netns"] = value.netns
    for name in ("via", "dev", "source"):
        if getattr(value, name):
            item[name] = getattr(value, name)
    if value.type != "unicast":
        item["type"] = value.type
    if value.table != TABLES["main"]:
        item["table"] = TABLE_NAMES.get(value.table, str(value.table))
    if value.metric not in (0, METRIC6):
        item["metric"] = value.metric
    if value.onlink:
        item["onlink"] = True
    return SECTION, item
