# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The tables of a loaded policy router (files/bpf/lib/policy.h): what they say, and how to make them say something else.

``Image`` is what the maps hold. ``policy_of`` and ``pools_of`` read it, ``writes_for_policy`` and ``writes_for_pool`` say what to
write for another policy: pure functions both, with the devices' names and indexes handed in. ``Router`` does the reading and
writing and decides nothing.

A packet meets the old entry or the new one and never neither: what an entry names is written before the entry, all entries are
put before others are dropped, and what nothing names any more is cleared when no program can still be looking at it.
"""

from __future__ import annotations

import array
import collections
import contextlib
import os
import socket
import struct
import typing as t

from .._errors import KernelError, PlanError
from .._kernel import bpf, bpffs
from . import maglev, pins
from .policy import (
    ADDRESS_TABLES,
    CONDITIONS,
    DEFAULTS,
    DESTINATIONS,
    DROP,
    EXEMPT,
    LENGTH,
    NEXT_HOPS,
    PASS,
    POOL,
    SOURCES,
    Action,
    Compiled,
    Condition,
    Match,
    NextHop,
    Policy,
    Table,
    address_match,
    compiled,
    interned,
    prefix_of,
)

PROGRAM, EXPLAIN = "policy_router", "explain"
CHOICE = struct.Struct("=II")  # action, counter
ACTION = struct.Struct("=4I6I")  # kind, flags, count, pool, next hops
NEXTHOP = struct.Struct("=II16s")  # ifindex, family, address
POOLS = struct.Struct("=4I2I")  # active, size, mode, flags, offsets
MATCH = struct.Struct("=4B2H16s")  # kind, family, prefix length, protocol, ports, address
NOTE = struct.Struct("=IIiI112s")  # action, counter, priority, 0, comment
PORT = struct.Struct("=BB2s")  # protocol, 0, port in network order
PROTOCOL = struct.Struct("=II")  # class, whether `ports` has any
CLASS = struct.Struct("=II")  # prefix length with the class, class
MEMBER = struct.Struct("=II")  # pool, next hop
INDEX = struct.Struct("=I")
COUNTER = struct.Struct("=4Q")  # packets, bytes, failures, last
NAME_BYTES, NETNS_BYTES = 32, 256
KINDS = (None, NEXT_HOPS, POOL, PASS, DROP, EXEMPT)  # enum action_kind
STRICT, CHECK = 1, 2  # enum action_flags
MODES = ("flow", "source", "random")  # enum pool_mode
SYMMETRIC = 1  # enum pool_flags
MATCH_KINDS = {1: CONDITIONS, 2: SOURCES, 3: DESTINATIONS, 4: DEFAULTS}  # enum match_kind
BROKEN = interned(Action("broken"))  # an index that leads nowhere; never wanted, so it is written anew
FEW_COUNTERS = 64  # that are looked up one by one rather than all read
TURN = 8192  # entries that are exchanged at a time when a map has no room for the old and the new
REGIONS = 2  # tables of a pool, one of them in use

# What a map's keys and values must measure for the structs above to fit.
LAYOUT = {
    **{
        f"{side}{version}_exact": (size, 8)
        for side in (SOURCES, DESTINATIONS)
        for version, size in ((4, 4), (6, 16))
    },
    **{
        f"{side}{version}": (4 + size, 8)
        for side in (SOURCES, DESTINATIONS)
        for version, size in ((4, 4), (6, 16))
    },
    "protocols": (4, PROTOCOL.size),
    "ports": (4, 4),
    "conditions4": (12, 8),
    "conditions6": (24, 8),
    "defaults": (4, 8),
    "actions": (4, ACTION.size),
    "nexthops": (4, NEXTHOP.size),
    "health": (4, 16),
    "pools": (4, POOLS.size),
    "members": (4, 4),
    "entry_counters": (4, COUNTER.size),
    "notes": (MATCH.size, NOTE.size),
    "pool_names": (NAME_BYTES, 4),
    "pool_members": (MEMBER.size, 4),
    "settings": (4, NETNS_BYTES),
}

Choice = t.Tuple[int, int]
NameOf = t.Callable[[int], str]  # of an interface index; anything that is no name when there is none
IndexOf = t.Callable[[str], int]


class Choices(t.NamedTuple):
    """The entries of one address table: keys with, at the same place, the indexes of action and counter."""

    keys: t.List[bytes]
    actions: t.Sequence[int]
    counters: t.Sequence[int]


class Image(t.NamedTuple):
    """What the maps of a router hold; of arrays only what is not zero. Keys and values as in lib/policy.h."""

    choices: t.Dict[str, Choices]
    protocols: t.Dict[int, bytes]
    ports: t.Dict[bytes, int]
    rows: t.Dict[bytes, Choice]  # conditions4 and conditions6, told apart by their size
    defaults: t.Dict[int, Choice]  # by IP version
    notes: t.Dict[bytes, bytes]
    actions: t.Dict[int, bytes]
    nexthops: t.Dict[int, bytes]
    pool_names: t.Dict[str, int]
    pool_members: t.Dict[t.Tuple[int, int], int]
    sizes: t.Dict[str, int]  # room of each map
    netns: str


class Step(t.NamedTuple):
    """One write: ``entries`` keys one behind the other, with as many values, or None to delete them."""

    map: str
    keys: bytes
    values: t.Optional[bytes]
    entries: int


GRACE = Step("", b"", b"", 0)  # wait for programs that are running


class Pool(t.NamedTuple):
    """A pool: members are next hops with weights; ``table`` names the slot's member (observed only)."""

    mode: str
    symmetric: bool
    members: t.Tuple[t.Tuple[NextHop, int], ...]
    is_whole: bool = True


# --- reading: pure --------------------------------------------------------------------------------------------------------


def hop_of(data: bytes, name_of: NameOf) -> NextHop:
    ifindex, family, address = NEXTHOP.unpack(data)
    text = ""
    if family:
        text = socket.inet_ntop(family, address[:4] if family == socket.AF_INET else address)
    return NextHop(name_of(ifindex), text)


def packed_hop(hop: NextHop, index_of: IndexOf) -> bytes:
    if not hop.address:
        return NEXTHOP.pack(index_of(hop.interface), 0, b"")
    family = socket.AF_INET6 if ":" in hop.address else socket.AF_INET
    return NEXTHOP.pack(index_of(hop.interface), family, socket.inet_pton(family, hop.address))


def actions_of(image: Image, name_of: NameOf) -> t.Dict[int, Action]:
    """The actions by index; one that names what is not there is BROKEN."""
    hops = {index: hop_of(data, name_of) for index, data in image.nexthops.items()}
    pools = {index: name for name, index in image.pool_names.items()}
    found = {}
    for index, data in image.actions.items():
        kind, flags, count, pool, *numbers = ACTION.unpack(data)
        name = KINDS[kind] if kind < len(KINDS) else None
        chosen = numbers[:count] if name == NEXT_HOPS else []
        if name is None or (name == POOL and pool not in pools) or not all(n in hops for n in chosen):
            found[index] = BROKEN
            continue
        leads = name in (NEXT_HOPS, POOL)
        found[index] = interned(
            Action(
                name,
                tuple(hops[n] for n in chosen),
                pools[pool] if name == POOL else "",
                bool(flags & STRICT),
                bool(flags & CHECK) if leads else True,
            )
        )
    return found


class _ByIndex(t.Dict[int, Action]):
    """Actions by index; BROKEN for one that is not there."""

    def __missing__(self, index: int) -> Action:
        return BROKEN


def policy_of(image: Image, name_of: NameOf) -> Policy:
    """What the router was told to do."""
    actions = _ByIndex(actions_of(image, name_of))
    tables: t.Dict[str, Table] = {
        name: dict(zip(choices.keys, map(actions.__getitem__, choices.actions)))
        for name, choices in image.choices.items()
    }
    conditions: Table = {}
    priorities: t.Dict[Condition, int] = {}
    comments: t.Dict[Match, str] = {}
    tables[DEFAULTS] = {
        version: actions[choice[0]] for version, choice in image.defaults.items() if choice[0]
    }
    for key, value in image.notes.items():
        match = match_of(key)
        action, _counter, priority, _pad, comment = NOTE.unpack(value)
        if match is None:
            continue
        if match[0] == CONDITIONS:
            conditions[match[1]] = actions[action]
            if priority:
                priorities[match[1]] = priority
        elif match[1] not in tables.get(match[0], ()):
            continue  # the note of an entry that is gone
        text = comment.split(b"\0")[0].decode("utf-8", "replace")
        if text:
            comments[match] = text
    tables[CONDITIONS] = conditions
    return Policy(tables, priorities, comments)


def match_of(key: bytes) -> t.Optional[Match]:
    """The match that a key of `notes` is about; None for what no version of ours has written."""
    kind, family, length, protocol, first, last, address = MATCH.unpack(key)
    packed = address[:4] if family == socket.AF_INET else address
    name = MATCH_KINDS.get(kind)
    if name == CONDITIONS:
        return CONDITIONS, Condition(protocol, first, last, length, packed)
    if name == DEFAULTS:
        return DEFAULTS, 4 if family == socket.AF_INET else 6
    return address_match(name, packed, length) if name else None


def packed_match(table: str, key: t.Any) -> bytes:
    """The inverse of ``match_of``."""
    if table == CONDITIONS:
        family = _family(key.address)
        return MATCH.pack(1, family, key.length, key.protocol, key.first, key.last, key.address)
    if table == DEFAULTS:
        return MATCH.pack(4, socket.AF_INET if key == 4 else socket.AF_INET6, 0, 0, 0, 0, b"")
    address, length = prefix_of(table, key)
    kind = 2 if table.startswith(SOURCES) else 3
    return MATCH.pack(kind, _family(address), length, 0, 0, 0, address)


def _family(address: bytes) -> int:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def port_key(protocol: int, port: int) -> bytes:
    """The key of `ports`, and of a protocol as such with port 0."""
    return PORT.pack(protocol, 0, struct.pack("!H", port))


def row_of(number: int, address: bytes, length: int) -> bytes:
    """The key of a condition's row: class and source prefix."""
    return CLASS.pack(32 + length, number) + address


def pools_of(
    image: Image, pools: t.Mapping[int, bytes], slots: t.Mapping[str, t.Sequence[int]], name_of: NameOf
) -> t.Dict[str, Pool]:
    """The pools by name. ``slots``: the table in use of each."""
    found = {}
    for name, index in image.pool_names.items():
        _active, _size, mode, flags, *_offsets = POOLS.unpack(pools.get(index, bytes(POOLS.size)))
        members = []
        for (pool, hop), weight in image.pool_members.items():
            if pool == index:
                data = image.nexthops.get(hop)
                members.append((hop_of(data, name_of) if data else NextHop(name_of(0)), weight, hop))
        members.sort()
        found[name] = Pool(
            MODES[mode] if mode < len(MODES) else str(mode),
            bool(flags & SYMMETRIC),
            tuple((hop, weight) for hop, weight, _number in members),
            _is_fair(slots.get(name, ()), {number: weight for _hop, weight, number in members}),
        )
    return found


def _is_fair(slots: t.Sequence[int], weights: t.Mapping[int, int]) -> bool:
    """Whether a table has slots of its weighted members only, and of each as many as it should."""
    weighted = [
        maglev.Member(f"{number:08x}", weight) for number, weight in sorted(weights.items()) if weight
    ]
    if not weighted:
        return not len(slots)
    if len(slots) not in maglev.SIZES:
        return False
    names = {int(member.name, 16): member.name for member in weighted}
    old = [names.get(slot) for slot in slots]
    return None not in old and maglev.is_settled(t.cast(t.List[str], old), weighted)


# --- writing: pure --------------------------------------------------------------------------------------------------------


class _Indexes:
    """Free places in an array whose index 0 means none."""

    def __init__(self, used: t.Iterable[int], room: int, what: str) -> None:
        self.used = set(used)
        self.room = room
        self.what = what
        self._next = 1

    def take(self) -> int:
        while self._next in self.used:
            self._next += 1
        if self._next >= self.room:
            raise PlanError(
                f"map {self.what} has room for {self.room - 1} and is full; give it more under maps of the object"
            )
        self.used.add(self._next)
        return self._next

    @property
    def free(self) -> int:
        return max(0, self.room - 1 - len(self.used))


class _Hops:
    """Indexes of next hops: those that are there, and new ones to be written."""

    def __init__(self, image: Image, index_of: IndexOf) -> None:
        self.index_of = index_of
        self.known = {data: index for index, data in sorted(image.nexthops.items(), reverse=True)}
        self.free = _Indexes(image.nexthops, image.sizes["nexthops"], "nexthops")
        self.fresh: t.Dict[int, bytes] = {}

    def index(self, hop: NextHop) -> int:
        data = packed_hop(hop, self.index_of)
        if data not in self.known:
            self.known[data] = self.free.take()
            self.fresh[self.known[data]] = data
        return self.known[data]

    def steps(self) -> t.List[Step]:
        """A next hop starts with no memory of who had its index before."""
        return [
            _put_indexes("health", dict.fromkeys(self.fresh, bytes(LAYOUT["health"][1]))),
            _put_indexes("nexthops", self.fresh),
        ]


def _put_indexes(name: str, rows: t.Mapping[int, bytes]) -> Step:
    order = sorted(rows)
    return Step(name, array.array("I", order).tobytes(), b"".join(rows[index] for index in order), len(order))


def _put(name: str, rows: t.Mapping[bytes, bytes]) -> Step:
    return Step(name, b"".join(rows), b"".join(rows.values()), len(rows))


def _delete(name: str, keys: t.Collection[bytes]) -> Step:
    return Step(name, b"".join(keys), None, len(keys))


def settings_step(netns: str) -> Step:
    """Remember in which namespace devices are looked up."""
    return _put_indexes("settings", {0: netns.encode().ljust(NETNS_BYTES, b"\0")})


class Writes(t.NamedTuple):
    """Steps in their order. ``again``: counters that become free could serve entries that have got none."""

    steps: t.List[Step]
    again: bool = False


def lacking_room(policy: Policy, sizes: t.Mapping[str, int]) -> t.Optional[str]:
    """What does not fit into the maps, and what to do."""
    for name in ADDRESS_TABLES:
        count = len(policy.table(name))
        if count > sizes[name]:
            return (
                f"{count} entries do not fit into map {name}, which has room for {sizes[name]}; "
                f"load the object with maps: {{{name}: {count + count // 4}}} or more"
            )
    found = compiled(policy.table(CONDITIONS), policy.priorities)
    if len(found.ports) > sizes["ports"]:
        return (
            f"{len(found.ports)} ports of conditional entries do not fit into map ports, which has room for {sizes['ports']}; "
            f"load the object with maps: {{ports: {len(found.ports)}}} or more"
        )
    notes = len(policy.table(CONDITIONS)) + sum(match[0] != CONDITIONS for match in policy.comments)
    if notes > sizes["notes"]:
        return f"{notes} conditional entries and comments do not fit into map notes ({sizes['notes']}); give it more under maps of the object"
    return None


def uncounted(image: Image, policy: Policy) -> int:
    """How many entries have no counter although one is free."""
    used: t.Set[int] = set()
    without = 0
    for choices in image.choices.values():
        used.update(choices.counters)
        without += sum(1 for counter in choices.counters if not counter) if 0 in choices.counters else 0
    own = [choice for choice in image.defaults.values() if choice[0]]
    own += [NOTE.unpack(value)[:2] for key, value in image.notes.items() if key[0] == 1]
    used.update(choice[1] for choice in own)
    without += sum(not choice[1] for choice in own)
    used.discard(0)
    return min(without, max(0, image.sizes["entry_counters"] - 1 - len(used)))


def counters_of(image: Image, matches: t.Collection[Match]) -> t.Dict[Match, int]:
    """The index of the counter of each of these entries that is there and has one."""
    keys: t.Dict[str, t.Set[t.Any]] = {}
    for table, key in matches:
        keys.setdefault(table, set()).add(key)
    found: t.Dict[Match, int] = {}
    for name, choices in image.choices.items():
        wanted = keys.get(name)
        if wanted:
            rows = zip(choices.keys, choices.counters)
            found.update(((name, key), counter) for key, counter in rows if key in wanted)
    for packed, value in image.notes.items():
        match = match_of(packed)
        if match is not None and match[0] == CONDITIONS and match[1] in keys.get(CONDITIONS, ()):
            found[match] = NOTE.unpack(value)[1]
    for version, choice in image.defaults.items():
        if choice[0] and version in keys.get(DEFAULTS, ()):
            found[(DEFAULTS, version)] = choice[1]
    return {match: counter for match, counter in found.items() if counter}


def going(image: Image, target: Policy) -> t.List[Match]:
    """The entries that ``target`` has not any more."""
    found: t.List[Match] = []
    for name, choices in image.choices.items():
        found += [(name, key) for key in set(choices.keys).difference(target.table(name))]
    notes = (match_of(packed) for packed in image.notes)
    conditions = target.table(CONDITIONS)
    found += [match for match in notes if match and match[0] == CONDITIONS and match[1] not in conditions]
    found += [(DEFAULTS, version) for version in image.defaults if version not in target.table(DEFAULTS)]
    return found


def writes_for_policy(image: Image, target: Policy, netns: str, name_of: NameOf, index_of: IndexOf) -> Writes:
    """How to make a router do what ``target`` says."""
    return _PolicyWriter(image, target, name_of, index_of).writes(netns)


class _PolicyWriter:
    def __init__(self, image: Image, target: Policy, name_of: NameOf, index_of: IndexOf) -> None:
        self.image = image
        self.target = target
        self.hops = _Hops(image, index_of)
        self.action_indexes = _Indexes(image.actions, image.sizes["actions"], "actions")
        self.fresh_actions: t.Dict[int, bytes] = {}
        self.number_of = self._numbers()
        self.noted = {
            match: NOTE.unpack(value)
            for match, value in ((match_of(key), value) for key, value in image.notes.items())
            if match is not None
        }
        self.counters = _Indexes(self._used_counters(), image.sizes["entry_counters"], "entry_counters")
        self.freed: t.Set[int] = set()
        self.puts: t.List[Step] = []
        self.drops: t.List[t.List[Step]] = []
        self.waiting: t.List[t.Tuple[str, t.List[bytes], t.List[int]]] = []  # entries without a counter
        self.short = False  # whether anything else had to do without one

    def writes(self, netns: str) -> Writes:
        # What goes before others in the chain comes first and goes last. Only the turning of ports to other classes, which
        # may uncover what is behind the conditions, waits until all that is there.
        self._conditions()
        for name in ADDRESS_TABLES:
            self._table(name)
        self._defaults()
        self.puts += self.turned
        self._notes()
        steps = self.hops.steps()
        steps.append(_put_indexes("actions", self.fresh_actions))
        if netns != self.image.netns:
            steps.append(settings_step(netns))
        steps += self.puts + [step for turns in reversed(self.drops) for step in turns]
        cleared = self._cleared()
        if any(step.entries for step in cleared):
            steps += [GRACE, *cleared, *self._late_counters()]
        steps = [step for step in steps if step.entries or step is GRACE]
        return Writes(steps, self.short and bool(self.freed))

    def _late_counters(self) -> t.List[Step]:
        """Counters that have just become free, for entries that got none when they were put."""
        free = sorted(self.freed)
        steps = []
        for name, keys, numbers in self.waiting:
            served, free = free[: len(keys)], free[len(keys) :]
            steps.append(self._put_choices(name, keys[: len(served)], numbers[: len(served)], served))
        self.freed = set(free)
        return steps

    # --- indexes ----------------------------------------------------------------------------------------------------

    def _numbers(self) -> t.Dict[Action, int]:
        """The index of each wanted action: one whose bytes are there already, or a new one."""
        known = {data: index for index, data in sorted(self.image.actions.items(), reverse=True)}
        numbers = {}
        for action in self.target.actions():
            data = self._packed(action)
            if data not in known:
                known[data] = self.action_indexes.take()
                self.fresh_actions[known[data]] = data
            numbers[action] = known[data]
        return numbers

    def _packed(self, action: Action) -> bytes:
        flags = (STRICT if action.strict else 0) | (CHECK if action.liveness else 0)
        try:
            numbers = [self.hops.index(hop) for hop in action.next_hops]
        except ValueError as problem:
            raise PlanError(
                f"an entry names what is no longer there ({action}); declare it anew, or remove it by exclusive: true"
            ) from problem
        pool = 0
        if action.kind == POOL:
            if action.pool not in self.image.pool_names:
                raise PlanError(f"there is no pool {action.pool}; declare it under bpf_pool")
            pool = self.image.pool_names[action.pool]
        elif action.kind != NEXT_HOPS:
            flags = 0
        padding = [0] * (6 - len(numbers))
        return ACTION.pack(KINDS.index(action.kind), flags, len(numbers), pool, *numbers, *padding)

    def _used_counters(self) -> t.Set[int]:
        used: t.Set[int] = set()
        for choices in self.image.choices.values():
            used.update(choices.counters)
        used.update(counter for _action, counter in self.image.defaults.values())
        used.update(counter for _action, counter in self.image.rows.values())
        used.update(note[1] for match, note in self.noted.items() if match[0] == CONDITIONS)
        used.discard(0)
        return used

    def _drop(self, step: Step) -> None:
        self.drops.append([step])

    def _counter(self) -> int:
        if self.counters.free:
            return self.counters.take()
        self.short = True
        return 0

    # --- tables -----------------------------------------------------------------------------------------------------

    def _table(self, name: str) -> None:
        wanted = self.target.table(name)
        had = self.image.choices.get(name)
        numbers_of = {id(action): number for action, number in self.number_of.items()}
        target = {key: numbers_of[id(action)] for key, action in wanted.items()}
        if had is None or not had.keys:
            if target:
                self.puts.append(self._choices(name, list(target), target, {}))
            return
        current = dict(zip(had.keys, had.actions))
        self.short = self.short or 0 in had.counters
        if current == target and not (self.counters.free and 0 in had.counters):
            return
        counter_of = dict(zip(had.keys, had.counters))
        keys = [
            key
            for key, number in target.items()
            if current.get(key) != number or (not counter_of[key] and self.counters.free)
        ]
        if not name.endswith("_exact"):
            keys.sort(
                key=lambda key: -LENGTH.unpack_from(key)[0]
            )  # the narrower before the wider, for the same reason
        gone = [key for key in current if key not in target]
        if not name.endswith("_exact"):
            gone.sort(key=LENGTH.unpack_from)  # and the wider goes before the narrower
        self.freed.update(counter_of[key] for key in gone)
        room = self.image.sizes[name] - len(current)
        known = [key for key in keys if key in current]
        fresh = [key for key in keys if key not in current] if len(known) < len(keys) else []
        if len(fresh) <= room:
            self.puts.append(self._choices(name, keys, target, counter_of))
            self.drops.append([_delete(name, gone)])
            return
        # Without room for the old and the new at once, they take turns.
        self.puts.append(self._choices(name, known + fresh[:room], target, counter_of))
        turns = []
        for start in range(0, len(gone), TURN):
            turns.append(_delete(name, gone[start : start + TURN]))
            place = room + start
            turns.append(self._choices(name, fresh[place : place + TURN], target, counter_of))
        self.drops.append(turns)

    def _choices(
        self, name: str, keys: t.List[bytes], target: t.Mapping[bytes, int], counter_of: t.Mapping[bytes, int]
    ) -> Step:
        """The step that puts these keys, with the counters that they have, or new ones."""
        had = [counter_of.get(key, 0) for key in keys]
        fresh = iter(self._new_counters(had.count(0)))
        counters = [counter or next(fresh) for counter in had]
        numbers = [target[key] for key in keys]
        if 0 in counters:
            without = [place for place, counter in enumerate(counters) if not counter]
            self.waiting.append((name, [keys[at] for at in without], [numbers[at] for at in without]))
        return self._put_choices(name, keys, numbers, counters)

    def _new_counters(self, count: int) -> t.List[int]:
        served = min(count, self.counters.free)
        return [self.counters.take() for _number in range(served)] + [0] * (count - served)

    @staticmethod
    def _put_choices(name: str, keys: t.List[bytes], numbers: t.List[int], counters: t.List[int]) -> Step:
        values = array.array("I", bytes(8 * len(keys)))
        values[0::2] = array.array("I", numbers)
        values[1::2] = array.array("I", counters)
        return Step(name, b"".join(keys), values.tobytes(), len(keys))

    def _conditions(self) -> None:
        wanted = self.target.table(CONDITIONS)
        plan = compiled(wanted, self.target.priorities)
        self.condition_choices = {
            condition: (self.number_of[action], self._noted_counter(condition))
            for condition, action in wanted.items()
        }
        numbers = self._class_numbers(plan)
        rows: t.Dict[bytes, Choice] = {}
        for place, decided in enumerate(plan.rows):
            for (address, length), condition in decided.items():
                rows[row_of(numbers[place], address, length)] = self.condition_choices[condition]
        new = {
            key: CHOICE.pack(*rows[key])
            for key in sorted(rows, key=LENGTH.unpack_from, reverse=True)
            if self.image.rows.get(key) != rows[key]
        }
        gone = sorted((key for key in self.image.rows if key not in rows), key=LENGTH.unpack_from)
        for name in ("conditions4", "conditions6"):
            size = LAYOUT[name][0]
            self.puts.append(_put(name, {key: value for key, value in new.items() if len(key) == size}))
            self._drop(_delete(name, [key for key in gone if len(key) == size]))
        self._turn_ports(plan, numbers)
        kept = {counter for _action, counter in self.condition_choices.values()}
        self.freed.update(
            note[1] for match, note in self.noted.items() if match[0] == CONDITIONS and note[1] not in kept
        )

    def _turn_ports(self, plan: Compiled, numbers: t.Sequence[int]) -> None:
        """Lead protocols and ports to their classes; that a protocol has ports is known before they are there, and after."""
        ports = {port_key(*port): numbers[place] for port, place in plan.ports.items() if port[1]}
        own = {protocol: numbers[place] for (protocol, port), place in plan.ports.items() if not port}
        having = {protocol for protocol, port in plan.ports if port}
        still = {key[0] for key in self.image.ports}
        before = {
            protocol: PROTOCOL.pack(own.get(protocol, 0), protocol in having or protocol in still)
            for protocol in {*own, *having, *self.image.protocols}
        }
        after = {protocol: PROTOCOL.pack(own.get(protocol, 0), protocol in having) for protocol in before}
        had = {protocol: self.image.protocols.get(protocol, bytes(PROTOCOL.size)) for protocol in before}
        turned = {key: INDEX.pack(n) for key, n in ports.items() if self.image.ports.get(key) != n}
        # A class that goes is not taken away before the ports' own are there to be found in its place.
        kept = {
            protocol: PROTOCOL.pack(
                own.get(protocol) or PROTOCOL.unpack(had[protocol])[0], PROTOCOL.unpack(before[protocol])[1]
            )
            for protocol in before
        }
        self.turned = [
            _put_indexes("protocols", {key: row for key, row in kept.items() if row != had[key]}),
            _put("ports", turned),
        ]
        self._drop(_put_indexes("protocols", {key: row for key, row in after.items() if row != kept[key]}))
        self._drop(_delete("ports", [key for key in self.image.ports if key not in ports]))

    def _noted_counter(self, condition: Condition) -> int:
        note = self.noted.get((CONDITIONS, condition))
        return (note[1] if note else 0) or self._counter()

    def _class_numbers(self, plan: t.Any) -> t.List[int]:
        """A class that has just the same ports keeps its number; others get one that no port leads to."""
        had: t.Dict[int, t.List[bytes]] = {}
        for key, number in self.image.ports.items():
            had.setdefault(number, []).append(key)
        for protocol, data in self.image.protocols.items():
            number = PROTOCOL.unpack(data)[0]
            if number:
                had.setdefault(number, []).append(port_key(protocol, 0))
        known = {frozenset(keys): number for number, keys in had.items()}
        wanted: t.Dict[int, t.List[bytes]] = {}
        for (protocol, port), place in plan.ports.items():
            wanted.setdefault(place, []).append(port_key(protocol, port))
        used = {*had, *(CLASS.unpack_from(key)[1] for key in self.image.rows)}
        numbers, fresh = [], 1
        for place in range(len(plan.rows)):
            same = known.get(frozenset(wanted.get(place, ())))
            if same is None:
                while fresh in used:
                    fresh += 1
                used.add(fresh)
            numbers.append(fresh if same is None else same)
        return numbers

    def _defaults(self) -> None:
        rows: t.Dict[bool, t.Dict[int, bytes]] = {True: {}, False: {}}  # by whether there is one
        for version in (4, 6):
            action = self.target.table(DEFAULTS).get(version)
            had = self.image.defaults.get(version, (0, 0))
            choice = (self.number_of[action], had[1] or self._counter()) if action is not None else (0, 0)
            if not choice[0]:
                self.freed.add(had[1])
            if choice != had:
                rows[bool(choice[0])][int(version == 6)] = CHOICE.pack(*choice)
        self.puts.append(_put_indexes("defaults", rows[True]))
        self._drop(_put_indexes("defaults", rows[False]))

    def _notes(self) -> None:
        wanted: t.Dict[bytes, bytes] = {}
        comments = self.target.comments
        for condition, choice in self.condition_choices.items():
            comment = comments.get((CONDITIONS, condition), "").encode()
            priority = self.target.priorities.get(condition, 0)
            wanted[packed_match(CONDITIONS, condition)] = NOTE.pack(*choice, priority, 0, comment)
        for (table, key), text in comments.items():
            if table != CONDITIONS and key in self.target.table(table):
                wanted[packed_match(table, key)] = NOTE.pack(0, 0, 0, 0, text.encode())
        fresh = {key: value for key, value in wanted.items() if self.image.notes.get(key) != value}
        gone = _delete("notes", [key for key in self.image.notes if key not in wanted])
        if len(self.image.notes) + len(fresh) > self.image.sizes["notes"]:
            self.puts.append(gone)  # no packet looks at them
        else:
            self._drop(gone)
        self.puts.append(_put("notes", fresh))

    # --- what nothing names any more --------------------------------------------------------------------------------

    def _cleared(self) -> t.List[Step]:
        used = set(self.number_of.values())
        unused = [index for index in self.image.actions if index not in used]
        hops = {number for _pool, number in self.image.pool_members}
        for index in used:
            data = self.fresh_actions.get(index) or self.image.actions[index]
            _kind, _flags, count, _pool, *numbers = ACTION.unpack(data)
            hops.update(numbers[:count])
        idle = [index for index in self.image.nexthops if index not in hops]
        self.freed.discard(0)
        return [
            _put_indexes("actions", dict.fromkeys(unused, bytes(ACTION.size))),
            _put_indexes("nexthops", dict.fromkeys(idle, bytes(NEXTHOP.size))),
            _put_indexes("entry_counters", dict.fromkeys(self.freed, b"")),
        ]


# --- pools: pure ----------------------------------------------------------------------------------------------------------


class PoolState(t.NamedTuple):
    """The pools as the kernel has them: structs by index, and the table in use of each, by index."""

    pools: t.Dict[int, bytes]
    slots: t.Dict[int, t.List[int]]


def users_of_pool(image: Image, name: str) -> int:
    """How many actions that something may name lead to a pool."""
    index = image.pool_names.get(name)
    return sum(
        ACTION.unpack(data)[0] == KINDS.index(POOL) and ACTION.unpack(data)[3] == index
        for data in image.actions.values()
    )


def writes_for_pool(
    image: Image, state: PoolState, name: str, target: t.Optional[Pool], index_of: IndexOf
) -> t.List[Step]:
    """How to make a pool what ``target`` says, None for no pool. Slots of members that stay are left where they are."""
    return _PoolWriter(image, state, name, index_of).steps(target)


class _PoolWriter:
    def __init__(self, image: Image, state: PoolState, name: str, index_of: IndexOf) -> None:
        self.image = image
        self.state = state
        self.name = name
        self.hops = _Hops(image, index_of)
        self.index = image.pool_names.get(name, 0)
        self.key = name.encode().ljust(NAME_BYTES, b"\0")
        self.members: t.Dict[int, NextHop] = {}

    def steps(self, target: t.Optional[Pool]) -> t.List[Step]:
        had = {hop: weight for (pool, hop), weight in self.image.pool_members.items() if pool == self.index}
        if target is None:
            return self._removed(had)
        self.members = {self.hops.index(hop): hop for hop, _weight in target.members}
        weights = {self.hops.index(hop): weight for hop, weight in target.members}
        old = self.state.slots.get(self.index, []) if self.index else []
        slots = self._slots(old, weights, len(target.members))
        index = self.index
        if not index or (len(slots) != len(old) and old):
            used = {*self.state.pools, *self.image.pool_names.values()}
            index = _Indexes(used, self.image.sizes["pools"], "pools").take()
        steps = self.hops.steps() + self._filled(index, slots, target)
        members = {(index, hop): weight for hop, weight in weights.items()}
        current = {
            key: weight for key, weight in self.image.pool_members.items() if key[0] in (self.index, index)
        }
        steps.append(
            _put(
                "pool_members",
                {MEMBER.pack(*k): INDEX.pack(w) for k, w in members.items() if current.get(k) != w},
            )
        )
        if index != self.image.pool_names.get(self.name):
            steps.append(_put("pool_names", {self.key: INDEX.pack(index)}))
        if self.index and index != self.index:
            steps.append(_put_indexes("actions", self._moved_actions(index)))
        steps.append(_delete("pool_members", [MEMBER.pack(*key) for key in current if key not in members]))
        gone = {self.index: bytes(POOLS.size)} if self.index and index != self.index else {}
        return self._finished(steps, gone, set(weights))

    def _removed(self, had: t.Mapping[int, int]) -> t.List[Step]:
        steps = [
            _delete("pool_names", [self.key] if self.name in self.image.pool_names else []),
            _delete("pool_members", [MEMBER.pack(self.index, hop) for hop in had]),
        ]
        return self._finished(
            steps, {self.index: bytes(POOLS.size)} if self.index in self.state.pools else {}, set()
        )

    def _finished(self, steps: t.List[Step], pools: t.Mapping[int, bytes], kept: t.Set[int]) -> t.List[Step]:
        """With what nothing names any more cleared behind a grace."""
        used = set(kept)
        used.update(hop for (pool, hop), _weight in self.image.pool_members.items() if pool != self.index)
        for data in self.image.actions.values():
            _kind, _flags, count, _pool, *numbers = ACTION.unpack(data)
            used.update(numbers[:count])
        idle = {index: bytes(NEXTHOP.size) for index in self.image.nexthops if index not in used}
        cleared = [
            step for step in (_put_indexes("pools", pools), _put_indexes("nexthops", idle)) if step.entries
        ]
        steps = [step for step in steps if step.entries]
        return [*steps, GRACE, *cleared] if cleared else steps

    def _slots(self, old: t.Sequence[int], weights: t.Mapping[int, int], declared: int) -> t.List[int]:
        """The next hop of each slot: repaired where a table is there that is large enough, else new."""
        named = self._names({*weights, *old})
        members = [maglev.Member(named[hop], weight) for hop, weight in sorted(weights.items())]
        if not any(member.weight for member in members):
            return []
        numbers = sorted(weights)
        size = maglev.size_for(declared)
        if len(old) >= size and len(old) in maglev.SIZES:
            return [numbers[slot] for slot in maglev.repaired([named[hop] for hop in old], members)]
        return [numbers[slot] for slot in maglev.table(members, size)]

    def _names(self, indexes: t.Iterable[int]) -> t.Dict[int, str]:
        """What a member's place in the table depends on: its address, which all hosts have in common; where that does not tell
        members apart, also its device."""
        hops = {index: self.members.get(index) for index in indexes}
        shared = collections.Counter(hop.address for hop in hops.values() if hop)
        return {
            index: f"gone {index}"
            if hop is None
            else hop.address
            if hop.address and shared[hop.address] == 1 and not hop.address.startswith("fe80:")
            else str(hop)
            for index, hop in hops.items()
        }

    def _filled(self, index: int, slots: t.Sequence[int], target: Pool) -> t.List[Step]:
        """The table that is not in use is filled, then the pool turns to it: by one word, as its size stays."""
        flags = SYMMETRIC if target.symmetric else 0
        mode = MODES.index(target.mode)
        old = self.state.pools.get(index)
        if old is None:
            offset = self._region(REGIONS * len(slots)) if slots else 0
            head = (0, len(slots), mode, flags, offset, offset + len(slots))
            return [self._members(offset, slots), _put_indexes("pools", {index: POOLS.pack(*head)})]
        active, size, _mode, _flags, *offsets = POOLS.unpack(old)
        if list(slots) == self.state.slots.get(index, []):
            return [_put_indexes("pools", {index: POOLS.pack(active, size, mode, flags, *offsets)})]
        if not slots:
            return [_put_indexes("pools", {index: POOLS.pack(active, 0, mode, flags, *offsets)})]
        if not size:
            offset = self._region(REGIONS * len(slots))
            offsets, active = [offset, offset + len(slots)], 1
        other = 1 - (active & 1)
        return [
            self._members(offsets[other], slots),
            _put_indexes("pools", {index: POOLS.pack(other, len(slots), mode, flags, *offsets)}),
        ]

    @staticmethod
    def _members(offset: int, slots: t.Sequence[int]) -> Step:
        keys = array.array("I", range(offset, offset + len(slots))).tobytes()
        return Step("members", keys, array.array("I", slots).tobytes(), len(slots))

    def _region(self, size: int) -> int:
        """The first place in `members` where a run of that many slots is free."""
        taken = []
        for data in self.state.pools.values():
            _active, length, _mode, _flags, *offsets = POOLS.unpack(data)
            taken += [(offset, offset + length) for offset in offsets if length]
        start = 0
        for begin, end in sorted(taken):
            if begin - start >= size:
                break
            start = max(start, end)
        if start + size > self.image.sizes["members"]:
            raise PlanError(
                f"map members has no room for {size} slots in a row; give it more under maps of the object"
            )
        return start

    def _moved_actions(self, index: int) -> t.Dict[int, bytes]:
        """The actions that lead to the old pool, leading to the new one: one word of each changes."""
        moved = {}
        for number, data in self.image.actions.items():
            kind, flags, count, pool, *hops = ACTION.unpack(data)
            if KINDS[kind] == POOL and pool == self.index:
                moved[number] = ACTION.pack(kind, flags, count, index, *hops)
        return moved


# --- the kernel's part ----------------------------------------------------------------------------------------------------


class Router:
    """The open maps of a loaded router."""

    def __init__(self, topology: str, name: str) -> None:
        self.topology, self.name = topology, name
        self._fds: t.Dict[str, int] = {}
        self._infos: t.Dict[str, bpf.MapInfo] = {}

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_exception: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def fd(self, name: str) -> int:
        if name not in self._fds:
            try:
                self._fds[name] = bpf.get_pinned(pins.map_pin(self.topology, self.name, name))
            except KernelError as problem:
                if problem.name != "ENOENT":
                    raise
                raise PlanError(
                    f"bpf_object {self.topology}/{self.name} has no map {name}: it is no policy router; load policy_router.bpf.c"
                ) from problem
        return self._fds[name]

    def info(self, name: str) -> bpf.MapInfo:
        if name not in self._infos:
            info = bpf.map_info(self.fd(name))
            if (info.key_size, info.value_size) != LAYOUT[name]:
                raise PlanError(
                    f"bpf_object {self.topology}/{self.name}: map {name} has another layout; load policy_router.bpf.c of this version"
                )
            self._infos[name] = info
        return self._infos[name]

    def dump(self, name: str) -> t.Tuple[bytes, bytes]:
        return bpf.map_dump(self.fd(name), self.info(name))

    def items(self, name: str) -> t.Dict[bytes, bytes]:
        return dict(bpf.map_items(self.fd(name), self.info(name)))

    def filled(self, name: str) -> t.Dict[int, bytes]:
        """The elements of an array that are not zero."""
        _keys, values = self.dump(name)
        size = self.info(name).value_size
        end = -(-len(values.rstrip(b"\0")) // size)
        zero = bytes(size)
        rows = ((index, values[index * size : (index + 1) * size]) for index in range(end))
        return {index: row for index, row in rows if row != zero}

    def choices(self, name: str) -> Choices:
        keys, values = self.dump(name)
        size = self.info(name).key_size
        words = array.array("I")
        words.frombytes(values)
        return Choices([keys[at : at + size] for at in range(0, len(keys), size)], words[0::2], words[1::2])

    def image(self) -> Image:
        rows: t.Dict[bytes, Choice] = {}
        for name in ("conditions4", "conditions6"):
            rows.update(
                (key, t.cast(Choice, CHOICE.unpack(value))) for key, value in self.items(name).items()
            )
        return Image(
            choices={name: self.choices(name) for name in ADDRESS_TABLES},
            protocols=self.filled("protocols"),
            ports={key: INDEX.unpack(value)[0] for key, value in self.items("ports").items()},
            rows=rows,
            defaults={
                6 if index else 4: t.cast(Choice, CHOICE.unpack(value))
                for index, value in self.filled("defaults").items()
            },
            notes=self.items("notes"),
            **self._shared(),
        )

    def _shared(self) -> t.Dict[str, t.Any]:
        return {
            "actions": self.filled("actions"),
            "nexthops": self.filled("nexthops"),
            "pool_names": {
                key.rstrip(b"\0").decode("ascii", "replace"): INDEX.unpack(value)[0]
                for key, value in self.items("pool_names").items()
            },
            "pool_members": {
                t.cast(t.Tuple[int, int], MEMBER.unpack(key)): INDEX.unpack(value)[0]
                for key, value in self.items("pool_members").items()
            },
            "sizes": {name: self.info(name).max_entries for name in LAYOUT},
            "netns": self.netns(),
        }

    def pool_image(self) -> Image:
        """The image without the entries, which pools have nothing to do with."""
        return Image(choices={}, protocols={}, ports={}, rows={}, defaults={}, notes={}, **self._shared())

    def netns(self) -> str:
        raw = bpf.map_lookup(self.fd("settings"), bytes(4), self.info("settings").value_size) or b""
        return raw.partition(b"\0")[0].decode("utf-8", "replace")

    def nexthops(self) -> t.Dict[int, bytes]:
        return self.filled("nexthops")

    def pool_state(self) -> PoolState:
        pools = self.filled("pools")
        _keys, values = self.dump("members") if pools else (b"", b"")
        words = array.array("I")
        words.frombytes(values)
        slots = {}
        for index, data in pools.items():
            active, size, _mode, _flags, *offsets = POOLS.unpack(data)
            start = offsets[active & 1]
            slots[index] = list(words[start : start + size])
        return PoolState(pools, slots)

    def counters(self, indexes: t.Collection[int]) -> t.Dict[int, t.Tuple[int, int, int, int]]:
        """packets, bytes and failures over all CPUs, and the last time, of entry counters that are not zero."""
        found = {}
        for index, row in self.counted(indexes).items() if indexes else ():
            packets, octets, failures, last = zip(
                *(COUNTER.unpack_from(row, at) for at in range(0, len(row), COUNTER.size))
            )
            found[index] = (sum(packets), sum(octets), sum(failures), max(last))
        return found

    def counted(self, indexes: t.Collection[int]) -> t.Dict[int, bytes]:
        """The entry counters that are not zero, as they are: a struct for each CPU."""
        size = bpf.entry_size(self.info("entry_counters"))
        zero = bytes(size)
        return {index: row for index, row in self._counter_rows(indexes, size).items() if row != zero}

    def count_on(self, rows: t.Mapping[int, bytes]) -> None:
        """Let entry counters go on from what others had counted."""
        self.write([_put_indexes("entry_counters", rows)])

    def _counter_rows(self, indexes: t.Collection[int], size: int) -> t.Dict[int, bytes]:
        if len(indexes) > FEW_COUNTERS:
            _keys, values = self.dump("entry_counters")
            return {index: values[index * size : (index + 1) * size] for index in indexes}
        fd = self.fd("entry_counters")
        rows = {index: bpf.map_lookup(fd, INDEX.pack(index), size) for index in indexes}
        return {index: row for index, row in rows.items() if row is not None}

    def write(self, steps: t.Sequence[Step]) -> None:
        for step in steps:
            if step is GRACE:
                bpf.wait_for_programs()
            else:
                self._write(step)

    def _write(self, step: Step) -> None:
        fd, info = self.fd(step.map), self.info(step.map)
        try:
            if step.values is None:
                keys = [step.keys[at : at + info.key_size] for at in range(0, len(step.keys), info.key_size)]
                bpf.map_delete_batch(fd, keys)
                return
            size = bpf.entry_size(info)
            values = step.values
            chunk = max(1, (8 << 20) // size) if info.type in bpf.PERCPU_TYPES else step.entries
            for start in range(0, step.entries, chunk):
                count = min(chunk, step.entries - start)
                part = values[start * size : (start + count) * size] or bytes(count * size)
                keys_part = step.keys[start * info.key_size : (start + count) * info.key_size]
                bpf.map_write(fd, keys_part, part, count)
        except KernelError as problem:
            if problem.name != "E2BIG":
                raise
            raise PlanError(
                f"map {step.map} of object {self.topology}/{self.name} has room for {info.max_entries} entries; "
                f"give it more under maps of the object"
            ) from problem


@contextlib.contextmanager
def opened(topology: str, name: str) -> t.Iterator[t.Optional[Router]]:
    """The router that is loaded as an object; None when there is no such object."""
    if not bpffs.list_pins(pins.directory_of(topology, name, pins.MAPS)):
        yield None
        return
    with Router(topology, name) as router:
        yield router
