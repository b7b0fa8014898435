# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The order of programs at a hook: what was asked for, whether it holds, and where a program has to go. Pure.

``first`` and ``last`` are classes: among several programs of ours that ask for the same, the one that came earlier is further
ahead, so two topologies that both want to be first do not push each other about. Programs of others are never moved.
"""

from __future__ import annotations

import typing as t

from .._errors import PlanError

FIRST, LAST, BEFORE, AFTER = "first", "last", "before", "after"
NAME_CHARACTERS = 15  # of a program's name that the kernel keeps


class Anchor(t.NamedTuple):
    """A program to be placed beside: one of ours by object (``topology/name``) and program ('' for any), or any by name or id."""

    object: str = ""
    program: str = ""
    name: str = ""
    id: int = 0

    def __str__(self) -> str:
        if self.object:
            return f"{self.object}:{self.program}" if self.program else self.object
        return self.name or f"id {self.id}"


class Place(t.NamedTuple):
    """What was asked for; ``order`` '' leaves the place open, ``anchor`` belongs to ``before`` and ``after``."""

    order: str = ""
    anchor: t.Optional[Anchor] = None

    def __str__(self) -> str:
        return f"{self.order} {self.anchor}" if self.anchor else self.order or "anywhere"


class Slot(t.NamedTuple):
    """One program of a hook. ``object`` and ``program`` for those of ours; ``note`` first, last or ''; ``ident`` tells it from others."""

    ident: str
    id: int
    name: str
    object: str = ""
    program: str = ""
    note: str = ""


def matches(slot: Slot, anchor: Anchor) -> bool:
    if anchor.object:
        return slot.object == anchor.object and anchor.program in ("", slot.program)
    if anchor.name:
        return slot.name == anchor.name[:NAME_CHARACTERS]
    return slot.id == anchor.id


def holds(slots: t.Sequence[Slot], index: int, place: Place) -> bool:
    """Whether the program at ``index`` is where it was asked to be. A missing anchor asks for nothing."""
    if place.order == FIRST:
        return all(slot.note == FIRST for slot in slots[:index])
    if place.order == LAST:
        return all(slot.note == LAST for slot in slots[index + 1 :])
    found = [
        number
        for number, slot in enumerate(slots)
        if number != index and place.anchor is not None and matches(slot, place.anchor)
    ]
    if place.order == BEFORE:
        return all(index < number for number in found)
    if place.order == AFTER:
        return all(index > number for number in found)
    return True


def insertion(slots: t.Sequence[Slot], place: Place, where: str) -> int:
    """The index at which a new program goes. PlanError, naming ``where``, when the one to be placed beside is not there."""
    if place.order == FIRST:
        return next((number for number, slot in enumerate(slots) if slot.note != FIRST), len(slots))
    if place.order == LAST:
        return len(slots)
    if place.anchor is None:
        end = len(slots)
        while end and slots[end - 1].note == LAST:
            end -= 1
        return end
    found = [number for number, slot in enumerate(slots) if matches(slot, place.anchor)]
    if not found:
        names = ", ".join(f"{slot.name} (id {slot.id})" for slot in slots)
        raise PlanError(
            f"{where}: there is no program {place.anchor} to be placed {place.order}; "
            + (f"it has {names}" if names else "it has none")
        )
    return found[0] if place.order == BEFORE else found[-1] + 1


class Wanted(t.NamedTuple):
    """A program that shall be at a hook; ``slot.ident`` is that of the one that is there already."""

    slot: Slot
    place: Place


def moves(slots: t.Sequence[Slot], wanted: t.Sequence[Wanted], where: str) -> t.Set[str]:
    """The idents of those that are there but in the wrong place, when the wanted ones are handled in their order.

    ``wanted`` are in the order in which they will be placed. PlanError when what they ask for cannot be had together.
    """
    order = list(slots)
    moved: t.Set[str] = set()
    for item in wanted:
        index = _index_of(order, item.slot.ident)
        if index is not None:
            if holds(order, index, item.place):
                continue
            moved.add(item.slot.ident)
            del order[index]
        order.insert(insertion(order, item.place, where), item.slot)
    for item in wanted:
        index = _index_of(order, item.slot.ident)
        if index is None or not holds(order, index, item.place):
            raise PlanError(
                f"{where}: {item.slot.object}:{item.slot.program} cannot be {item.place}: what others at this hook ask for "
                f"contradicts it"
            )
    return moved


def _index_of(slots: t.Sequence[Slot], ident: str) -> t.Optional[int]:
    return next((number for number, slot in enumerate(slots) if slot.ident == ident), None)
