# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Attachments in an ordered list: tcx, netkit, and legacy filters in their place."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from .._bpf import hooks, objects, ordering, pins
from .._engine.model import Key, Operation
from .._errors import KernelError, PlanError
from .._kernel import bpf, bpffs, rtnl
from .._kernel.host import Host
from . import _attach, bpf_object, link_kinds
from ._attach import OK, Value

TCX, CLSACT, NETKIT = "tcx", "clsact", "netkit"
Asked = _attach.Asked
Coming = t.Mapping[Key, t.Tuple[hooks.Target, Value]]  # wanted ones that are in a list or will be


class Found(t.NamedTuple):
    """What one list has of one attachment: the entry that counts, those to be removed, and its place."""

    entry: hooks.Entry
    extra: t.List[hooks.Entry]
    at: int
    total: int


def mechanism_for(host: Host, wanted: t.Optional[str], hook: str, record: t.Optional[rtnl.LinkRecord]) -> str:
    """The kind of list that a program goes to: the one asked for, or the best that kernel and device have."""
    if wanted:
        return wanted
    if hook in hooks.NETKIT_TYPES and record is not None and record.kind == "netkit":
        return NETKIT
    return TCX if host.supports_tcx() else CLSACT


def list_of(host: Host, mechanism: str, pin: pins.LinkPin, ifindex: int) -> hooks.List:
    if mechanism == CLSACT:
        return hooks.FilterList(host.socket(pin.netns), ifindex, hooks.DIRECTIONS[pin.hook])
    types = hooks.NETKIT_TYPES if mechanism == NETKIT else hooks.TCX_TYPES
    return hooks.ProgramList(ifindex, types[pin.hook])


def find(entries: t.Sequence[hooks.Entry], target: hooks.Target) -> t.Optional[Found]:
    """The attachment in a list, by the mark of its program; the pinned one when a killed run left two."""
    mine = [entry for entry in entries if target.owns(entry.mark)]
    if not mine:
        return None
    pinned = {hooks.pinned_link(path) for path in target.paths() if not path.endswith(bpffs.REPLACEMENT)} - {
        0
    }
    main = next((entry for entry in mine if entry.link_id in pinned), mine[0])
    extra = [entry for entry in mine if entry is not main]
    return Found(main, extra, entries.index(main), len(entries))


# --- observing ------------------------------------------------------------------------------------------------------------


def observe(
    kind: str,
    host: Host,
    wanted: t.Mapping[Key, t.Optional[t.Any]],
    topology: str,
) -> t.Dict[Key, Value]:
    asked = _attach.asked(kind, wanted, topology)
    if asked:
        _attach.check_pins()
    groups: t.Dict[_attach.Place, t.Dict[Key, Asked]] = {}
    for key, (target, value) in asked.items():
        groups.setdefault(target.pin.place(), {})[key] = (target, value)
    found: t.Dict[Key, Value] = {}
    taken: t.Set[int] = set()
    for group in groups.values():
        found.update(_observe_hook(kind, host, group, taken))
    for key, (target, value) in asked.items():
        # A pin that no hook of its namespace accounts for: unless its link went along with its device to a wanted place.
        if key not in found and value is None and target.paths():
            if not taken & {hooks.pinned_link(path) for path in target.paths()}:
                found[key] = _attach.plain_value(kind, target, None, health=_attach.GONE)
    _follow_devices(kind, host, asked, found)
    return found


def _observe_hook(
    kind: str, host: Host, group: t.Mapping[Key, Asked], taken: t.Set[int]
) -> t.Dict[Key, Value]:
    """The attachments of one hook, together: whether each is in its place depends on the others.

    The links of those that are wanted are added to ``taken``.
    """
    pin = next(iter(group.values()))[0].pin
    record = host.find_link(pin.netns, pin.link)
    found: t.Dict[Key, Value] = {}
    mechanisms = _mechanisms(host, group, record)
    for mechanism in dict.fromkeys((*mechanisms, CLSACT)):
        if mechanism not in mechanisms and len(found) == len(group):
            continue  # only pins that are lost would not tell of a legacy filter
        entries = _read(host, mechanism, pin, record)
        here = {key: find(entries, target) for key, (target, value) in group.items() if key not in found}
        coming = {
            key: (target, value)
            for key, (target, value) in group.items()
            if key not in found
            and value is not None
            and (here[key] or mechanism == mechanism_for(host, value.mechanism, pin.hook, record))
        }
        misplaced = _misplaced(entries, here, coming)
        for key, match in here.items():
            if match is not None:
                target, value = group[key]
                if value is not None and match.entry.link_id:
                    taken.add(match.entry.link_id)
                found[key] = _value(kind, host, target, value, match, mechanism, key in misplaced)
    return found


def _mechanisms(host: Host, group: t.Mapping[Key, Asked], record: t.Optional[rtnl.LinkRecord]) -> t.List[str]:
    """The lists in which the attachments of a hook may be."""
    pin = next(iter(group.values()))[0].pin
    names = [mechanism_for(host, None, pin.hook, record)]
    names += [value.mechanism for _target, value in group.values() if value and value.mechanism]
    if any(
        name.split("@")[-1].startswith(CLSACT) for target, _value in group.values() for name in target.paths()
    ):
        names.append(CLSACT)
    usable = [name for name in dict.fromkeys(names) if name != TCX or host.supports_tcx()]
    return [
        name for name in usable if name != NETKIT or (record is not None and record.kind == "netkit")
    ] or [names[0]]


def _read(
    host: Host, mechanism: str, pin: pins.LinkPin, record: t.Optional[rtnl.LinkRecord]
) -> t.List[hooks.Entry]:
    if record is None:
        return []
    with hooks.entered(pin.netns):
        try:
            return list_of(host, mechanism, pin, record.ifindex).read()
        except KernelError as problem:
            # A netkit's far end, or a device without such a hook, has nothing of ours; settled() tells the user.
            if problem.name not in ("EACCES", "ENXIO", "EINVAL"):
                raise
            return []


def _misplaced(
    entries: t.Sequence[hooks.Entry],
    here: t.Mapping[Key, t.Optional[Found]],
    coming: Coming,
) -> t.Set[Key]:
    """Which of the wanted attachments that are there have to move, when all are put in place one after the other."""
    if not coming:
        return set()
    pin = next(iter(coming.values()))[0].pin
    keys: t.Dict[str, Key] = {}
    slots = {slot.ident: slot for slot in hooks.slots(entries, pin.place())}
    wanted = []
    for key in _in_order(coming, here):
        target, value = coming[key]
        match = here[key]
        ident = match.entry.ident if match else str(target)
        slot = ordering.Slot(
            ident,
            match.entry.prog_id if match else 0,
            target.program,
            f"{target.topology}/{target.object}",
            target.program,
            value.target().pin.order,
        )
        if match:
            slots[ident] = slot._replace(name=match.entry.name)
        keys[ident] = key
        wanted.append(ordering.Wanted(slot, value.place))
    where = f"{pin.link} {pin.hook}" + (f" in netns {pin.netns}" if pin.netns else "")
    return {keys[ident] for ident in ordering.moves(list(slots.values()), wanted, where)}


def _in_order(coming: Coming, here: t.Mapping[Key, t.Optional[Found]]) -> t.List[Key]:
    """As the plan will handle them: those that are there first, and each after the one that it is placed beside."""
    placed: t.Dict[Key, None] = {}

    def visit(key: Key, above: t.Tuple[Key, ...]) -> None:
        value = coming[key][1]
        for other in value.follows():
            if other in coming and other not in above:
                visit(other, (*above, key))
        placed[key] = None

    for key in sorted(coming, key=lambda key: here[key] is None):
        if key not in placed:
            visit(key, ())
    return list(placed)


def _value(
    kind: str,
    host: Host,
    target: hooks.Target,
    wanted: t.Optional[Value],
    match: Found,
    mechanism: str,
    misplaced: bool,
) -> Value:
    is_filter = mechanism == CLSACT
    expected = wanted.target(is_filter) if wanted else target
    notes = {pin.note for pin in map(_pin_at, target.paths()) if pin is not None}
    note = expected.pin.note if expected.pin.note in notes or not notes else min(notes)
    place: t.Dict[str, t.Any] = {}
    if misplaced:
        place = {"order": f"position {match.at + 1} of {match.total}", "relative_to": None}
    elif note != expected.pin.note:
        place = {"order": expected.pin._replace(note=note).order or "anywhere"}
    return _attach.plain_value(
        kind,
        target,
        wanted,
        mechanism=mechanism,
        health=_health(host, expected._replace(pin=expected.pin._replace(note=note)), match, is_filter),
        position=match.at,
        note=note,
        **place,
    )


def _pin_at(path: str) -> t.Optional[pins.LinkPin]:
    return pins.parse_file_name(os.path.basename(path))


def _health(host: Host, expected: hooks.Target, match: Found, is_filter: bool) -> str:
    paths = expected.paths()
    if match.extra:
        return "attached twice"
    if any(path.endswith(bpffs.REPLACEMENT) for path in paths):
        return "half replaced"
    if not is_filter and not match.entry.link_id:
        return "attached without a link"
    if expected.path not in paths or (
        not is_filter and hooks.pinned_link(expected.path) != match.entry.link_id
    ):
        return "pinned under another name" if paths else "not pinned"
    if match.entry.prog_id != _attach.pinned_program(host, expected):
        return "runs another build"
    return OK


def _follow_devices(kind: str, host: Host, asked: t.Mapping[Key, Asked], found: t.Dict[Key, Value]) -> None:
    """What is wanted here, and is still attached in another namespace from which its device is about to come."""
    for key, target, value, other_key, other in list(_attach.on_their_way(kind, host, asked, found)):
        there = found.pop(other_key, None) or _observe_hook(
            kind, host, {other_key: (other, None)}, set()
        ).get(other_key)
        if there is not None and there.health == OK:
            health = f"moves along from {other.pin.netns or 'the host'}"
            found[key] = dataclasses.replace(
                _attach.plain_value(kind, target, value, health=health, mechanism=there.mechanism),
                position=there.position,
            )


def settled(kind: str, host: Host, value: Value) -> Value:
    """Refuse a device that has no such hook while nothing has been changed yet."""
    record = host.find_link(value.netns, value.link)
    if record is None or kind != "netkit_attach":
        return value
    found = link_kinds.name_of_kind(record.kind, record.data)
    if found == "netkit peer":
        raise PlanError(
            f"{value.link} is the far end of a netkit pair, which cannot be asked or changed; name its primary end as link "
            f"and hook: {'primary' if value.hook == 'peer' else 'peer'} or {value.hook} as seen from there"
        )
    if found != "netkit" and value.mechanism == NETKIT:
        raise PlanError(
            f"{value.link} is not a netkit device but {found}; use tcx_attach, or mechanism: auto for the tcx hook that "
            f"sees the same packets"
        )
    return value


# --- changing -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    if operation.after is None:
        _remove(host, operation.before)
    else:
        _ensure(host, operation.after)


def _remove(host: Host, value: Value) -> None:
    target = value.target()
    record = None
    if host.has_namespace(value.netns):
        with contextlib.suppress(KernelError):
            record = host.link_now(value.netns, value.link)
    if record is not None:
        with hooks.entered(value.netns):
            for found in _lists(host, value, record):
                for entry in found.read():
                    if target.owns(entry.mark):
                        found.detach(entry)
    _attach.clean(target)


def _lists(host: Host, value: Value, record: rtnl.LinkRecord) -> t.List[hooks.List]:
    group = {value.key(): (value.target(), value)}
    return [
        list_of(host, name, value.target().pin, record.ifindex) for name in _mechanisms(host, group, record)
    ]


def _ensure(host: Host, value: Value) -> None:
    """Make one attachment what it should be, whatever is there of it: nothing, a part, the wrong build, two."""
    record = host.link_now(value.netns, value.link)
    mechanism = mechanism_for(host, value.mechanism, value.hook, record)
    target = value.target(mechanism == CLSACT)
    prog_fd = objects.program_fd(target.topology, target.object, target.program)
    try:
        _attach.check_type(target, prog_fd, value.KIND)
        with hooks.entered(value.netns):
            found = list_of(host, mechanism, target.pin, record.ifindex)
            others = _lists(host, value, record)  # pins tell, and those are about to change
            _ensure_in(host, found, target, value, prog_fd)
            for other in others:
                if type(other) is not type(found):
                    for entry in other.read():
                        if target.owns(entry.mark):
                            other.detach(entry)
    finally:
        os.close(prog_fd)


def _ensure_in(host: Host, found: hooks.List, target: hooks.Target, value: Value, prog_fd: int) -> None:
    def where(entries: t.Sequence[hooks.Entry]) -> int:
        if value.position is not None:
            return min(value.position, len(entries))
        return ordering.insertion(hooks.slots(entries, target.pin.place()), value.place, str(target))

    entries = found.read()
    match = find(entries, target)
    pinned = target.paths()
    if match is None:
        _attach_first(found, target, prog_fd, where)
        return
    for entry in match.extra:
        found.detach(entry)
    entries = [entry for entry in entries if entry not in match.extra]
    match = match._replace(extra=[], at=entries.index(match.entry), total=len(entries))
    linked = isinstance(found, hooks.FilterList) or match.entry.link_id
    if not linked or not _in_place(entries, match, target, value):
        found.move(target, match.entry, prog_fd, where, lambda: _copy(host, target))
    elif match.entry.prog_id != bpf.prog_info(prog_fd).id:
        found.replace(target, match.entry, prog_fd)
        found.adopt(target, match.entry, prog_fd)
    else:
        found.adopt(target, match.entry, prog_fd)
    drop_other_pins(target, elsewhere=not pinned)


def _attach_first(found: hooks.List, target: hooks.Target, prog_fd: int, where: hooks.Where) -> None:
    """Attach, and only then detach what the pins held: dead links, or the same by another mechanism."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(objects.pinned(path)) for path in target.paths()]
        found.attach(target, prog_fd, where)
        for fd in held:
            if objects.is_link(fd):
                bpf.link_detach(fd)


def _in_place(entries: t.Sequence[hooks.Entry], match: Found, target: hooks.Target, value: Value) -> bool:
    if value.position is not None:
        return match.at == min(value.position, len(entries) - 1)
    slots = hooks.slots(entries, target.pin.place())
    return ordering.holds(slots, match.at, value.place)


def _copy(host: Host, target: hooks.Target) -> int:
    return bpf_object.copy_program(host, target.topology, target.object, target.program)


def drop_other_pins(target: hooks.Target, elsewhere: bool) -> None:
    """Pins of the same link with another note, and ``elsewhere`` of the namespace from which its device came."""
    for path in target.paths():
        if path != target.path:
            bpffs.unpin(path)
    link = hooks.pinned_link(target.path) if elsewhere else 0
    for program, pin in pins.links(target.topology, target.object) if link else ():
        path = target._replace(program=program, pin=pin).path
        if path != target.path and hooks.pinned_link(path) == link:
            bpffs.unpin(path)


# --- telling --------------------------------------------------------------------------------------------------------------

_BPFTOOL = {
    ("ingress", TCX): "tcx_ingress",
    ("egress", TCX): "tcx_egress",
    ("primary", TCX): "tcx_egress",
    ("peer", TCX): "tcx_ingress",
    ("primary", NETKIT): "netkit_primary",
    ("peer", NETKIT): "netkit_peer",
}


def commands(operation: Operation) -> t.List[str]:
    before, after = operation.before, operation.after
    value = after or before
    mechanism = value.mechanism or (NETKIT if value.hook in hooks.NETKIT_TYPES else TCX)
    program = _attach.program_path(value)
    inside = f"ip netns exec {value.netns} " if value.netns else ""
    if mechanism == CLSACT:
        direction = hooks.DIRECTIONS[value.hook]
        if after is None:
            return [
                f"{inside}tc filter del dev {value.link} {direction}  # the one named cnf:{value.owner}/..."
            ]
        return [
            f"{inside}tc filter add dev {value.link} {direction} bpf direct-action object-pinned {program}"
        ]
    hook = _BPFTOOL[value.hook, mechanism]
    if after is None:
        return [f"{inside}bpftool net detach {hook} dev {value.link}"]
    wish = f"  # {value.place}" if value.order else ""
    return [f"{inside}bpftool net attach {hook} pinned {program} dev {value.link}{wish}"]


def to_item(value: Value) -> t.Dict[str, t.Any]:
    item = {**_attach.item_of(value), "hook": value.hook}
    anchor = value.place.anchor
    if value.order in (ordering.FIRST, ordering.LAST, ordering.BEFORE, ordering.AFTER):
        item["order"] = value.order
    if anchor is not None:
        told = {"name": anchor.name} if anchor.name else {"id": anchor.id}
        if anchor.object:
            told = {"object": anchor.object, **({"program": anchor.program} if anchor.program else {})}
        item["relative_to"] = told
    return item


def merged(observed: Value, desired: Value) -> Value:
    """The declared fields on top of the observed ones; where it is counts only as long as nothing else changes."""
    changes = {
        name: getattr(desired, name)
        for name in ("mechanism", "mode", "order", "relative_to", "health")
        if getattr(desired, name) is not None and getattr(desired, name) != getattr(observed, name)
    }
    return dataclasses.replace(observed, **changes, position=None, note=None) if changes else observed
