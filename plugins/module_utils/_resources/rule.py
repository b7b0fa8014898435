# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Policy routing rules. The kernel has no way to change one: whatever differs is another rule."""

from __future__ import annotations

import dataclasses
import typing as t

from .._engine import model
from .._engine.model import Claim, Desired, Key, Operation
from .._engine.state import State
from .._errors import KernelError, SpecError
from .._kernel import messages, networkd, rtnl
from .._kernel.host import Host
from . import _fields
from .route import TABLE_NAMES, table_of

NAME = SECTION = "rule"
RANK = 80
BORROWED = False

ACTIONS = {"lookup": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
ACTION_NAMES = {number: name for name, number in ACTIONS.items()}
IP_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
IP_PROTOCOL_NAMES = {number: name for name, number in IP_PROTOCOLS.items()}
FIB_RULE_INVERT = 2
RTPROT_KERNEL = 2

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "priority": {"type": "int"},
    "family": {"type": "str", "choices": ["inet", "inet6"]},
    "netns": {"type": "str"},
    "source": {"type": "str"},
    "destination": {"type": "str"},
    "iif": {"type": "str"},
    "oif": {"type": "str"},
    "fwmark": {"type": "str"},
    "protocol": {"type": "str", "choices": sorted(IP_PROTOCOLS)},
    "source_port": {"type": "str"},
    "destination_port": {"type": "str"},
    "invert": {"type": "bool", "default": False},
    "table": {"type": "str"},
    "action": {"type": "str", "choices": sorted(ACTIONS), "default": "lookup"},
}
REQUIRED = ("priority",)


@dataclasses.dataclass(frozen=True)
class Value:
    """A rule. Identity: all of it but the owner. Empty text and zero mean: does not matter."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = (
        *("priority", "family", "source", "destination", "iif", "oif", "fwmark", "protocol"),
        *("source_port", "destination_port", "invert", "action", "table"),
    )
    SHAREABLE: t.ClassVar[bool] = True

    priority: int
    netns: str
    family: str
    source: str = ""
    destination: str = ""
    iif: str = ""
    oif: str = ""
    fwmark: str = ""
    protocol: str = ""
    source_port: str = ""
    destination_port: str = ""
    invert: bool = False
    action: str = "lookup"
    table: int = 0
    owner: t.Optional[str] = None
    made_by: t.Optional[str] = None

    def key(self) -> Key:
        return Key(NAME, self.netns, " ".join([self.family, str(self.priority), *self.words()]))

    def needs(self) -> t.Tuple[Key, ...]:
        return (Key("netns", "", self.netns),) if self.netns else ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)

    def words(self) -> t.List[str]:
        """The rule as `ip rule` spells it, behind the priority."""
        words = ["not"] if self.invert else []
        for word, text in (
            ("from", self.source or "all"),
            ("to", self.destination),
            ("iif", self.iif),
            ("oif", self.oif),
            ("fwmark", self.fwmark),
            ("ipproto", self.protocol),
            ("sport", self.source_port),
            ("dport", self.destination_port),
        ):
            words += [word, text] if text else []
        return words + (
            ["lookup", TABLE_NAMES.get(self.table, str(self.table))]
            if self.action == "lookup"
            else [self.action]
        )


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    _fields.require(item, REQUIRED, path)
    action = item.get("action") or "lookup"
    if (action == "lookup") != bool(item.get("table")):
        raise SpecError(f"{path}.table", "needed for action lookup, and only for it")
    prefixes = {
        name: _fields.network(item[name], f"{path}.{name}")
        for name in ("source", "destination")
        if item.get(name) not in (None, "", "all")
    }
    value = Value(
        priority=t.cast(int, _fields.whole(item["priority"], 1, (1 << 32) - 1, f"{path}.priority")),
        netns=_fields.netns(item.get("netns"), f"{path}.netns"),
        family=_family(item.get("family"), list(prefixes.values()), path),
        iif=_fields.ifname(item["iif"], f"{path}.iif") if item.get("iif") else "",
        oif=_fields.ifname(item["oif"], f"{path}.oif") if item.get("oif") else "",
        fwmark=_fwmark(item.get("fwmark"), f"{path}.fwmark"),
        protocol=item.get("protocol") or "",
        source_port=_ports(item.get("source_port"), f"{path}.source_port"),
        destination_port=_ports(item.get("destination_port"), f"{path}.destination_port"),
        invert=bool(item.get("invert")),
        action=action,
        table=table_of(item["table"], f"{path}.table") if item.get("table") else 0,
        owner=model.ANY_TOPOLOGY,
        **{
            name: "" if prefix.prefixlen == 0 else _fields.spelled_prefix(prefix)
            for name, prefix in prefixes.items()
        },
    )
    return [Desired(value, path, adopt=bool(item.get("adopt")))]


def _family(family: t.Optional[str], prefixes: t.Sequence[_fields.Network], path: str) -> str:
    found = {"inet6" if prefix.version == 6 else "inet" for prefix in prefixes} | (
        {family} if family else set()
    )
    if len(found) > 1:
        raise SpecError(
            path, "source, destination and family are not of one address family; correct one of them"
        )
    return found.pop() if found else "inet"


def _fwmark(text: t.Optional[str], path: str) -> str:
    if not text:
        return ""
    try:
        mark, _slash, mask = str(text).partition("/")
        numbers = int(mark, 0), int(mask, 0) if mask else 0xFFFFFFFF
        if not all(0 <= number <= 0xFFFFFFFF for number in numbers):
            raise ValueError
        return _mark_text(*numbers)
    except ValueError:
        raise SpecError(path, f"{text!r} is not a mark of 32 bits such as 0x10 or 0x10/0xff") from None


def _mark_text(mark: int, mask: int) -> str:
    return f"{mark:#x}" if mask == 0xFFFFFFFF else f"{mark:#x}/{mask:#x}"


def _ports(text: t.Optional[str], path: str) -> str:
    if not text:
        return ""
    first, _dash, last = str(text).partition("-")
    try:
        low, high = int(first), int(last or first)
    except ValueError:
        low, high = 1, 0
    if not 1 <= low <= high <= 65535:
        raise SpecError(path, f"{text!r} is not a port or range such as 443 or 1000-2000")
    return str(low) if low == high else f"{low}-{high}"


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return [found.key for found in parse(item, path, "")]


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    spaces = {(key.netns, key.id.split()[0]) for key in wanted if key.kind == NAME}
    found: t.Dict[Key, Value] = {}
    for space, family in spaces:
        for record in host.rules(space, rtnl.AF_INET6 if family == "inet6" else rtnl.AF_INET):
            value = observed_value(space, record)
            if value is not None and value.key() in wanted:
                found[value.key()] = value
    return found


def observed_value(space: str, record: rtnl.RuleRecord) -> t.Optional[Value]:
    """A kernel rule as a value; None when it uses what this kind cannot say."""
    if not record.plain or record.action not in ACTION_NAMES or record.tos:
        return None
    ours = record.protocol == _fields.PROTOCOL
    return Value(
        priority=record.priority,
        netns=space,
        family="inet6" if record.family == rtnl.AF_INET6 else "inet",
        source=record.source,
        destination=record.destination,
        iif=record.iif,
        oif=record.oif,
        fwmark=_mark_text(record.fwmark, record.fwmask) if record.fwmask else "",
        protocol=IP_PROTOCOL_NAMES.get(record.ip_proto, str(record.ip_proto)) if record.ip_proto else "",
        source_port=_range_text(record.sport),
        destination_port=_range_text(record.dport),
        invert=bool(record.flags & FIB_RULE_INVERT),
        action=ACTION_NAMES[record.action],
        table=record.table if record.action == ACTIONS["lookup"] else 0,
        owner=model.ANY_TOPOLOGY if ours else None,
        made_by="the kernel" if record.protocol == RTPROT_KERNEL else None,
    )


def _range_text(ports: t.Optional[t.Tuple[int, int]]) -> str:
    if not ports:
        return ""
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def advice(host: Host, operations: t.Sequence[Operation]) -> t.List[str]:
    """systemd-networkd deletes what it did not make whenever it reconfigures a link of the host."""
    made_here = any(operation.after is not None and not operation.key.netns for operation in operations)
    if not made_here or not networkd.manages_foreign("ManageForeignRoutingPolicyRules"):
        return []
    return [
        "rule: systemd-networkd removes rules of others on this host; set ManageForeignRoutingPolicyRules=no in networkd.conf"
    ]


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def apply(host: Host, operation: Operation) -> None:
    if operation.before is not None:
        try:
            _request(host, rtnl.RTM_DELRULE, 0, operation.before)
        except KernelError as problem:
            if problem.name != "ENOENT":
                raise
    if operation.after is not None:
        _request(host, rtnl.RTM_NEWRULE, messages.NLM_F_CREATE | messages.NLM_F_EXCL, operation.after)


def _request(host: Host, kind: int, flags: int, value: Value) -> None:
    attrs: messages.AttributeList = [("FRA_PRIORITY", value.priority)]
    lengths = {"src_len": 0, "dst_len": 0}
    for name, attribute, text in (
        ("src_len", "FRA_SRC", value.source),
        ("dst_len", "FRA_DST", value.destination),
    ):
        if text:
            address, length = text.rsplit("/", 1)
            lengths[name] = int(length)
            attrs.append((attribute, address))
    if value.table:
        attrs.append(("FRA_TABLE", value.table))
    attrs += [(name, text) for name, text in (("FRA_IIFNAME", value.iif), ("FRA_OIFNAME", value.oif)) if text]
    if value.fwmark:
        mark, _slash, mask = value.fwmark.partition("/")
        attrs += [("FRA_FWMARK", int(mark, 0)), ("FRA_FWMASK", int(mask, 0) if mask else 0xFFFFFFFF)]
    if value.protocol:
        attrs.append(("FRA_IP_PROTO", IP_PROTOCOLS.get(value.protocol) or int(value.protocol)))
    for attribute, text in (
        ("FRA_SPORT_RANGE", value.source_port),
        ("FRA_DPORT_RANGE", value.destination_port),
    ):
        if text:
            low, _dash, high = text.partition("-")
            attrs.append((attribute, f"{low}:{high or low}"))  # as pyroute2 spells struct fib_rule_port_range
    if value.owner:
        attrs.append(("FRA_PROTOCOL", _fields.PROTOCOL))
    header = {
        "family": rtnl.AF_INET6 if value.family == "inet6" else rtnl.AF_INET,
        "tos": 0,
        "table": value.table if value.table < 256 else 0,
        "action": ACTIONS[value.action],
        "flags": FIB_RULE_INVERT if value.invert else 0,
        **lengths,
    }
    host.request(value.netns, kind, flags, messages.rule(header, attrs))


def commands(operation: Operation) -> t.List[str]:
    lines = []
    for verb, value in (("del", operation.before), ("add", operation.after)):
        if value is not None:
            family = rtnl.AF_INET6 if value.family == "inet6" else rtnl.AF_INET
            mark = ["protocol", _fields.PROTOCOL] if value.owner and verb == "add" else []
            lines.append(
                _fields.ip(
                    value.netns,
                    "rule",
                    verb,
                    "priority",
                    value.priority,
                    *value.words(),
                    *mark,
                    family=family,
                )
            )
    return lines


def to_item(value: Value) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item: t.Dict[str, t.Any] = {"priority": value.priority, "family": value.family}
    for name in (
        "netns",
        "source",
        "destination",
        "iif",
        "oif",
        "fwmark",
        "protocol",
        "source_port",
        "destination_port",
        "invert",
    ):
        if getattr(value, name):
            item[name] = getattr(value, name)
    if value.action == "lookup":
        item["table"] = TABLE_NAMES.get(value.table, str(value.table))
    else:
        item["action"] = value.action
    return SECTION, item
