# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Counters of BPF objects around probes: that they have grown proves where packets went, which an answer alone does not."""

from __future__ import annotations

import dataclasses
import typing as t

from . import _inspect_maps
from ._errors import SpecError

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "type": "list",
    "elements": "dict",
    "default": [],
    "options": {
        "object": {"type": "str", "required": True},
        "topology": {"type": "str", "default": "tasks"},
        "map": {"type": "str", "default": _inspect_maps.COUNTERS},
        "key": {"type": "raw", "required": True, "no_log": False},
        "field": {"type": "str", "default": "packets"},
        "expect": {"type": "str", "choices": ["grows", "stays"], "default": "grows"},
    },
}


@dataclasses.dataclass(frozen=True)
class Counter:
    """A number in a map, the sum over all CPUs, and what it shall do. ``path`` is its place in the input."""

    topology: str
    object: str
    map: str
    key: t.Any
    field: str
    expect: str
    path: str

    @property
    def label(self) -> str:
        return f"object {self.topology}/{self.object}: map {self.map}, key {self.key}"


@dataclasses.dataclass(frozen=True)
class Move:
    counter: Counter
    before: int
    after: int

    @property
    def expected(self) -> bool:
        return self.after > self.before if self.counter.expect == "grows" else self.after == self.before

    def problem(self) -> str:
        """The line for a counter that did otherwise; empty when all is well."""
        if self.expected:
            return ""
        wanted = "to grow" if self.counter.expect == "grows" else "to stay"
        return f"{self.counter.label}: {self.before} before and {self.after} after; expected {wanted}"

    def result(self) -> t.Dict[str, t.Any]:
        return {
            "object": f"{self.counter.topology}/{self.counter.object}",
            "map": self.counter.map,
            "key": self.counter.key,
            "before": self.before,
            "after": self.after,
            "expected": self.expected,
        }


def parse(items: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[Counter]:
    return [Counter(**item, path=f"counters[{number}]") for number, item in enumerate(items)]


def moves(counters: t.Sequence[Counter], before: t.Sequence[int], after: t.Sequence[int]) -> t.List[Move]:
    return [Move(*row) for row in zip(counters, before, after)]


def number_in(entry: t.Mapping[str, t.Any], counter: Counter) -> int:
    """The number in an entry of ``_inspect_maps.read_map``. Raises SpecError when there is none."""
    found = entry["total"] if "total" in entry else entry["value"]
    if isinstance(found, dict):
        known = ", ".join(found)
        found = found.get(counter.field)
        if found is None:
            raise SpecError(
                f"{counter.path}.field", f"{counter.label} has no {counter.field}; it has {known}"
            )
    if isinstance(found, bool) or not isinstance(found, int):
        raise SpecError(f"{counter.path}.map", f"{counter.label} is no number")
    return found


def read(counters: t.Sequence[Counter]) -> t.List[int]:
    """The numbers as they are now. An entry that is not there (yet) is 0. Raises SpecError, PlanError, KernelError."""
    return [_read_one(counter) for counter in counters]


def _read_one(counter: Counter) -> int:
    place = {"topology": counter.topology, "object": counter.object, "map": counter.map, "id": None}
    try:
        entries = _inspect_maps.read_map({**place, "keys": [counter.key], "limit": 1})["entries"]
    except SpecError as problem:
        option = "key" if problem.path.startswith("keys") else problem.path
        raise SpecError(f"{counter.path}.{option}", problem.problem) from None
    return number_in(entries[0], counter) if entries else 0
