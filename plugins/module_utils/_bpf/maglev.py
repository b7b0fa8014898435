# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Which member of a pool a slot belongs to: weighted Maglev (Eisenbud et al., NSDI 2016), repaired when members change. Pure.

Each member goes through the slots in an order of its own, which its name alone decides, and takes the next open one when it
is its turn; turns are in proportion to weights. What is promised, with 100 slots or more for each member:

- Every slot has a member. A member has its exact share rounded down or up, and at least one slot: its part of the table is
  within 1 % of the table of what its weight asks for, and with equal weights within 1 % of that part.
- ``table`` depends on names, weights and size only: every host builds the same. But built anew without one member it moves
  slots of the others too: about 1.8 % of them, in three cases of ten more than 2 %, with few members at times over 10 %.
- ``repaired`` changes the fewest slots that the first promise allows, whatever has changed. When a member leaves or is
  drained, another one loses one slot at most, all together less than 1 %, and nearly always none: only when shares are
  rounded anew. But it depends on the table before, so hosts with another history have another table.

In between is ``repaired(owners(table(declared, size), declared), up)``, always from the table of all declared members: every
host has the same, the first that fails moves what is said above, a second one at the same time about 1 % of the others' slots
(at times 3 %), and who comes back gets its own slots again.
"""

from __future__ import annotations

import hashlib
import typing as t

from .._errors import CnfError

SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)  # primes: any step visits every slot
SLOTS_PER_MEMBER = 100
_MOMENT_BITS = 40  # tells all fractions apart whose denominators are below 2**20


class MaglevError(CnfError):
    """No table can be built of these members, or of this size. The caller names the pool."""


class Member(t.NamedTuple):
    """``name`` is the identity; ``weight`` is relative to the others', 0 for a drained member, which gets no slot."""

    name: str
    weight: int


def size_for(members: int) -> int:
    """The smallest of SIZES with 100 slots for each member.

    Another size moves nearly everything: choose it for the members that there may be, and keep it while it suffices.
    """
    wanted = SLOTS_PER_MEMBER * members
    for size in SIZES:
        if size >= wanted:
            return size
    raise MaglevError(
        f"{members} members: at most {SIZES[-1] // SLOTS_PER_MEMBER} fit in a table; split the pool"
    )


def table(members: t.Sequence[Member], size: int) -> t.List[int]:
    """The index in ``members`` for each of ``size`` slots, whatever their order in the list. ``size`` is one of SIZES."""
    return repaired([None] * size, members)


def repaired(old: t.Sequence[t.Optional[str]], members: t.Sequence[Member]) -> t.List[int]:
    """The index in ``members`` for each slot, with as few slots changed as the members' shares allow.

    ``old`` has the name of each slot's member (see ``owners``), None where there was none; names that are not among the
    members with a weight have left. The outcome depends on ``old``, names and weights, not on the order of the list.
    """
    size = len(old)
    _check(members, size)
    order = sorted(
        (index for index, member in enumerate(members) if member.weight), key=lambda i: members[i].name
    )
    names = [members[index].name for index in order]
    nobody = len(order)
    place: t.Dict[t.Optional[str], int] = {name: number for number, name in enumerate(names)}
    owner = [place.get(name, nobody) for name in old]
    had = [0] * (nobody + 1)
    for number in owner:
        had[number] += 1
    due = _due(had[:nobody], [members[index].weight for index in order], size)
    spare = [max(0, before - after) for before, after in zip(had, due)]
    spare.append(had[nobody])

    ways = [_way(name, size) for name in names]
    at = [offset for offset, _step in ways]
    steps = [step for _offset, step in ways]
    for taker in _turns([max(0, after - before) for before, after in zip(had, due)]):
        slot, step = at[taker], steps[taker]
        while not spare[owner[slot]]:  # what is closed stays closed, so nobody goes round twice
            slot += step
            if slot >= size:
                slot -= size
        spare[owner[slot]] -= 1
        owner[slot] = taker
        at[taker] = slot
    return [order[number] for number in owner]


def owners(slots: t.Sequence[int], members: t.Sequence[Member]) -> t.List[str]:
    """The member's name for each slot, of a table built of just these ``members``."""
    return [members[index].name for index in slots]


def is_settled(names: t.Sequence[str], members: t.Sequence[Member]) -> bool:
    """Whether ``repaired`` would leave a table as it is. ``names`` has the member of each slot."""
    counts: t.Dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    weighted = [member for member in members if member.weight]
    if not weighted or counts.keys() != {member.name for member in weighted}:
        return False
    had = [counts[member.name] for member in weighted]
    return _due(had, [member.weight for member in weighted], len(names)) == had


def moved(old: t.Sequence[t.Optional[str]], new: t.Sequence[t.Optional[str]]) -> float:
    """The part of all slots, 0.0 to 1.0, that have another member; 1.0 if the size is another. Names, as of ``owners``."""
    if len(old) != len(new):
        return 1.0
    return sum(before != after for before, after in zip(old, new)) / len(new)


def _check(members: t.Sequence[Member], size: int) -> None:
    if size not in SIZES:
        raise MaglevError(f"{size} slots: the size of a table is one of {', '.join(map(str, SIZES))}")
    seen: t.Set[str] = set()
    for member in members:
        if member.weight < 0:
            raise MaglevError(f"member {member.name}: weight {member.weight} is below 0; 0 drains it")
        if member.name in seen:
            raise MaglevError(
                f"member {member.name} is there twice: give it once, with the sum of the weights"
            )
        seen.add(member.name)
    weighted = sum(member.weight > 0 for member in members)
    if not weighted:
        raise MaglevError("no member has a weight above 0: give one of them a weight")
    if weighted > size:
        raise MaglevError(f"{weighted} members for {size} slots: take a larger table, or split the pool")


def _due(had: t.Sequence[int], weights: t.Sequence[int], size: int) -> t.List[int]:
    """How many slots each gets: its share rounded down or up, whichever is nearer to what it ``had``.

    Where that leaves a choice, it is that of the largest remainders, and then that of the order.
    """
    left, total = size, sum(weights)
    for weight in sorted(weights):  # whose share is below one slot gets one, and the others share the rest
        if weight * left >= total:
            break
        left -= 1
        total -= weight
    parts = [divmod(weight * left, total) if weight * left >= total else (1, 0) for weight in weights]
    counts = [min(max(before, whole), whole + (rest > 0)) for before, (whole, rest) in zip(had, parts)]
    by_rest = sorted(range(len(parts)), key=lambda number: -parts[number][1])
    missing = size - sum(counts)
    if missing > 0:
        for number in [n for n in by_rest if counts[n] == parts[n][0]][:missing]:
            counts[number] += 1
    elif missing < 0:
        for number in [n for n in reversed(by_rest) if counts[n] > parts[n][0]][:-missing]:
            counts[number] -= 1
    return counts


def _turns(rooms: t.Sequence[int]) -> t.List[int]:
    """Who takes a slot, one after the other: each as often as it has room, spread evenly over the time.

    Several turns at a stretch, as IPVS takes them, let a table built anew move 7 % of the others' slots instead of 1.8 %.
    """
    count = len(rooms)
    moments = [
        (((2 * turn + 1) << _MOMENT_BITS) // room) * count + number
        for number, room in enumerate(rooms)
        for turn in range(room)
    ]
    return [moment % count for moment in sorted(moments)]


def _way(name: str, size: int) -> t.Tuple[int, int]:
    """Offset and step of the order in which a member goes through the slots."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % size, int.from_bytes(digest[8:16], "big") % (size - 1) + 1
