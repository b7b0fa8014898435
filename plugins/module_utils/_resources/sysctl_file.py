# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A file of our own below /etc/sysctl.d, one per topology, so that values come back at boot."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from .._engine.model import Key, Operation
from .._errors import KernelError
from .._kernel.host import Host
from . import sysctl

NAME = "sysctl_file"
RANK = 90
BORROWED = False

DIRECTORY = "/etc/sysctl.d"
HEADER = "# Written by cnf.ebpf for topology {}; it is replaced when the topology changes.\n"


@dataclasses.dataclass(frozen=True)
class Value:
    """The persistent values of a topology, name to value."""

    topology: str
    values: t.Optional[t.Dict[str, str]] = None
    owner: t.Optional[str] = None
    netns: str = ""

    def key(self) -> Key:
        return Key(NAME, "", path_of(self.topology))

    def needs(self) -> t.Tuple[Key, ...]:
        return ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def path_of(topology: str) -> str:
    return os.path.join(DIRECTORY, f"60-cnf-ebpf-{topology}.conf")


def text_of(value: Value) -> str:
    lines = [f"{sysctl.dotted(name)} = {text}\n" for name, text in sorted((value.values or {}).items())]
    return HEADER.format(value.topology) + "".join(lines)


def _values_in(text: str) -> t.Dict[str, str]:
    """Name to value of a file in our own spelling."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found["/".join(part.replace("/", ".") for part in name.strip().split("."))] = value.strip()
    return found


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    found = {}
    for key in wanted:
        if key.kind == NAME:
            name = os.path.basename(key.id)[len("60-cnf-ebpf-") : -len(".conf")]
            with contextlib.suppress(FileNotFoundError):
                with open(key.id, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                ours = text.startswith(HEADER.format(name))
                found[key] = Value(name, _values_in(text), name if ours else None)
    return found


def merged(observed: Value, desired: Value) -> Value:
    """The file is replaced as a whole: a value that is no longer declared leaves it."""
    return dataclasses.replace(observed, values=desired.values, owner=desired.owner)


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: t.Mapping[Key, t.Any]) -> t.Dict[Key, t.Any]:
    return {}


def apply(host: Host, operation: Operation) -> None:
    path = operation.key.id
    if operation.after is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    temporary = f"{path}.new"  # sysctl --system reads *.conf only
    try:
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text_of(operation.after))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", path) from problem


def commands(operation: Operation) -> t.List[str]:
    path = operation.key.id
    return [f"rm {path}"] if operation.after is None else [f"write {path}"]


def to_item(value: Value) -> t.Optional[t.Tuple[str, t.Dict[str, t.Any]]]:
    return None  # told by persist: true
