# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The XDP program of a device: one, ahead of everything else, attached by a link.

A program of others is never replaced unasked. With ``adopt: true`` one that was attached without a link is: undo can put it
back. One that is held by a link stays in any case, because only the holder could make such a link again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from .._bpf import hooks, mark, objects
from .._engine.model import Claim, Desired, Key, Operation
from .._errors import KernelError, PlanError
from .._kernel import bpf, bpffs, rtnl, tc
from .._kernel.host import Host
from . import _attach, _ordered
from ._attach import Value as Attachment

Value = _attach.XdpValue
NAME = SECTION = "xdp_attach"
RANK = _attach.RANK
BORROWED = False
LINGERS = True
ENUMERATED = True
HOOK = "xdp"

FLAGS = {"native": bpf.XDP_DRV_MODE, "generic": bpf.XDP_SKB_MODE, "offload": bpf.XDP_HW_MODE}

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    **_attach.COMMON_SPEC,
    "mode": {"type": "str", "choices": ["auto", "native", "generic"], "default": "auto"},
}
REQUIRED = ("object", "link")
ALONE = ("link",)  # what entries say for themselves; the rest may hold for all of them


def complete(item: t.Mapping[str, t.Any], path: str, known: _attach.Known) -> t.Mapping[str, t.Any]:
    return _attach.complete(NAME, item, path, known)


def parse(item: t.Mapping[str, t.Any], path: str, owner: str) -> t.List[Desired]:
    value = _attach.value_of(NAME, HOOK, item, path, owner)
    mode = None if item["mode"] == "auto" else item["mode"]
    return [Desired(dataclasses.replace(value, mode=mode, adopt=bool(item.get("adopt"))), path)]


def keys(item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]) -> t.List[Key]:
    return _attach.task_keys(NAME, HOOK, item, path, claims)


# --- what there is --------------------------------------------------------------------------------------------------------


def _attached(record: rtnl.LinkRecord) -> t.List[t.Tuple[str, int, t.Optional[mark.Mark]]]:
    """(mode, program id, mark) of each XDP program of a device; there is one per mode at most."""
    found = []
    for mode, prog_id in record.xdp:
        info = hooks.program(prog_id)
        if info is not None:
            found.append((mode, prog_id, mark.read(info)))
    return found


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Attachment]:
    asked = _attach.asked(NAME, wanted, topology)
    if asked:
        _attach.check_pins()
    found: t.Dict[Key, Attachment] = {}
    taken: t.Set[t.Tuple[int, int]] = set()  # (ifindex, program)
    for key, (target, value) in sorted(asked.items(), key=lambda row: row[1][1] is None):
        record = host.find_link(target.pin.netns, target.pin.link)
        rows = _attached(record) if record is not None else []
        ours = [(mode, prog_id) for mode, prog_id, told in rows if target.owns(told)]
        if ours and record is not None:
            found[key] = _value(host, target, value, record.ifindex, *ours[0])
            if value is not None:
                taken.add((record.ifindex, ours[0][1]))
        elif value is None and target.paths() and not taken & {_held(path) for path in target.paths()}:
            found[key] = _attach.plain_value(NAME, target, None, health=_attach.GONE)
    _follow_devices(host, asked, found)
    return found


def _value(
    host: Host,
    target: hooks.Target,
    wanted: t.Optional[Attachment],
    ifindex: int,
    mode: str,
    prog_id: int,
) -> Attachment:
    health = _attach.OK
    if any(path.endswith(bpffs.REPLACEMENT) for path in target.paths()):
        health = "half replaced"
    elif _held(target.path) != (ifindex, prog_id):
        health = "not pinned"
    elif prog_id != _attach.pinned_program(host, target):
        health = "runs another build"
    return _attach.plain_value(NAME, target, wanted, mode=mode, health=health)


def _held(path: str) -> t.Tuple[int, int]:
    """(ifindex, program) of the link that is pinned at a path, zeros when there is none or its device is gone."""
    try:
        with objects.pinned(path) as fd:
            info = bpf.link_info(fd)
            return (info.ifindex, info.prog_id) if info.ifindex else (0, 0)
    except KernelError as problem:
        if problem.name != "ENOENT":
            raise
        return (0, 0)


def _follow_devices(host: Host, asked: t.Mapping[Key, _attach.Asked], found: t.Dict[Key, Attachment]) -> None:
    """What is wanted here, and is still on its device in another namespace, from which it is about to come."""
    for key, target, value, other_key, other in list(_attach.on_their_way(NAME, host, asked, found)):
        record = host.find_link(other.pin.netns, other.pin.link)
        ours = [row[0] for row in (_attached(record) if record is not None else ()) if other.owns(row[2])]
        if ours:
            found.pop(other_key, None)
            health = f"moves along from {other.pin.netns or 'the host'}"
            found[key] = _attach.plain_value(NAME, target, value, mode=ours[0], health=health)


def settled(host: Host, value: Attachment, observed: t.Optional[Attachment]) -> Attachment:
    """Refuse early to take a device's program away from others."""
    record = host.find_link(value.netns, value.link)
    if observed is None and record is not None:
        for mode, prog_id, told in _attached(record):
            _check_foreign(host, value, mode, prog_id, told)
    return value


def _check_foreign(
    host: Host, value: Attachment, mode: str, prog_id: int, told: t.Optional[mark.Mark]
) -> None:
    if told is not None:
        owner = f"object {told.object} of topology {told.topology}"
        raise PlanError(
            f"{value.key()}: {value.link} has an XDP program already, of {owner}; remove that attachment first"
        )
    info = hooks.program(prog_id)
    name = f"{info.name} (id {prog_id}, {mode})" if info else f"id {prog_id}"
    link = _link_of(prog_id, host.link_now(value.netns, value.link).ifindex)
    if link:
        raise PlanError(
            f"{value.key()}: {value.link} has an XDP program already, {name}, held by link {link} of others; "
            f"end what holds it, it cannot be put back if it is taken away"
        )
    if not value.adopt:
        raise PlanError(
            f"{value.key()}: {value.link} has an XDP program already, {name}, which was not attached by cnf.ebpf; "
            f"set adopt: true to replace it"
        )


def _link_of(prog_id: int, ifindex: int) -> int:
    """The id of the XDP link that holds a program at a device, 0 when none does."""
    for number in bpf.link_ids():
        with contextlib.suppress(KernelError):
            fd = bpf.link_by_id(number)
            try:
                info = bpf.link_info(fd)
            finally:
                os.close(fd)
            if (info.type, info.prog_id, info.ifindex) == (bpf.LinkType.XDP, prog_id, ifindex):
                return number
    return 0


def fixed(before: Attachment, after: Attachment) -> t.List[str]:
    return []


merged = _ordered.merged
side_effects = _attach.no_effects
line_of = _attach.line_of


# --- changing -------------------------------------------------------------------------------------------------------------


def apply(host: Host, operation: Operation) -> None:
    before, after = operation.before, operation.after
    if after is None:
        _remove(host, before)
        return
    target = after.target()
    record = host.link_now(after.netns, after.link)
    prog_fd = objects.program_fd(target.topology, target.object, target.program)
    try:
        _attach.check_type(target, prog_fd, NAME)
        ours = [row for row in _attached(record) if target.owns(row[2])]
        if not ours or (after.mode is not None and ours[0][0] != after.mode):
            _attach.clean(target)
            _create(host, target, after, record, prog_fd)
        else:
            _mend(target, ours[0][1], record.ifindex, prog_fd)
    finally:
        os.close(prog_fd)


def _create(
    host: Host, target: hooks.Target, value: Attachment, record: rtnl.LinkRecord, prog_fd: int
) -> None:
    foreign = [row for row in _attached(host.link_now(value.netns, value.link)) if not target.owns(row[2])]
    for mode, prog_id, told in foreign:
        _check_foreign(host, value, mode, prog_id, told)
        _take_away(host, value, record, mode, prog_id)
    flags = FLAGS.get(value.mode or "", 0)
    if not flags and record.kind == "netkit":
        flags = bpf.XDP_SKB_MODE  # the kernel's own choice is an error there since 7.3
    with hooks.entered(value.netns):
        try:
            link = bpf.link_create(prog_fd, record.ifindex, bpf.XDP, flags=flags)
        except KernelError as problem:
            if problem.name in ("EOPNOTSUPP", "EINVAL") and value.mode == "native":
                raise PlanError(
                    f"{target}: the driver of {value.link} does not take XDP in native mode ({problem.name}); "
                    f"use mode: generic or auto"
                ) from problem
            raise
    try:
        hooks.pin_link(target, link)
    except BaseException:
        bpf.link_detach(link)
        raise
    finally:
        os.close(link)


class _Taken:
    """A program of others that made room for ours; its descriptor keeps it until the run is over."""

    def __init__(self, fd: int, mode: str) -> None:
        self.fd = fd
        self.mode = mode

    def close(self) -> None:
        os.close(self.fd)


def _take_away(host: Host, value: Attachment, record: rtnl.LinkRecord, mode: str, prog_id: int) -> None:
    host.kept[(NAME, value.netns, value.link)] = _Taken(bpf.prog_by_id(prog_id), mode)
    with bpf.closing(bpf.prog_by_id(prog_id)) as expected:
        tc.set_xdp(host.socket(value.netns), record.ifindex, tc.NOTHING, mode, expected)


def _mend(target: hooks.Target, prog_id: int, ifindex: int, prog_fd: int) -> None:
    """The right build under the right name of the pin, for a link that is there."""
    pinned = _held(target.path) == (ifindex, prog_id)
    number = hooks.pinned_link(target.path) if pinned else _link_of(prog_id, ifindex)
    if not number:
        raise PlanError(
            f"{target}: is attached without a link; detach it (ip link set {target.pin.link} xdp off)"
        )
    link = bpf.link_by_id(number)
    try:
        bpf.link_update(link, prog_fd)
        hooks.pin_link(target, link)
    finally:
        os.close(link)
    _ordered.drop_other_pins(target, elsewhere=not pinned)


def _remove(host: Host, value: Attachment) -> None:
    target = value.target()
    _attach.clean(target)
    taken = host.kept.pop((NAME, value.netns, value.link), None)
    if taken is not None:
        try:
            index = host.index_of(value.netns, value.link)
            tc.set_xdp(host.socket(value.netns), index, taken.fd, taken.mode, tc.NOTHING)
        finally:
            taken.close()


# --- telling --------------------------------------------------------------------------------------------------------------


def commands(operation: Operation) -> t.List[str]:
    value = operation.after or operation.before
    inside = f"ip netns exec {value.netns} " if value.netns else ""
    hook = {"native": "xdpdrv", "generic": "xdpgeneric"}.get(value.mode or "", "xdp")
    if operation.after is None:
        return [f"{inside}bpftool net detach {hook} dev {value.link}"]
    program = _attach.program_path(value)
    return [f"{inside}bpftool net attach {hook} pinned {program} dev {value.link}"]


def to_item(value: Attachment) -> t.Tuple[str, t.Dict[str, t.Any]]:
    item = _attach.item_of(value)
    if value.mode:
        item["mode"] = value.mode
    return SECTION, item
