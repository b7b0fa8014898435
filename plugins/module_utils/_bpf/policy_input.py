# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From options, CSV and JSON lines to policies. Pure but for reading a file; for the controller and for targets.

Raises SpecError with the path of the option, such as ``bpf_policy_entry[2].source`` or ``policies.csv line 7 source``.
"""

from __future__ import annotations

import csv
import json
import socket
import typing as t

from .._errors import SpecError
from .policy import (
    COMMENT_BYTES,
    CONDITIONS,
    DEFAULTS,
    DESTINATIONS,
    NEXT_HOPS,
    NEXT_HOPS_PER_ACTION,
    POOL,
    PROTOCOL_NAMES,
    PROTOCOLS,
    SOURCES,
    VERDICTS,
    WITH_PORTS,
    Action,
    Condition,
    Match,
    NextHop,
    Policy,
    address_match,
    interned,
    match_text,
)

MATCH_FIELDS = ("source", "destination", "protocol", "destination_port", "family")
ACTION_FIELDS = ("interface", "next_hop", "next_hops", "pool", "action", "strict", "liveness")
ENTRY_FIELDS = (*MATCH_FIELDS, *ACTION_FIELDS, "priority", "comment")
POOL_NAME_BYTES = 31  # struct pool_name
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
FAMILIES: t.Dict[str, t.Tuple[int, ...]] = {"ipv4": (4,), "ipv6": (6,), "both": (4, 6)}
# Protocols that no packet of an IP version has where the router looks.
NEVER = {4: (PROTOCOLS["ipv6-icmp"],), 6: (0, PROTOCOLS["icmp"], 43, 44, 51, 60)}

Item = t.Mapping[str, t.Any]


class Entry(t.NamedTuple):
    """One entry of the input: more than one match when it is for both families."""

    matches: t.Tuple[Match, ...]
    action: t.Optional[Action]  # None where only the match was asked for
    priority: int
    comment: str


class Builder:
    """Collects entries; the same match twice is an error that names both places."""

    def __init__(self) -> None:
        self.tables: t.Dict[str, t.Dict[t.Any, Action]] = {}
        self.priorities: t.Dict[Condition, int] = {}
        self.comments: t.Dict[Match, str] = {}
        self.places: t.Dict[Match, str] = {}

    def add(self, entry: Entry, path: str) -> None:
        for match in entry.matches:
            table, key = match
            rows = self.tables.setdefault(table, {})
            if key in rows:
                other = self.places.get(match)
                raise SpecError(
                    path,
                    f"{match_text(table, key)} is there already{f' ({other})' if other else ''}; name each match once",
                )
            assert_action(entry, path)
            rows[key] = t.cast(Action, entry.action)
            if entry.priority:
                self.priorities[key] = entry.priority
            if entry.comment:
                self.comments[match] = entry.comment
            self.places[match] = path

    def policy(self) -> Policy:
        return Policy(self.tables, self.priorities, self.comments)


def assert_action(entry: Entry, path: str) -> None:
    if entry.action is None:
        raise SpecError(
            path, "says not what to do; give interface (with next_hop or next_hops), pool or action"
        )


def entry_of(item: Item, path: str, needs_action: bool = True) -> Entry:
    """One entry from its options; unset ones are None or ''."""
    action = action_of(item, path)
    matches = matches_of(item, path, action)
    _assert_family(item, path, matches, action)
    priority = _number(item.get("priority"), -(1 << 31), (1 << 31) - 1, f"{path}.priority") or 0
    if priority and matches[0][0] != CONDITIONS:
        raise SpecError(
            f"{path}.priority",
            "decides nothing here: of prefixes the longest wins; priority is for entries with a protocol",
        )
    entry = Entry(matches, action, priority, comment_of(item.get("comment"), f"{path}.comment"))
    if needs_action:
        assert_action(entry, path)
    return entry


def _assert_family(item: Item, path: str, matches: t.Sequence[Match], action: t.Optional[Action]) -> None:
    """Refuse an entry for packets that there are not, or that its next hops cannot take."""
    family = item.get("family") or None
    for table, key in matches:
        version = _version_of(table, key)
        if family is not None and version not in FAMILIES[family]:
            raise SpecError(f"{path}.family", f"{family} is not that of the address; leave it out")
        if version == 6 and action is not None and action.next_hops and all(map(_is_ipv4, action.next_hops)):
            raise SpecError(
                path,
                f"an IPv6 packet cannot take the IPv4 next hop {action.next_hops[0]}; give one of IPv6, or family: ipv4",
            )
        if table == CONDITIONS and key.protocol in NEVER[version]:
            raise SpecError(
                f"{path}.protocol",
                f"{protocol_name(key.protocol)} never matches in IPv{version}: it is the other version's, or an extension header, "
                "which the router looks behind",
            )


def _version_of(table: str, key: t.Any) -> int:
    if table == DEFAULTS:
        return t.cast(int, key)
    if table == CONDITIONS:
        return 4 if len(key.address) == 4 else 6
    return 6 if "6" in table else 4


def _is_ipv4(hop: NextHop) -> bool:
    return "." in hop.address and ":" not in hop.address


# --- what is matched ------------------------------------------------------------------------------------------------------


def matches_of(item: Item, path: str, action: t.Optional[Action] = None) -> t.Tuple[Match, ...]:
    """The matches of an entry: conditional, by source, by destination, or the default."""
    source, destination = item.get("source") or None, item.get("destination") or None
    protocol = protocol_of(item.get("protocol"), f"{path}.protocol")
    if (item.get("family") or None) not in (None, *FAMILIES):
        raise SpecError(f"{path}.family", f"{item['family']!r} is none of {', '.join(FAMILIES)}")
    first, last = ports_of(item.get("destination_port"), f"{path}.destination_port")
    if first and protocol is None:
        raise SpecError(f"{path}.protocol", "missing; ports belong to a protocol, such as tcp")
    if first and protocol not in WITH_PORTS:
        raise SpecError(f"{path}.destination_port", "only tcp, udp, dccp, sctp and udplite have ports")
    if destination and (source or protocol is not None):
        raise SpecError(
            f"{path}.destination",
            "goes alone: the router looks at destinations by themselves, and at sources with protocol and destination_port",
        )
    if protocol is None and source:
        return (address_match(SOURCES, *prefix(source, f"{path}.source")),)
    if destination:
        return (address_match(DESTINATIONS, *prefix(destination, f"{path}.destination")),)
    if source:
        address, length = prefix(source, f"{path}.source")
        return ((CONDITIONS, Condition(t.cast(int, protocol), first, last, length, address)),)
    versions = _versions(item, path, protocol, action)
    if protocol is None:
        return tuple((DEFAULTS, version) for version in versions)
    return tuple(
        (CONDITIONS, Condition(protocol, first, last, 0, bytes(4 if version == 4 else 16)))
        for version in versions
    )


def _versions(
    item: Item, path: str, protocol: t.Optional[int], action: t.Optional[Action]
) -> t.Tuple[int, ...]:
    """IP versions of an entry whose addresses do not tell: those that its protocol and its next hops are good for."""
    family = item.get("family") or None
    possible: t.Tuple[int, ...] = tuple(version for version in (4, 6) if protocol not in NEVER[version])
    if action is not None and any(_is_ipv4(hop) for hop in action.next_hops):
        possible = tuple(version for version in possible if version == 4)
    if family is None:
        return possible or (4,)
    return FAMILIES[family]


def prefix(text: t.Any, path: str) -> t.Tuple[bytes, int]:
    """Address in network byte order and prefix length; a bare address is a host's."""
    address, slash, digits = str(text).partition("/")
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        whole = 8 * len(packed)
        if not slash:
            return packed, whole
        if not (digits.isascii() and digits.isdigit()) or int(digits) > whole:
            raise ValueError
        length = int(digits)
    except (OSError, ValueError):
        raise SpecError(path, f"{text!r} is not a prefix, such as 10.0.0.0/8, 10.0.0.1 or fd00::/8") from None
    if length < whole and int.from_bytes(packed, "big") & ((1 << (whole - length)) - 1):
        shift = whole - length
        network = (int.from_bytes(packed, "big") >> shift << shift).to_bytes(len(packed), "big")
        family = socket.AF_INET if whole == 32 else socket.AF_INET6
        raise SpecError(
            path,
            f"{text} has host bits; write {socket.inet_ntop(family, network)}/{length}, or {address}/{whole} for that host alone",
        )
    return packed, length


def protocol_of(text: t.Any, path: str) -> t.Optional[int]:
    if text in (None, ""):
        return None
    name = str(text).lower()
    number = PROTOCOLS.get({"icmpv6": "ipv6-icmp", "icmp6": "ipv6-icmp"}.get(name, name))
    if number is None and name.isascii() and name.isdigit() and int(name) < 256:
        number = int(name)
    if number is None:
        raise SpecError(path, f"{text!r} is neither 0 to 255 nor one of {', '.join(PROTOCOLS)}")
    return number


def protocol_name(number: int) -> str:
    return PROTOCOL_NAMES.get(number, f"protocol {number}")


def ports_of(text: t.Any, path: str) -> t.Tuple[int, int]:
    """First and last port; 0 and 0 when none is given."""
    if text in (None, ""):
        return 0, 0
    first, dash, last = str(text).replace(" ", "").partition("-")
    if not (first + last).isascii() or not first.isdigit() or (dash and not last.isdigit()):
        raise SpecError(path, f"{text!r} is neither a port nor a range of ports, such as 443 or 8000-8099")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise SpecError(path, f"{text} is out of range; give 1 to 65535, the lower one first")
    return low, high


# --- what is done ---------------------------------------------------------------------------------------------------------


def action_of(item: Item, path: str) -> t.Optional[Action]:
    """The action of an entry, None when it names none."""
    interface = _text(item.get("interface"))
    one, many, pool, verdict = (
        item.get("next_hop") or None,
        item.get("next_hops") or None,
        item.get("pool") or None,
        item.get("action") or None,
    )
    strict = truth(item.get("strict"), False, f"{path}.strict")
    liveness = truth(item.get("liveness"), True, f"{path}.liveness")
    given = [
        name
        for name, value in (("next_hop", one), ("next_hops", many), ("pool", pool), ("action", verdict))
        if value
    ]
    if len(given) > 1:
        raise SpecError(f"{path}.{given[1]}", f"cannot stand beside {given[0]}; give one of them")
    if pool or verdict:
        if interface:
            raise SpecError(f"{path}.interface", f"says nothing beside {given[0]}; leave it out")
    if pool:
        return interned(Action(POOL, (), pool_name(pool, f"{path}.pool"), strict, liveness))
    if verdict:
        if verdict not in VERDICTS:
            raise SpecError(f"{path}.action", f"{verdict!r} is none of {', '.join(VERDICTS)}")
        if strict:
            raise SpecError(f"{path}.strict", f"says nothing beside action: {verdict}; leave it out")
        return interned(Action(verdict))
    if not one and not many and not interface:
        return None
    if many:
        hops = next_hops_of(many, interface, f"{path}.next_hops")
    else:
        hops = (next_hop_of(one or "", interface, f"{path}.{'next_hop' if one else 'interface'}"),)
    return interned(Action(NEXT_HOPS, hops, "", strict, liveness))


def next_hops_of(given: t.Any, interface: str, path: str) -> t.Tuple[NextHop, ...]:
    """A list, or a text with spaces between (CSV)."""
    parts = given.split() if isinstance(given, str) else given
    if not isinstance(parts, list):
        raise SpecError(path, f"is {type(given).__name__}; a list is needed")
    if len(parts) > NEXT_HOPS_PER_ACTION:
        raise SpecError(
            path, f"has {len(parts)}; the router takes {NEXT_HOPS_PER_ACTION} at most, a pool takes more"
        )
    hops = tuple(next_hop_of(part, interface, f"{path}[{number}]") for number, part in enumerate(parts))
    for number, hop in enumerate(hops):
        if hop in hops[:number]:
            raise SpecError(f"{path}[{number}]", f"{hop} is there already; name each next hop once")
    return hops


def next_hop_of(given: t.Any, interface: str, path: str) -> NextHop:
    """``10.0.1.1%eth1``, ``%eth1`` (on-link), ``10.0.1.1`` with the entry's interface, or a mapping of address and interface."""
    if isinstance(given, dict):
        unknown = sorted(set(given) - {"address", "interface", "weight"})
        if unknown:
            raise SpecError(path, f"unsupported option {unknown[0]}; it takes address, interface")
        address, device = _text(given.get("address")), _text(given.get("interface"))
    else:
        address, _percent, device = str(given).partition("%")
    device = device or interface
    if not device:
        raise SpecError(
            path, f"which device leads to {address or 'it'}? give interface, or write {address}%eth1"
        )
    return NextHop(ifname(device, path), _spelled(address, path) if address else "")


def _spelled(address: str, path: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except OSError:
        raise SpecError(path, f"{address!r} is not an IP address, such as 10.0.0.1 or fd00::1") from None
    first = packed[0]
    group = first >= 224 if family == socket.AF_INET else first == 0xFF
    if group or not any(packed) or (first == 127 and len(packed) == 4):
        raise SpecError(path, f"{address} is no neighbour's address")
    return socket.inet_ntop(family, packed)


def ifname(name: str, path: str) -> str:
    """A device name as the kernel accepts it."""
    if not 1 <= len(name.encode()) <= 15 or not name.isprintable() or not set(name).isdisjoint("/:% "):
        raise SpecError(path, f"{name!r} is not a device name")
    return name


def pool_name(text: t.Any, path: str) -> str:
    name = str(text)
    if not 1 <= len(name.encode()) <= POOL_NAME_BYTES or not name.isascii() or not name.isprintable():
        raise SpecError(path, f"{name!r} is not a pool's name: 1 to {POOL_NAME_BYTES} printable ASCII signs")
    if set(name) & set(" :/"):
        raise SpecError(path, f"{name!r} is not a pool's name: no space, ':' and '/'")
    return name


def comment_of(text: t.Any, path: str) -> str:
    comment = _text(text)
    if not comment.isprintable():
        raise SpecError(path, "has signs that cannot be printed")
    if len(comment.encode()) > COMMENT_BYTES:
        raise SpecError(path, f"has {len(comment.encode())} bytes; there is room for {COMMENT_BYTES}")
    return comment


def truth(value: t.Any, default: bool, path: str) -> bool:
    if value in (None, ""):
        return default
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise SpecError(path, f"{value!r} is neither true nor false")


def _text(value: t.Any) -> str:
    return "" if value is None else str(value)


def _number(value: t.Any, lowest: int, highest: int, path: str) -> t.Optional[int]:
    if value in (None, ""):
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise SpecError(path, f"{value!r} is not a number") from None
    if not lowest <= number <= highest:
        raise SpecError(path, f"{number} is out of range; give {lowest} to {highest}")
    return number


# --- files ----------------------------------------------------------------------------------------------------------------


def read_file(path: str, shown: str) -> Policy:
    """The entries of a file: JSON lines when its name ends with .jsonl or .ndjson, else CSV with a line of names first."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = _json_rows(file, shown) if path.endswith((".jsonl", ".ndjson")) else _csv_rows(file, shown)
            return _from_rows(rows, shown)
    except UnicodeDecodeError as problem:
        raise SpecError(shown, f"is not UTF-8 ({problem.reason})") from None
    except OSError as problem:
        raise SpecError(shown, f"cannot be read: {problem.strerror}") from None


def _json_rows(file: t.TextIO, shown: str) -> t.Iterator[t.Tuple[int, Item]]:
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except ValueError as problem:
            raise SpecError(f"{shown} line {number}", f"is not JSON ({problem})") from None
        if not isinstance(row, dict):
            raise SpecError(f"{shown} line {number}", "is not an object: one entry a line is needed")
        check_fields(row, f"{shown} line {number}")
        for name, value in row.items():
            if isinstance(value, (dict, list)) and name != "next_hops":
                raise SpecError(
                    f"{shown} line {number}.{name}", f"is {type(value).__name__}; a single value is needed"
                )
        yield number, row


def check_fields(row: Item, path: str) -> None:
    unknown = [name for name in row if name not in ENTRY_FIELDS]
    if unknown:
        raise SpecError(path, f"unsupported option {unknown[0]}; it takes {', '.join(ENTRY_FIELDS)}")


def _csv_rows(file: t.TextIO, shown: str) -> t.Iterator[t.Tuple[int, Item]]:
    reader = csv.reader(file, strict=True)
    names: t.List[str] = []
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()) or _is_remark(cells, names):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                check_fields(dict.fromkeys(names), f"{shown} line {reader.line_num}")
                if len(set(names)) != len(names):
                    raise SpecError(f"{shown} line {reader.line_num}", "names a column twice")
                continue
            if len(cells) != len(names):
                raise SpecError(
                    f"{shown} line {reader.line_num}",
                    f"has {len(cells)} fields, the first line names {len(names)}",
                )
            yield reader.line_num, dict(zip(names, cells))
    except csv.Error as problem:
        raise SpecError(f"{shown} line {reader.line_num}", f"is not CSV ({problem})") from None


def _is_remark(cells: t.Sequence[str], names: t.Sequence[str]) -> bool:
    """Whether a line is a remark, and not an entry whose first field begins like one."""
    return cells[0].startswith("#") and (not names or names[0] != "comment")


def _from_rows(rows: t.Iterator[t.Tuple[int, Item]], shown: str) -> Policy:
    """Rows of one kind and with one action come by the thousand: the action is read once, and a plain source in a few steps."""
    builder = Builder()
    actions: t.Dict[t.Tuple[t.Any, ...], Action] = {}
    for number, row in rows:
        get = row.get
        wish = (
            get("interface"),
            get("next_hop"),
            get("pool"),
            get("action"),
            get("strict"),
            get("liveness"),
            str(get("next_hops")),
        )
        action = actions.get(wish)
        source = get("source")
        plain = (
            source
            and action is not None
            and not (get("protocol") or get("destination") or get("destination_port"))
            and not (get("priority") or get("comment"))
        )
        if not plain:
            path = f"{shown} line {number}"
            entry = entry_of(row, path)
            actions[wish] = t.cast(Action, entry.action)
            builder.add(entry, path)
            continue
        try:
            address = socket.inet_pton(socket.AF_INET, t.cast(str, source))
            table, key = "sources4_exact", address
        except (OSError, TypeError):
            table, key = address_match(SOURCES, *prefix(source, f"{shown} line {number}.source"))
        entries = builder.tables.setdefault(table, {})
        if key in entries:
            raise SpecError(
                f"{shown} line {number}", f"{match_text(table, key)} is there already; name each match once"
            )
        entries[key] = t.cast(Action, action)
    return builder.policy()
