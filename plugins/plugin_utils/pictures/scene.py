# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a picture of a topology shows, whatever draws it: boxes, ports, cables, programs, policies, each with a status. Pure.

`parts` reads a document, or what a run says, into parts: a flat mapping from the identity of a thing to facts about it.
Two such mappings laid upon each other (`overlay`) give every thing its status; `assembled` makes the scene of the result.
"""

from __future__ import annotations

import dataclasses
import typing as t

SAME, ADDED, REMOVED, CHANGED, FOREIGN = "same", "added", "removed", "changed", "foreign"
STATUSES = (SAME, ADDED, REMOVED, CHANGED, FOREIGN)
HOST = "host"  # how the namespace without a name is called in pictures

Key = t.Tuple[str, ...]  # the sort of a part, then its identity
Facts = t.Dict[str, t.Optional[str]]  # None: not said
Parts = t.Dict[Key, Facts]
Place = t.Tuple[str, str]  # namespace ('' for the host's own) and device


@dataclasses.dataclass(frozen=True)
class Part:
    """Facts with their status; ``before`` are the earlier ones of a changed part."""

    facts: Facts
    status: str = SAME
    before: t.Optional[Facts] = None

    def text(self, name: str) -> str:
        """A fact as text, of a changed part with what it was: ``1500 → 1400``."""
        now = self.facts.get(name)
        old = (self.before or {}).get(name)
        if old is not None and now is not None and old != now:
            return f"{old} → {now}"
        return now or ""


@dataclasses.dataclass(frozen=True)
class Text:
    text: str
    status: str = SAME


@dataclasses.dataclass(frozen=True)
class Hook:
    """A hook of a device and the programs there, in the order in which they run."""

    name: str
    programs: t.Tuple[Text, ...]


@dataclasses.dataclass(frozen=True)
class Port:
    """A device in its namespace."""

    place: Place
    status: str
    about: str  # kind, MTU, state
    addresses: t.Tuple[Text, ...]
    hooks: t.Tuple[Hook, ...]

    @property
    def name(self) -> str:
        return self.place[1]


@dataclasses.dataclass(frozen=True)
class Cable:
    """A pair of devices."""

    ends: t.Tuple[Place, Place]
    label: str
    status: str


@dataclasses.dataclass(frozen=True)
class Box:
    """A network namespace; '' is the host's own."""

    netns: str
    status: str
    ports: t.Tuple[Port, ...]
    lines: t.Tuple[Text, ...]

    @property
    def title(self) -> str:
        return self.netns or HOST


@dataclasses.dataclass(frozen=True)
class Row:
    cells: t.Tuple[str, ...]
    status: str = SAME


@dataclasses.dataclass(frozen=True)
class Table:
    """The policy of a router, or its pools."""

    title: str
    columns: t.Tuple[str, ...]
    rows: t.Tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    title: str
    boxes: t.Tuple[Box, ...]
    cables: t.Tuple[Cable, ...]
    tables: t.Tuple[Table, ...]


# --- laying things upon each other ---------------------------------------------------------------------------------------


def overlay(before: Parts, after: Parts) -> t.Dict[Key, Part]:
    """What is there before and what after, as one: in the order of ``after``, what goes away last."""
    found: t.Dict[Key, Part] = {}
    for key, facts in after.items():
        old = before.get(key)
        if old is None:
            found[key] = Part(facts, ADDED)
        elif _differ(old, facts):
            found[key] = Part({**old, **facts}, CHANGED, old)
        else:
            found[key] = Part({**old, **_said(facts)})
    for key, facts in before.items():
        if key not in after:
            found[key] = Part(facts, REMOVED)
    return found


def with_surroundings(own: t.Mapping[Key, Part], host: Parts) -> t.Dict[Key, Part]:
    """Own parts, with what the host knows about them, and the host's other parts as foreign."""
    found = {key: _completed(part, host.get(key, {})) for key, part in own.items()}
    done = "\n".join(part.text("action") for key, part in own.items() if key[0] == "row")
    for key, facts in host.items():
        if key in found or _is_default(key, facts):
            continue
        # A namespace is where things are; the host's own belongs to nobody. Routers keep the neighbours that they send to.
        ours = key == ("box", "") or (
            key[:1] + key[2:3] == ("line", "neighbor") and f"via {key[4]} dev {key[3]}" in done
        )
        found[key] = Part(facts, SAME if ours else FOREIGN)
    return found


def _is_default(key: Key, facts: Facts) -> bool:
    """A switch that is off is nothing that somebody put there."""
    return key[:1] + key[2:3] == ("line", "sysctl") and (facts.get("text") or "").endswith(": off")


def _completed(part: Part, facts: Facts) -> Part:
    return dataclasses.replace(part, facts={**facts, **_said(part.facts)})


def _said(facts: Facts) -> Facts:
    return {name: text for name, text in facts.items() if text is not None}


def _differ(old: Facts, new: Facts) -> bool:
    """Whether something that both say differs; what only one says is not a change."""
    return any(old.get(name) is not None and old[name] != text for name, text in _said(new).items())


def with_programs(own: t.Mapping[Key, Part], attached: t.Sequence[Key]) -> t.Dict[Key, Part]:
    """The chips in the order in which the kernel runs them (``attached``); who is not ours there is foreign.

    What the kernel does not have stays where it is to be added, after the others of its hook.
    """
    chips = {key: part for key, part in own.items() if key[0] == "chip"}
    found = {key: part for key, part in own.items() if key[0] != "chip"}
    for key in attached:
        mine = next((other for other in chips if _same_program(other, key)), None)
        if mine is not None:
            found[key] = chips.pop(mine)
        else:
            found[key] = Part({}, SAME if key[4] else FOREIGN)
        found.setdefault(("port", *key[1:3]), Part({}, FOREIGN))
        found.setdefault(("box", key[1]), Part({}))
    found.update((key, part) for key, part in chips.items() if part.status != SAME or not attached)
    return found


def _same_program(one: Key, other: Key) -> bool:
    """Keys are ("chip", netns, device, hook, object, program); a document need not name the program, nor know clsact."""
    same_place = one[1:3] == other[1:3] and one[3].split()[-1] == other[3].split()[-1]
    return (
        same_place
        and one[4] == other[4]
        and bool(one[4])
        and (one[5] == other[5] or "" in (one[5], other[5]))
    )


# --- the scene of the parts ---------------------------------------------------------------------------------------------

HOOKS = (
    "xdp",
    "netkit primary",
    "netkit peer",
    "tcx ingress",
    "clsact ingress",
    "tcx egress",
    "clsact egress",
)
LINES = ("route", "rule", "neighbor", "sysctl")
MOST = 12  # lines of a box, and rows of a table, before "and N more"


Placed = t.Dict[t.Tuple[str, ...], t.List[t.Tuple[Key, Part]]]


def assembled(parts: t.Mapping[Key, Part], title: str, most: int = MOST) -> Scene:
    """The scene. ``most``: how many lines of one sort, and rows of one table, are shown."""
    parts = _with_implied(parts)
    placed: Placed = {}  # by sort and place, so that each part is looked at once
    for key, part in parts.items():
        depth = {"address": 3, "chip": 3, "line": 3, "port": 2}.get(key[0], 1)
        placed.setdefault(key[:depth], []).append((key, part))
    spaces = sorted(
        ((key[1], part) for key, part in placed.get(("box",), ())), key=lambda one: (one[0] != "", one[0])
    )
    boxes = tuple(_box(placed, space, part.status, most) for space, part in spaces)
    cables = tuple(
        Cable(((key[1], key[2]), (key[3], key[4])), part.text("label"), part.status)
        for key, part in placed.get(("cable",), ())
    )
    shown = tuple(box for box in boxes if box.ports or box.lines or box.netns)
    return Scene(title, shown, cables, _tables(placed.get(("row",), ()), most))


def _with_implied(parts: t.Mapping[Key, Part]) -> t.Dict[Key, Part]:
    """Devices and namespaces that others name without anybody having declared them."""
    found = dict(parts)
    for key in parts:
        if key[0] in ("address", "chip"):
            found.setdefault(("port", key[1], key[2]), Part({}))
    for key in tuple(found):
        if key[0] in ("port", "line"):
            found.setdefault(("box", key[1]), Part({}))
    return found


def _box(placed: Placed, space: str, status: str, most: int) -> Box:
    ports = tuple(_port(placed, (key[1], key[2]), part) for key, part in placed.get(("port", space), ()))
    lines: t.List[Text] = []
    for sort in LINES:
        found = [Text(part.text("text"), part.status) for _key, part in placed.get(("line", space, sort), ())]
        shown, more = _shortened(found, most)
        lines += shown
        if more:
            lines.append(Text(f"and {more} more: {sort}"))
    return Box(space, status, ports, tuple(lines))


def _port(placed: Placed, place: Place, part: Part) -> Port:
    words = [part.text("kind")]
    if part.text("mtu"):
        words.append(f"mtu {part.text('mtu')}")
    words.append(part.text("state"))
    for name, word in (("master", "in"), ("parent", "on")):
        if part.text(name):
            words.append(f"{word} {part.text(name)}")
    addresses = tuple(Text(key[3], other.status) for key, other in placed.get(("address", *place), ()))
    hooks = _hooks(placed.get(("chip", *place), ()))
    return Port(place, part.status, " ".join(filter(None, words)), addresses, hooks)


def _hooks(chips: t.Iterable[t.Tuple[Key, Part]]) -> t.Tuple[Hook, ...]:
    found: t.Dict[str, t.List[t.Tuple[int, Text]]] = {}
    for key, part in chips:
        rank = {"first": -1, "last": 1}.get(part.facts.get("order") or "", 0)
        found.setdefault(key[3], []).append((rank, Text(program_label(key[4], key[5]), part.status)))
    hooks = sorted(found, key=lambda name: (HOOKS.index(name) if name in HOOKS else len(HOOKS), name))
    return tuple(
        Hook(name, tuple(text for _rank, text in sorted(found[name], key=lambda pair: pair[0])))
        for name in hooks
    )


def program_label(object_name: str, program: str) -> str:
    """``count`` for the program of that name of that object, ``count:other`` for another of it, foreign ones by name."""
    if not object_name or not program or object_name == program:
        return object_name or program
    return f"{object_name}:{program}"


def _tables(rows: t.Iterable[t.Tuple[Key, Part]], most: int) -> t.Tuple[Table, ...]:
    """One table for each router and sort: its policy, its pools."""
    groups: t.Dict[t.Tuple[str, str], t.List[Part]] = {}
    for key, part in rows:
        groups.setdefault((key[1], key[2]), []).append(part)
    tables = []
    for (title, first), parts in groups.items():
        counted = any(part.facts.get("packets") is not None for part in parts)
        names = ("match", "action", *(("packets", "bytes", "last_hit") if counted else ()))
        shown, more = _shortened(
            [Row(tuple(part.text(name) for name in names), part.status) for part in parts], most
        )
        if more:
            shown.append(Row((f"and {more} more", *("" for _name in names[1:]))))
        tables.append(Table(title, (first, "does", *names[2:]), tuple(shown)))
    return tuple(tables)


Shown = t.TypeVar("Shown", Text, Row)


def _shortened(found: t.List[Shown], most: int) -> t.Tuple[t.List[Shown], int]:
    """At most so many of them, and how many were left out. What differs is never left out."""
    plain = [number for number, item in enumerate(found) if item.status in (SAME, FOREIGN)]
    left_out = set(plain[max(0, most - (len(found) - len(plain))) :])
    return [item for number, item in enumerate(found) if number not in left_out], len(left_out)
