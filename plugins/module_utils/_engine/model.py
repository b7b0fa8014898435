# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The engine's words: key, value, desired, observed, claim, operation, plan. Plain data, no input or output.

A *value* is a frozen dataclass of one resource. In a desired value a field that is None is not declared and left alone;
in an observed value every field is filled in. An *operation* holds the whole value before and after, so its inverse is
the same operation read backwards, what check mode predicts is ``after``, and no kind needs code of its own for undo.
"""

from __future__ import annotations

import dataclasses
import typing as t

CREATE, CHANGE, DELETE = "create", "change", "delete"

ON_LINK = "on_link"  # a key of this kind asks observe() for whatever lies on a link
ANY_TOPOLOGY = "*"  # the kernel's mark says ours, without saying which topology's (a protocol number)


class Key(t.NamedTuple):
    """The identity of a resource on one host. ``netns`` '' is the namespace in which the module runs."""

    kind: str
    netns: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (
            f" in netns {self.netns}" if self.netns and self.kind != "netns" else ""
        )


class Value(t.Protocol):
    """What the engine needs of a resource's dataclass."""

    def key(self) -> Key:
        """What no two of a host share."""

    def needs(self) -> t.Tuple[Key, ...]:
        """Keys that must exist first: the namespace, the link, the parent."""

    def provides(self) -> t.Tuple[Key, ...]:
        """Keys that exist once this does; a pair provides both of its links."""

    @property
    def owner(self) -> t.Optional[str]:
        """Desired: our topology. Observed: the topology that the kernel's mark names, ANY_TOPOLOGY, or None for foreign."""


@dataclasses.dataclass(frozen=True)
class Desired:
    """A declared value, the place in the input where it stands, and what may be done to get there."""

    value: t.Any
    path: str
    recreate: bool = False
    adopt: bool = False
    alternative: t.Optional[t.Any] = None  # taken when the kernel cannot make ``value``

    @property
    def key(self) -> Key:
        return self.value.key()


@dataclasses.dataclass(frozen=True)
class Claim:
    """A key that an earlier run of the topology made (or borrowed).

    ``saved`` is what a borrowed resource was before we first touched it. ``unfinished`` marks what a run that was killed was
    about to make on this boot: it is ours although its mark may be missing. ``displaced_by`` names the borrowed device whose
    move made somebody else's resource vanish (an address on a NIC): it is put back when the device is given back.
    """

    saved: t.Optional[t.Any] = None
    unfinished: bool = False
    displaced_by: t.Optional[Key] = None


@dataclasses.dataclass(frozen=True)
class Observed:
    """What the host has of everything that is declared or claimed, and a view on the names around it."""

    values: t.Mapping[Key, t.Any]
    exists: t.Callable[[Key], bool] = lambda key: False  # for namespaces and links that nobody declared
    supports: t.Callable[[t.Any], t.Optional[str]] = lambda value: (
        None
    )  # None, or what the kernel lacks to make it


@dataclasses.dataclass(frozen=True)
class Operation:
    """One change as plain data. ``within`` names the deletion that carries this one out (a link takes its addresses along)."""

    verb: str
    key: Key
    before: t.Any  # None: it is not there
    after: t.Any
    reason: str
    within: t.Optional[Key] = None

    def inverse(self) -> Operation:
        verb = {CREATE: DELETE, DELETE: CREATE, CHANGE: CHANGE}[self.verb]
        return Operation(verb, self.key, self.after, self.before, f"undo: {self.reason}", self.within)

    @property
    def value(self) -> t.Any:
        """The value that the operation is about: after, or before for a deletion."""
        return self.before if self.after is None else self.after

    def __str__(self) -> str:
        return f"{self.verb} {self.key} ({self.reason})"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Operations in the order in which they run; empty when the host is converged."""

    operations: t.Tuple[Operation, ...] = ()
    notes: t.Tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)


class Kind(t.Protocol):
    """The functions that each resource module offers to the engine (modules satisfy this protocol)."""

    NAME: str
    RANK: int  # creation order among kinds; deletion runs the other way
    BORROWED: bool  # changed and given back, never created or deleted
    Value: t.Any

    def observe(
        self, host: t.Any, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
    ) -> t.Dict[Key, t.Any]:
        """What the host has of the wanted keys of all kinds, and of what would vanish with them.

        A wanted value is None when the key is not declared, only claimed. Claimed keys were made by an earlier run.
        """

    def fixed(self, before: t.Any, after: t.Any) -> t.List[str]:
        """The fields in which the two differ and that the kernel cannot change on an existing object."""

    # Kinds may also have: merged(observed, desired) where the general merge does not fit, broken(value) for damage that is
    # rebuilt without being asked, lacking(host, value) for what the kernel lacks to make a value,
    # advice(host, operations) for traps to be told, settled(host, desired, observed) for what only the host can fill in,
    # exists(host, key) where others may need it undeclared, stands_on(key) for what a claim goes with, LINGERS for what does
    # not vanish with what it stands on, ENUMERATED when observe() finds all that a topology has, WHOLE when a declaration leaves
    # nothing undeclared, NAMES_DEVICES when values hold indexes of devices that they name, GOES_LAST when what is removed may be
    # named by others until they have changed, restored(before, now) where undo may leave more in order than there was,
    # is_empty(value) when nothing is left to be claimed, joined(parts) where several items declare one value,
    # prechecked(host, operations, plan) for what would fail half-way, and for telling summary(before, after), shown(value) and
    # diff_lines(before, after).
    # A value may have follows(): keys that, when they are declared too, come first without being needed.

    def side_effects(
        self, operation: Operation, state: t.Mapping[Key, t.Any]
    ) -> t.Dict[Key, t.Optional[t.Any]]:
        """Other values that the kernel changes along with this operation; None: it disappears."""

    def apply(self, host: t.Any, operation: Operation) -> None:
        """Carry one operation out; raises KernelError or UnsupportedError."""

    def commands(self, operation: Operation) -> t.List[str]:
        """The equivalent lines that a person would type."""


def merge(observed: t.Any, desired: t.Any) -> t.Any:
    """The observed value with every declared field of the desired one; nested dataclasses and mappings field by field."""
    if dataclasses.is_dataclass(desired) and dataclasses.is_dataclass(observed):
        changes = {}
        for name in field_names(type(desired)):
            wanted = getattr(desired, name)
            if wanted is None:
                continue
            had = getattr(observed, name)
            if wanted != had:
                changes[name] = merge(had, wanted)
        return t.cast(t.Any, dataclasses.replace)(observed, **changes) if changes else observed
    if isinstance(desired, dict) and isinstance(observed, dict):
        return {**observed, **desired}
    return desired


def project(observed: t.Any, desired: t.Any) -> t.Any:
    """The observed value reduced to the fields that the desired one declares: what a reader compares."""
    if dataclasses.is_dataclass(desired) and dataclasses.is_dataclass(observed):
        fields = {
            name: project(getattr(observed, name), getattr(desired, name))
            if getattr(desired, name) is not None
            else None
            for name in field_names(type(desired))
        }
        return t.cast(t.Any, type(observed))(**fields)
    if isinstance(desired, dict) and isinstance(observed, dict):
        return {name: observed.get(name) for name in desired}
    return observed


def describe(value: t.Any) -> t.Dict[str, t.Any]:
    """A value as plain data for results and files: declared fields only, nested values likewise."""
    described: t.Dict[str, t.Any] = {}
    for name in field_names(type(value)):
        part = getattr(value, name)
        if part is None or part == {}:
            continue
        if hasattr(part, "described"):
            part = part.described()
        described[name] = describe(part) if dataclasses.is_dataclass(part) else part
    return described


BOOKKEEPING = (
    "owner",
    "id",
    "strangers",
    "made_by",
    "exceptions",
    "blocked",
    "position",
    "note",
    "incompatible_maps",
    "adopt",
    "validate",
    "audit",
)  # fields that are not state that a user declared


def differences(
    before: t.Any, after: t.Any, prefix: str = "", skip: t.Container[str] = ()
) -> t.List[t.Tuple[str, t.Any, t.Any]]:
    """(field, before, after) for each field in which two values of one kind differ, nested fields with dots."""
    found: t.List[t.Tuple[str, t.Any, t.Any]] = []
    for name in field_names(type(after)):
        had, has = getattr(before, name), getattr(after, name)
        if had == has or name in skip:
            continue
        if dataclasses.is_dataclass(has) and dataclasses.is_dataclass(had):
            found += differences(had, has, f"{prefix}{name}.", skip)
        elif isinstance(has, dict) and isinstance(had, dict):
            found += [
                (prefix + key, had.get(key), has.get(key))
                for key in {**had, **has}
                if had.get(key) != has.get(key)
            ]
        else:
            found.append((prefix + name, had, has))
    return found


_FIELD_NAMES: t.Dict[type, t.Tuple[str, ...]] = {}


def field_names(kind: t.Any) -> t.Tuple[str, ...]:
    """The field names of a dataclass, remembered: dataclasses.fields() dominates plans of thousands of values."""
    names = _FIELD_NAMES.get(kind)
    if names is None:
        names = _FIELD_NAMES[kind] = tuple(field.name for field in dataclasses.fields(kind))
    return names
