# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Attachments: a program of an object at a hook of a device. What tcx_attach, netkit_attach and xdp_attach have in common.

An attachment is found by the mark of the program that the kernel says is at the hook. The pin of its link keeps it there;
when the pin is missing, has the name of another namespace (the device moved), or the device is gone, the attachment is
mended and never made twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from .._bpf import hooks, objects, ordering, pins
from .._engine.model import Claim, Key, Operation
from .._engine.state import State
from .._errors import PlanError, SpecError
from .._kernel import bpf, bpffs
from .._kernel.host import Host
from . import _fields, bpf_object

RANK = 85  # when everything that programs look at is there
HOOK_KINDS = {
    "ingress": "tcx_attach",
    "egress": "tcx_attach",
    "primary": "netkit_attach",
    "peer": "netkit_attach",
    "xdp": "xdp_attach",
}
FITTING = {"tcx_attach": "tc", "netkit_attach": "tc", "xdp_attach": "xdp"}
OK = bpf_object.OK
GONE = "its device is gone"

COMMON_SPEC: t.Dict[str, t.Any] = {
    "object": {"type": "str"},
    "program": {"type": "str"},
    "link": {"type": "str"},
    "netns": {"type": "str"},
}
ORDER_SPEC: t.Dict[str, t.Any] = {
    "order": {"type": "str", "choices": ["first", "last", "before", "after"]},
    "relative_to": {
        "type": "dict",
        "options": {
            "object": {"type": "str"},
            "program": {"type": "str"},
            "name": {"type": "str"},
            "id": {"type": "int"},
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Value:
    """A program at a hook. ``relative_to`` is an anchor's text.

    Observed only: ``position``, its index in the list, and ``note``, that of its pin.

    ``health`` says what keeps an attachment from being what it should be: declared values are ok.
    """

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("link", "hook", "object", "program")
    KIND: t.ClassVar[str] = ""

    object: str
    program: str
    link: str
    netns: str
    hook: str
    mechanism: t.Optional[str] = None
    mode: t.Optional[str] = None
    order: t.Optional[str] = None
    relative_to: t.Optional[str] = None
    health: t.Optional[str] = None
    owner: t.Optional[str] = None
    position: t.Optional[int] = None
    note: t.Optional[str] = None
    adopt: t.Optional[bool] = None

    def key(self) -> Key:
        program = f"{self.owner}/{self.object}:{self.program}"
        return Key(self.KIND, self.netns, f"{self.link} {self.hook} {program}")

    def needs(self) -> t.Tuple[Key, ...]:
        return (
            Key("link", self.netns, self.link),
            bpf_object.key_of(self.owner or "", self.object),
        )

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)

    def follows(self) -> t.Tuple[Key, ...]:
        """The attachment of ours that this one is placed beside."""
        anchor = anchor_of(self.relative_to)
        if anchor is None or not anchor.program:
            return ()
        return (Key(self.KIND, self.netns, f"{self.link} {self.hook} {anchor.object}:{anchor.program}"),)

    @property
    def place(self) -> ordering.Place:
        return ordering.Place(self.order or "", anchor_of(self.relative_to))

    def target(self, is_filter: bool = False) -> hooks.Target:
        wish = self.order if self.order in (ordering.FIRST, ordering.LAST) else ""
        note = self.note if self.note is not None else pins.note_of(is_filter, str(wish))
        pin = pins.LinkPin(self.hook, self.link, self.netns, note)
        return hooks.Target(self.owner or "", self.object, self.program, pin)


class TcxValue(Value):
    KIND = "tcx_attach"


class NetkitValue(Value):
    KIND = "netkit_attach"


class XdpValue(Value):
    KIND = "xdp_attach"


VALUES: t.Dict[str, t.Type[Value]] = {kind.KIND: kind for kind in (TcxValue, NetkitValue, XdpValue)}


# --- input ----------------------------------------------------------------------------------------------------------------


def value_of(kind: str, hook: str, item: t.Mapping[str, t.Any], path: str, owner: str) -> Value:
    """The fields that all attachments have. ``complete`` has filled in the program."""
    _fields.require(item, ("object", "link"), path)
    name = bpf_object.object_name(item["object"], f"{path}.object")
    if not item.get("program"):
        raise SpecError(
            f"{path}.object",
            f"object {name} is not there, so its program is not known; declare it under bpf_object of the same topology, "
            f"or load it first (which check mode does not do)",
        )
    value = VALUES[kind](
        name,
        bpf_object.program_name(item["program"], f"{path}.program"),
        _fields.ifname(item["link"], f"{path}.link"),
        _fields.netns(item.get("netns"), f"{path}.netns"),
        hook,
        health=OK,
        owner=owner,
    )
    if len(pins.file_name(value.target(is_filter=True).pin)) > 240:
        raise SpecError(f"{path}.netns", "too long for the name of a pin together with the device")
    return value


def ordered(value: Value, item: t.Mapping[str, t.Any], path: str) -> Value:
    """The value with the place in the list that the item asks for."""
    wish, given = item.get("order"), item.get("relative_to")
    if wish not in (ordering.BEFORE, ordering.AFTER):
        if given:
            raise SpecError(f"{path}.relative_to", "belongs to order: before and order: after")
        return dataclasses.replace(value, order=wish)
    if not given:
        raise SpecError(
            f"{path}.relative_to", f"missing; say which program to be placed {wish}: object, name or id"
        )
    told = [name for name in ("object", "name", "id") if given.get(name) not in (None, "")]
    if len(told) != 1:
        raise SpecError(f"{path}.relative_to", "give one of object (with program), name and id")
    anchor = ordering.Anchor(name=given.get("name") or "", id=given.get("id") or 0)
    if given.get("object"):
        other = given["object"]
        owned = other if "/" in other else f"{value.owner}/{other}"
        anchor = ordering.Anchor(object=owned, program=given.get("program") or "")
    return dataclasses.replace(value, order=wish, relative_to=str(anchor))


def anchor_of(text: t.Optional[str]) -> t.Optional[ordering.Anchor]:
    """The inverse of str(Anchor): ``topology/object[:program]``, ``id 12``, or a name."""
    if not text:
        return None
    if text.startswith("id "):
        return ordering.Anchor(id=int(text[3:]))
    if "/" in text:
        name, _colon, program = text.partition(":")
        return ordering.Anchor(object=name, program=program)
    return ordering.Anchor(name=text)


Known = t.Callable[
    [str], t.Optional[t.Tuple[t.Mapping[str, str], str]]
]  # object: its programs with types, its source


def complete(kind: str, item: t.Mapping[str, t.Any], path: str, known: Known) -> t.Mapping[str, t.Any]:
    """The item with the program that goes without saying. ``known`` answers None for an object that it has never heard of."""
    anchor = item.get("relative_to")
    if anchor and anchor.get("object") and not anchor.get("program"):
        other = known(anchor["object"])
        if other is not None:  # so that one that is declared too is attached first
            with contextlib.suppress(SpecError):
                program = default_program(kind, *other, path, anchor["object"])
                item = {**item, "relative_to": {**anchor, "program": program}}
    if item.get("program") or not item.get("object"):
        return item
    found = known(item["object"])
    if found is None:
        return item
    programs, source = found
    program = default_program(kind, programs, source, path, item["object"])
    return {**item, "program": program}


def default_program(kind: str, programs: t.Mapping[str, str], source: str, path: str, name: str) -> str:
    """The object's only program for such a hook, or the one that is called like its source.

    ``programs`` are names with their types, tc or xdp. SpecError says which there are.
    """
    fitting = [program for program, of_type in sorted(programs.items()) if of_type == FITTING[kind]]
    stem = source.split(".")[0]
    if len(fitting) == 1:
        return fitting[0]
    if stem in fitting:
        return stem
    known = ", ".join(f"{program} ({of_type})" for program, of_type in sorted(programs.items())) or "none"
    what = "several programs that fit" if fitting else f"no program of type {FITTING[kind]}"
    raise SpecError(f"{path}.program", f"missing; object {name} has {what}: it has {known}")


# --- what there is --------------------------------------------------------------------------------------------------------

Place = t.Tuple[str, str, str]  # hook, link, netns
Asked = t.Tuple[hooks.Target, t.Optional[Value]]  # value None: not wanted (any more)


def asked(kind: str, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str) -> t.Dict[Key, Asked]:
    """The attachments that a run is about: wanted ones, and those that pins tell of and that stand on what may go."""
    found: t.Dict[Key, Asked] = {}
    for key, value in wanted.items():
        if key.kind == kind:
            target = value.target() if value is not None else _target_of(key)
            if target is not None:
                found[key] = (target, value)
    everything = topology != _fields.TASKS
    names = {
        key.id.split("/", 1)[1]
        for key, value in wanted.items()
        if key.kind == bpf_object.NAME and value is None
    }
    devices = {(key.netns, key.id) for key in wanted if key.kind in ("link", "existing_link", "on_link")}
    spaces = {key.id for key in wanted if key.kind == "netns"}
    if not (everything or names or devices or spaces):
        return found
    for name in pins.objects(topology):
        for program, pin in pins.links(topology, name):
            if HOOK_KINDS.get(pin.hook) != kind:
                continue
            if everything or name in names or (pin.netns, pin.link) in devices or pin.netns in spaces:
                target = hooks.Target(topology, name, program, pin)
                found.setdefault(key_of(kind, target), (target, None))
    return found


def key_of(kind: str, target: hooks.Target) -> Key:
    pin = target.pin
    program = f"{target.topology}/{target.object}:{target.program}"
    return Key(kind, pin.netns, f"{pin.link} {pin.hook} {program}")


def _target_of(key: Key) -> t.Optional[hooks.Target]:
    """The attachment that a key tells; the inverse of key_of."""
    link, hook, program = key.id.split(" ", 2)
    owner, _slash, rest = program.partition("/")
    name, _colon, program = rest.partition(":")
    return hooks.Target(owner, name, program, pins.LinkPin(hook, link, key.netns))


def plain_value(kind: str, target: hooks.Target, wanted: t.Optional[Value], **fields: t.Any) -> Value:
    """An observed value, with what was asked for where that holds."""
    base = wanted or VALUES[kind](
        target.object,
        target.program,
        target.pin.link,
        target.pin.netns,
        target.pin.hook,
        order=target.pin.order or None,
        owner=target.topology,
    )
    return dataclasses.replace(base, **{"health": OK, **fields})


def pinned_program(host: Host, target: hooks.Target) -> int:
    """The id of the program that is pinned for a target now, 0 when there is none."""
    state = bpf_object.installed(host, target.topology, target.object)
    program = state.programs.get(target.program) if state else None
    return program.info.id if program else 0


def on_their_way(
    kind: str, host: Host, asked: t.Mapping[Key, Asked], found: t.Container[Key]
) -> t.Iterator[t.Tuple[Key, hooks.Target, Value, Key, hooks.Target]]:
    """What is wanted here while its device is still in another namespace with it, from which this run will fetch it.

    (key, target, wanted value) and (key, target) there.
    """
    index: t.Dict[t.Tuple[str, ...], t.List[hooks.Target]] = {}
    missing = [
        (key, target, value)
        for key, (target, value) in asked.items()
        if value is not None
        and key not in found
        and host.find_link(target.pin.netns, target.pin.link) is None
    ]
    for topology, name in dict.fromkeys(target[:2] for _key, target, _value in missing):
        for program, pin in pins.links(topology, name):
            place = (topology, name, program, pin.hook, pin.link)
            index.setdefault(place, []).append(hooks.Target(topology, name, program, pin))
    for key, target, value in missing:
        for other in index.get((*target[:3], target.pin.hook, target.pin.link), ()):
            other_key = key_of(kind, other)
            wanted_there = other_key in asked and asked[other_key][1] is not None
            if not wanted_there and host.find_link(other.pin.netns, other.pin.link) is not None:
                yield key, target, value, other_key, other
                break


def check_type(target: hooks.Target, prog_fd: int, kind: str) -> None:
    """Refuse a program that the kernel would refuse with a riddle."""
    number = bpf.prog_info(prog_fd).type
    wanted = FITTING[kind]
    types = {bpf.ProgType.SCHED_CLS: "tc", bpf.ProgType.XDP: "xdp"}
    found = types.get(t.cast(bpf.ProgType, number), f"type {number}")
    if found != wanted:
        raise PlanError(
            f"{target}: {target.program} is a program of type {found}, this hook takes {wanted}; "
            f"its SEC() or the object's programs say so"
        )


def clean(target: hooks.Target) -> None:
    """Remove pins that hold no live attachment: the device went, or a run was killed half-way."""
    for path in target.paths():
        objects.detach(path)


def no_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def task_keys(
    kind: str, hook: str, item: t.Mapping[str, t.Any], path: str, claims: t.Mapping[Key, Claim]
) -> t.List[Key]:
    """The attachments that a task means to remove: all of the object at the hook, when it names no program."""
    if item.get("program"):
        return [value_of(kind, hook, item, path, _fields.TASKS).key()]
    example = value_of(kind, hook, {**item, "program": "any"}, path, _fields.TASKS).key()
    start = example.id[: -len("any")]
    return [key for key in claims if key[:2] == example[:2] and key.id.startswith(start)]


def check_pins() -> None:
    """Refuse to look at pins that a second bpffs hides."""
    bpffs.mounts()


def program_path(value: Value) -> str:
    """Where the pin of the program is, for people."""
    return pins.program_pin(str(value.owner), value.object, value.program)


def line_of(value: Value) -> str:
    """The attachment in a text about a topology."""
    how = " ".join(word for word in (value.mechanism, value.mode) if word)
    trouble = f", {value.health}" if value.health != OK else ""
    return f"{value.link} {value.hook}: {value.object}:{value.program}" + (
        f" ({how}{trouble})" if how else ""
    )


def item_of(value: Value) -> t.Dict[str, t.Any]:
    item: t.Dict[str, t.Any] = {"object": value.object, "program": value.program, "link": value.link}
    if value.netns:
        item["netns"] = value.netns
    return item
