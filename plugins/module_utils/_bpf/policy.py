# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The policy of a router as people mean it: matches and actions, by names instead of indexes. Pure.

A policy holds up to a million entries, so its tables are plain dictionaries from the keys of the router's maps
(files/bpf/lib/policy.h) to actions, and equal actions are one object (``interned``): comparing two policies is comparing
dictionaries in C. Tables are those of the router, and two more whose keys are not a map's: `conditions`, by Condition, and
`defaults`, by IP version.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import typing as t
import zlib

from .._errors import CnfError

NEXT_HOPS, POOL, PASS, DROP, EXEMPT = "next_hops", "pool", "pass", "drop", "exempt"
VERDICTS = (PASS, DROP, EXEMPT)
NEXT_HOPS_PER_ACTION = 6
SOURCES, DESTINATIONS = "sources", "destinations"
ADDRESS_TABLES = tuple(
    f"{side}{version}{exact}"
    for side in (SOURCES, DESTINATIONS)
    for version in (4, 6)
    for exact in ("_exact", "")
)
CONDITIONS, DEFAULTS = "conditions", "defaults"
TABLES = (*ADDRESS_TABLES, CONDITIONS, DEFAULTS)
PROTOCOLS = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "sctp": 132,
    "udplite": 136,
}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
WITH_PORTS = (6, 17, 33, 132, 136)  # files/bpf/lib/parse.h reads the ports of these
LENGTH = struct.Struct("=I")  # the prefix length in front of a trie's key
FORMAT = 1


class PolicyError(CnfError):
    """A policy contradicts itself. The caller names the place."""


class NextHop(t.NamedTuple):
    """A neighbour on a device; without an address every destination is on the device's link."""

    interface: str
    address: str = ""

    def __str__(self) -> str:
        return f"{self.address}%{self.interface}"


class Action(t.NamedTuple):
    """What becomes of a packet. ``next_hops`` in order of preference; ``liveness``: ask whether they are alive."""

    kind: str
    next_hops: t.Tuple[NextHop, ...] = ()
    pool: str = ""
    strict: bool = False
    liveness: bool = True

    def __str__(self) -> str:
        if self.kind == NEXT_HOPS:
            what = " ".join(["next_hops", *map(str, self.next_hops)])
        else:
            what = f"pool {self.pool}" if self.kind == POOL else self.kind
        return what + (" strict" if self.strict else "") + ("" if self.liveness else " without liveness")


class Condition(t.NamedTuple):
    """A match by source, protocol and destination ports ``first`` to ``last``, 0 and 0 for any. ``address`` in network order."""

    protocol: int
    first: int
    last: int
    length: int
    address: bytes

    @property
    def is_any_port(self) -> bool:
        return not self.first and not self.last


Table = t.Dict[t.Any, Action]
Match = t.Tuple[str, t.Any]  # table and key

# The last comparisons: a run compares the same two again and again, and with a million entries each takes half a second.
_compared: t.List[t.Tuple[Policy, Policy, bool]] = []

_ACTIONS: t.Dict[Action, Action] = {}


def interned(action: Action) -> Action:
    """The one object that stands for all actions equal to this one."""
    return _ACTIONS.setdefault(action, action)


class Policy:
    """Entries by table, with the priorities (of conditions, where not 0) and comments that some of them have.

    Never changed once it is made.
    """

    def __init__(
        self,
        tables: t.Optional[t.Mapping[str, Table]] = None,
        priorities: t.Optional[t.Mapping[Condition, int]] = None,
        comments: t.Optional[t.Mapping[Match, str]] = None,
    ) -> None:
        self.tables: t.Dict[str, Table] = {name: table for name, table in (tables or {}).items() if table}
        self.priorities: t.Dict[Condition, int] = dict(priorities or {})
        self.comments: t.Dict[Match, str] = dict(comments or {})
        self._actions: t.Optional[t.List[Action]] = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Policy):
            return NotImplemented
        if self is other:
            return True
        if not any(self is one and other is two for one, two, _same in _compared):
            same = (
                self.tables == other.tables
                and self.priorities == other.priorities
                and self.comments == other.comments
            )
            _compared[:] = [(self, other, same), *_compared[:1]]
        return next(same for one, two, same in _compared if self is one and other is two)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def __str__(self) -> str:
        return f"{len(self)} {'entry' if len(self) == 1 else 'entries'}"

    __repr__ = __str__

    def table(self, name: str) -> Table:
        """The entries of one table; not for writing."""
        return self.tables.get(name, {})

    def actions(self) -> t.List[Action]:
        """Each action once, in the order of first use."""
        if self._actions is None:
            found: t.Dict[int, Action] = {}
            for rows in map(dict.values, self.tables.values()):
                found.update(zip(map(id, rows), rows))  # in C: to hash each would take seconds
            self._actions = list(dict.fromkeys(map(interned, found.values())))
        return self._actions

    def patched(self, put: Policy, drop: t.Iterable[Match] = ()) -> Policy:
        """This policy with the entries of another on top, and without those that are dropped."""
        tables = {name: dict(table) for name, table in self.tables.items()}
        priorities, comments = dict(self.priorities), dict(self.comments)
        for name, table in put.tables.items():
            tables.setdefault(name, {}).update(table)
            if comments and name != CONDITIONS:
                for key in table:
                    comments.pop((name, key), None)
        for condition in put.table(CONDITIONS):
            priorities.pop(condition, None)
            comments.pop((CONDITIONS, condition), None)
        for name, key in drop:
            tables.get(name, {}).pop(key, None)
            priorities.pop(key, None)
            comments.pop((name, key), None)
        priorities.update(put.priorities)
        comments.update(put.comments)
        return Policy(tables, priorities, comments)

    def digest(self) -> str:
        """SHA-256 of what the policy says; the same on every host, whatever its indexes and its byte order."""
        return hashlib.sha256(self.packed()).hexdigest()

    # --- between hosts ----------------------------------------------------------------------------------------------

    def packed(self) -> bytes:
        """The policy as bytes, in an order of its own: the same for equal policies."""
        actions = sorted(self.actions())
        number = {action: index for index, action in enumerate(actions)}
        groups, content = [], []
        for name in ADDRESS_TABLES:
            rows: t.Dict[t.Tuple[int, int], t.List[bytes]] = {}
            is_exact = name.endswith("_exact")
            for key, action in self.table(name).items():
                length = -1 if is_exact else LENGTH.unpack_from(key)[0]
                rows.setdefault((number[action], length), []).append(key if is_exact else key[4:])
            for group in sorted(rows):
                keys = sorted(rows[group])
                groups.append([name, *group, len(keys)])
                content += keys
        conditions = [
            [*condition[:4], condition.address.hex(), number[action], self.priorities.get(condition, 0)]
            for condition, action in sorted(self.table(CONDITIONS).items())
        ]
        head = {
            "format": FORMAT,
            "actions": actions,
            "groups": groups,
            "conditions": conditions,
            "defaults": [
                [version, number[action]] for version, action in sorted(self.table(DEFAULTS).items())
            ],
            "comments": sorted([*_portable(*match), text] for match, text in self.comments.items()),
        }
        line = json.dumps(head, separators=(",", ":"), sort_keys=True).encode()
        return b"".join([line, b"\n", *content])

    def described(self) -> str:
        """The policy in a file of the store."""
        return self.to_text()

    def to_text(self) -> str:
        return base64.b64encode(zlib.compress(self.packed(), 1)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Policy:
        """The inverse of ``to_text``. Raises PolicyError for anything else."""
        try:
            return cls._unpacked(zlib.decompress(base64.b64decode(text, validate=True)))
        except (ValueError, TypeError, KeyError, IndexError, OSError, struct.error, zlib.error) as problem:
            raise PolicyError(
                f"its content is damaged ({problem}); it is made by the action plugin"
            ) from problem

    @classmethod
    def _unpacked(cls, data: bytes) -> Policy:
        line, _newline, content = data.partition(b"\n")
        head = json.loads(line)
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}")
        _check(head)
        actions = [
            interned(Action(kind, tuple(NextHop(*hop) for hop in hops), pool, bool(strict), bool(liveness)))
            for kind, hops, pool, strict, liveness in head["actions"]
        ]
        tables: t.Dict[str, Table] = {name: {} for name in ADDRESS_TABLES}
        at = 0
        for name, action, length, count in head["groups"]:
            size = 16 if "6" in name else 4
            prefix = b"" if length < 0 else LENGTH.pack(length)
            end = at + size * count
            if end > len(content):
                raise ValueError("too short")
            keys = [content[place : place + size] for place in range(at, end, size)]
            if prefix:
                keys = [prefix + key for key in keys]
            tables[name].update(dict.fromkeys(keys, actions[action]))
            at = end
        tables[CONDITIONS], priorities = {}, {}
        for protocol, first, last, length, address, action, priority in head["conditions"]:
            condition = Condition(protocol, first, last, length, bytes.fromhex(address))
            tables[CONDITIONS][condition] = actions[action]
            if priority:
                priorities[condition] = priority
        tables[DEFAULTS] = {version: actions[action] for version, action in head["defaults"]}
        comments = {_native(name, key): text for name, key, text in head["comments"]}
        return cls(tables, priorities, comments)


GONE = "(gone)"  # after the index of a device that is no more; no device has a name with brackets and spaces
COMMENT_BYTES = 111  # struct note has room for 112 with the final zero


def _check(head: t.Mapping[str, t.Any]) -> None:
    """Refuse what no version of ours has packed: it may come from anywhere, and goes to the kernel and to logs."""
    for kind, hops, pool, strict, liveness in head["actions"]:
        texts = [pool, *(re.sub(rf"^\d+ {re.escape(GONE)}$", "gone", text) for hop in hops for text in hop)]
        sound = kind in (NEXT_HOPS, POOL, *VERDICTS) and len(hops) <= NEXT_HOPS_PER_ACTION
        sound = sound and all(
            isinstance(text, str) and text.isprintable() and " " not in text for text in texts
        )
        if (
            not sound
            or not all(len(hop) == 2 and hop[0] for hop in hops)
            or {strict, liveness} - {True, False}
        ):
            raise ValueError("an action")
        for _interface, address in hops:
            if address:
                socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    actions = range(len(head["actions"]))
    for name, action, length, count in head["groups"]:
        whole = 128 if "6" in name else 32
        exact = name.endswith("_exact")
        if name not in ADDRESS_TABLES or action not in actions or count < 0:
            raise ValueError("a table")
        if length != -1 if exact else not 0 <= length < whole:
            raise ValueError("a prefix length")
    for protocol, first, last, length, address, action, _priority in head["conditions"]:
        ports = (first, last) == (0, 0) or 1 <= first <= last <= 65535
        size = len(bytes.fromhex(address))
        if not (
            0 <= protocol < 256
            and ports
            and size in (4, 16)
            and 0 <= length <= 8 * size
            and action in actions
        ):
            raise ValueError("a condition")
    for version, action in head["defaults"]:
        if version not in (4, 6) or action not in actions:
            raise ValueError("a default")
    for _name, _key, text in head["comments"]:
        if not text.isprintable() or len(text.encode()) > COMMENT_BYTES:
            raise ValueError("a comment")


def _portable(name: str, key: t.Any) -> t.Tuple[str, t.Any]:
    """A match without the byte order of a host, for JSON."""
    if name == CONDITIONS:
        return name, [*key[:4], key.address.hex()]
    if name == DEFAULTS:
        return name, [key]
    address, length = prefix_of(name, key)
    return name, [length, address.hex()]


def _native(name: str, key: t.List[t.Any]) -> Match:
    if name == CONDITIONS:
        protocol, first, last, length, address = key
        return name, Condition(protocol, first, last, length, bytes.fromhex(address))
    if name == DEFAULTS:
        return name, key[0]
    side = SOURCES if name.startswith(SOURCES) else DESTINATIONS
    return address_match(side, bytes.fromhex(key[1]), key[0])


# --- matches --------------------------------------------------------------------------------------------------------------


def address_match(side: str, address: bytes, length: int) -> Match:
    """Table and key of a prefix; whole addresses have a table of their own. ``side`` is SOURCES or DESTINATIONS."""
    version = 4 if len(address) == 4 else 6
    if length == 8 * len(address):
        return f"{side}{version}_exact", address
    return f"{side}{version}", LENGTH.pack(length) + address


def prefix_of(table: str, key: bytes) -> t.Tuple[bytes, int]:
    """Address and prefix length of a key of one of ADDRESS_TABLES."""
    if table.endswith("_exact"):
        return key, 8 * len(key)
    return key[4:], int(LENGTH.unpack_from(key)[0])


def prefix_text(address: bytes, length: int) -> str:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, address)}/{length}"


def is_within(address: bytes, length: int, around: bytes, around_length: int) -> bool:
    """Whether a prefix lies in another of the same family, or is it."""
    if around_length > length or len(address) != len(around):
        return False
    shift = 8 * len(address) - around_length
    return int.from_bytes(address, "big") >> shift == int.from_bytes(around, "big") >> shift


def ports_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def match_item(table: str, key: t.Any) -> t.Dict[str, t.Any]:
    """A match in the words of the input."""
    if table == DEFAULTS:
        return {"family": f"ipv{key}"}
    if table == CONDITIONS:
        item: t.Dict[str, t.Any] = {
            "source": prefix_text(key.address, key.length),
            "protocol": PROTOCOL_NAMES.get(key.protocol, str(key.protocol)),
        }
        if not key.is_any_port:
            item["destination_port"] = ports_text(key.first, key.last)
        return item
    side = "source" if table.startswith(SOURCES) else "destination"
    return {side: prefix_text(*prefix_of(table, key))}


def match_text(table: str, key: t.Any) -> str:
    """A match on a line: ``source 10.0.0.0/8 protocol tcp destination_port 80``, ``default ipv4``."""
    if table == DEFAULTS:
        return f"default ipv{key}"
    return " ".join(f"{name} {value}" for name, value in match_item(table, key).items())


def action_item(action: Action) -> t.Dict[str, t.Any]:
    """An action in the words of the input."""
    item: t.Dict[str, t.Any] = {}
    if action.kind == NEXT_HOPS:
        if len(action.next_hops) == 1:
            (hop,) = action.next_hops
            item["interface"] = hop.interface
            if hop.address:
                item["next_hop"] = hop.address
        else:
            item["next_hops"] = [str(hop) for hop in action.next_hops]
    elif action.kind == POOL:
        item["pool"] = action.pool
    else:
        item["action"] = action.kind
    if action.strict:
        item["strict"] = True
    if not action.liveness:
        item["liveness"] = False
    return item


def entry_item(policy: Policy, table: str, key: t.Any) -> t.Dict[str, t.Any]:
    """An entry in the words of the input."""
    item = {**match_item(table, key), **action_item(policy.tables[table][key])}
    if table == CONDITIONS and key in policy.priorities:
        item["priority"] = policy.priorities[key]
    comment = policy.comments.get((table, key))
    if comment:
        item["comment"] = comment
    return item


def entry_text(policy: Policy, table: str, key: t.Any) -> str:
    """An entry on a line."""
    words = [f"{match_text(table, key)}: {policy.tables[table][key]}"]
    if table == CONDITIONS and key in policy.priorities:
        words.append(f"priority {policy.priorities[key]}")
    comment = policy.comments.get((table, key))
    if comment:
        words.append(f"# {comment}")
    return " ".join(words)


def matches(policy: Policy) -> t.Iterator[Match]:
    """All matches, table by table, each table in the order of its addresses."""
    for name in TABLES:
        table = policy.table(name)
        if name in ADDRESS_TABLES:
            for key in sorted(table, key=lambda key: _order(name, key)):
                yield name, key
        else:
            for key in sorted(table):
                yield name, key


def _order(name: str, key: bytes) -> t.Tuple[bytes, int]:
    return prefix_of(name, key)


# --- differences ----------------------------------------------------------------------------------------------------------


class Difference(t.NamedTuple):
    """The matches in which two policies differ, each list in order."""

    added: t.List[Match]
    removed: t.List[Match]
    changed: t.List[Match]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)

    def __str__(self) -> str:
        counts = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        return ", ".join(f"{len(found)} {name}" for name, found in counts if found)


_last_difference: t.Optional[t.Tuple[Policy, Policy, Difference]] = None


def difference(before: Policy, after: Policy) -> Difference:
    """What a run does; plan, result and log all ask for it, so the last answer is remembered."""
    global _last_difference  # noqa: PLW0603
    known = _last_difference
    if known is None or known[0] is not before or known[1] is not after:
        known = _last_difference = (before, after, _difference(before, after))
    return known[2]


def _difference(before: Policy, after: Policy) -> Difference:
    found = Difference([], [], [])
    for name in TABLES:
        had, has = before.table(name), after.table(name)
        if had == has:
            continue
        found.added.extend((name, key) for key in _sorted(name, has.keys() - had.keys()))
        found.removed.extend((name, key) for key in _sorted(name, had.keys() - has.keys()))
        found.changed.extend(
            (name, key)
            for key in _sorted(name, [key for key, action in has.items() if had.get(key, action) != action])
        )
    if before.priorities != after.priorities or before.comments != after.comments:
        listed = {*found.added, *found.removed, *found.changed}
        annotated = {
            (CONDITIONS, key)
            for key in {*before.priorities, *after.priorities}
            if before.priorities.get(key) != after.priorities.get(key)
        }
        annotated |= {
            match
            for match in {*before.comments, *after.comments}
            if before.comments.get(match) != after.comments.get(match)
        }
        found.changed.extend(sorted(annotated - listed, key=lambda match: match_text(*match)))
    return found


def _sorted(name: str, keys: t.Iterable[t.Any]) -> t.List[t.Any]:
    if name in ADDRESS_TABLES and not name.endswith("_exact"):
        return sorted(keys, key=lambda key: _order(name, key))
    return sorted(keys)


def change_lines(
    before: Policy, after: Policy, limit: int
) -> t.Tuple[t.List[str], t.List[str], t.Optional[str]]:
    """The entries that differ as lines, before and after, and a line on what is left out beyond ``limit`` entries."""
    found = difference(before, after)
    rows = [*found.changed, *found.removed, *found.added]
    old = [entry_text(before, *match) for match in rows[:limit] if match[1] in before.table(match[0])]
    new = [entry_text(after, *match) for match in rows[:limit] if match[1] in after.table(match[0])]
    return old, new, f"... and {len(rows) - limit} more entries" if len(rows) > limit else None


# --- conditions -----------------------------------------------------------------------------------------------------------


class Compiled(t.NamedTuple):
    """Conditions as the router looks them up: ports to classes, and in a class the longest source prefix.

    ``ports``: (protocol, port), port 0 for any, to the number of a class. ``rows``: by class, prefix to the condition that
    decides there.
    """

    ports: t.Dict[t.Tuple[int, int], int]
    rows: t.List[t.Dict[t.Tuple[bytes, int], Condition]]


def compiled(conditions: t.Iterable[Condition], priorities: t.Mapping[Condition, int]) -> Compiled:
    """Of the conditions that match a packet the one decides that has the lowest priority; among equals one that names a port
    goes before one that does not, then the longer source prefix, then the smaller range of ports.

    Raises PolicyError where that leaves two.
    """
    by_protocol: t.Dict[int, t.List[Condition]] = {}
    for condition in conditions:
        by_protocol.setdefault(condition.protocol, []).append(condition)
    result = Compiled({}, [])
    for protocol in sorted(by_protocol):
        _compile_protocol(protocol, sorted(by_protocol[protocol]), priorities, result)
    return result


def _compile_protocol(
    protocol: int, conditions: t.Sequence[Condition], priorities: t.Mapping[Condition, int], result: Compiled
) -> None:
    anywhere = [condition for condition in conditions if condition.is_any_port]
    ranged = [condition for condition in conditions if not condition.is_any_port]
    classes: t.Dict[t.Tuple[Condition, ...], int] = {}
    bounds = sorted({edge for each in ranged for edge in (each.first, each.last + 1)})
    for start, end in zip(bounds, bounds[1:]):
        covering = tuple(each for each in ranged if each.first <= start and each.last >= end - 1)
        if not covering:
            continue
        if covering not in classes:
            classes[covering] = len(result.rows)
            lowest = max(priorities.get(each, 0) for each in covering)
            rivals = [each for each in anywhere if priorities.get(each, 0) < lowest]
            result.rows.append(_decided([*covering, *(anywhere if rivals else ())], priorities))
        number = classes[covering]
        result.ports.update(((protocol, port), number) for port in range(start, end))
    if anywhere:
        result.ports[protocol, 0] = len(result.rows)
        result.rows.append(_decided(anywhere, priorities))


def _decided(
    conditions: t.Sequence[Condition], priorities: t.Mapping[Condition, int]
) -> t.Dict[t.Tuple[bytes, int], Condition]:
    """Which condition decides at each of their prefixes."""
    at: t.Dict[t.Tuple[bytes, int], Condition] = {}
    for condition in conditions:
        place = (condition.address, condition.length)
        other = at.get(place)
        at[place] = condition if other is None else _better(condition, other, priorities)
    if len({priorities.get(condition, 0) for condition in conditions}) == 1 and not (
        any(each.is_any_port for each in conditions) and not all(each.is_any_port for each in conditions)
    ):
        return at  # the longest prefix decides, as the trie does
    decided = {}
    for (address, length), condition in at.items():
        best = condition
        for shorter in range(length):
            other = at.get((cut(address, shorter), shorter))
            if other is not None and rank(other, priorities) < rank(best, priorities):
                best = other
        decided[address, length] = best
    return decided


def rank(condition: Condition, priorities: t.Mapping[Condition, int]) -> t.Tuple[int, bool, int, int]:
    width = condition.last - condition.first
    return priorities.get(condition, 0), condition.is_any_port, -condition.length, width


def _better(one: Condition, other: Condition, priorities: t.Mapping[Condition, int]) -> Condition:
    mine, theirs = rank(one, priorities), rank(other, priorities)
    if mine == theirs:
        raise PolicyError(
            f"{match_text(CONDITIONS, one)} and {match_text(CONDITIONS, other)} have ports in common; "
            f"give one of them a lower priority, which goes first"
        )
    return one if mine < theirs else other


def cut(address: bytes, length: int) -> bytes:
    """The address with zeros behind the prefix length."""
    shift = 8 * len(address) - length
    return (int.from_bytes(address, "big") >> shift << shift).to_bytes(len(address), "big")
