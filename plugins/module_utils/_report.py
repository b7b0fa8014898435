# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a run says: states by kind, one line per resource for diffs, texts of operations. Pure."""

from __future__ import annotations

import typing as t

from ._engine.converge import Outcome
from ._engine.model import BOOKKEEPING, Key, Operation, describe, project
from ._resources import KINDS


def shown(value: t.Any) -> t.Dict[str, t.Any]:
    """The declared fields of a value, without bookkeeping; the host's own namespace goes without saying."""
    own = getattr(KINDS[value.key().kind], "shown", None)
    if own:
        return t.cast(t.Dict[str, t.Any], own(value))
    fields = {name: part for name, part in describe(value).items() if name not in BOOKKEEPING}
    if not fields.get("netns"):
        fields.pop("netns", None)
    return fields


def states(values: t.Mapping[Key, t.Any]) -> t.Dict[str, t.List[t.Dict[str, t.Any]]]:
    """Values grouped by kind, in the order in which kinds are created."""
    grouped: t.Dict[str, t.List[t.Dict[str, t.Any]]] = {}
    for key, value in values.items():
        grouped.setdefault(key.kind, []).append(shown(value))
    return {kind: grouped[kind] for kind in sorted(grouped, key=lambda name: (KINDS[name].RANK, name))}


def line_of(value: t.Any) -> str:
    """One resource on one line: its identity, then what else is declared of it."""
    fields = {name: part for name, part in shown(value).items() if name not in (*value.IDENTITY, "netns")}
    words = _words(fields)
    return f"{value.key()}: {' '.join(words)}" if words else str(value.key())


PREFIXED = ("peer", "constants", "maps", "programs")  # what else a mapping holds goes without the name


def _words(fields: t.Mapping[str, t.Any], prefix: str = "") -> t.List[str]:
    words = []
    for name, part in fields.items():
        if isinstance(part, dict):
            words += _words(part, f"{name}." if name in PREFIXED else "")
        elif part not in ("", None) and (name, part) != ("health", "ok"):
            words.append(f"{prefix}{name}={str(part).lower() if isinstance(part, bool) else part}")
    return words


def diff_of(outcome: Outcome, title: str) -> t.Dict[str, str]:
    """Before and after of what the plan touches, one line a resource, for ``--diff``."""
    touched: t.Dict[Key, None] = dict.fromkeys(operation.key for operation in outcome.plan.operations)
    first = {op.key: op.before for op in reversed(outcome.plan.operations)}
    last = {op.key: op.after for op in outcome.plan.operations}

    before: t.List[str] = []
    after: t.List[str] = []
    for key in touched:
        lines = getattr(KINDS[key.kind], "diff_lines", None)
        if lines:
            old, new = lines(first.get(key), last.get(key))
        else:
            old, new = (
                [line_of(_declared(outcome, key, values[key]))] if values.get(key) is not None else []
                for values in (first, last)
            )
        before += old
        after += new
    return {
        "before_header": title,
        "after_header": title,
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }


def _declared(outcome: Outcome, key: Key, value: t.Any) -> t.Any:
    """The value reduced to the fields that differ or are declared, so that a line shows no noise."""
    example = outcome.after.get(key) or outcome.before.get(key)
    if example is None or type(example) is not type(value):
        return value
    return project(value, example)


def actions(operations: t.Iterable[Operation]) -> t.List[str]:
    return [str(operation) for operation in operations if operation.within is None]


def commands(operations: t.Iterable[Operation]) -> t.List[str]:
    """The equivalent command lines, in order."""
    return [
        line
        for operation in operations
        if operation.within is None
        for line in KINDS[operation.key.kind].commands(operation)
    ]


def result(outcome: Outcome, title: str) -> t.Dict[str, t.Any]:
    """The return contract of every state module."""
    operations = outcome.plan.operations
    return {
        "changed": bool(operations),
        "before": states(outcome.before),
        "after": states(outcome.after),
        "actions": actions(operations),
        "commands": commands(operations),
        "diff": diff_of(outcome, title),
        "notes": list(outcome.plan.notes),
    }
