# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The working state of a plan: values by key, with the names that they provide and an index of what stands on what.

Pure. The index keeps plans linear: a deletion finds its dependants without looking at everything else.
"""

from __future__ import annotations

import collections
import typing as t

from .model import Key


class State(t.Mapping[Key, t.Any]):
    """What the host will have; ``put`` is the only way to change it."""

    def __init__(self, values: t.Mapping[Key, t.Any]) -> None:
        self._values: t.Dict[Key, t.Any] = {}
        self._names: t.Counter[Key] = collections.Counter()
        self._standing: t.Dict[Key, t.Dict[Key, None]] = {}
        self._kinds: t.Dict[str, t.Dict[Key, None]] = {}
        for key, value in values.items():
            self.put(key, value)

    def __getitem__(self, key: Key) -> t.Any:
        return self._values[key]

    def __iter__(self) -> t.Iterator[Key]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: Key, value: t.Optional[t.Any]) -> None:
        """Write one value, or drop it (None)."""
        had = self._values.pop(key, None)
        if had is not None:
            self._names.subtract(had.provides())
            self._kinds[key.kind].pop(key)
            for need in had.needs():
                self._standing.get(need, {}).pop(key, None)
        if value is not None:
            self._values[key] = value
            self._names.update(value.provides())
            self._kinds.setdefault(key.kind, {})[key] = None
            for need in value.needs():
                self._standing.setdefault(need, {})[key] = None

    def provides(self, name: Key) -> bool:
        """Whether some value provides the name."""
        return self._names[name] > 0

    def of_kind(self, kind: str) -> t.List[Key]:
        return list(self._kinds.get(kind, ()))

    def standing_on(self, *names: Key) -> t.List[Key]:
        """The keys of the values that need one of the names, in the order in which they came."""
        return list(dict.fromkeys(key for name in names for key in self._standing.get(name, ())))
