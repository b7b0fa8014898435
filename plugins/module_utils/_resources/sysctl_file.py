# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Lines of a file of our own below /etc/sysctl.d, one file per topology, so that values come back at boot."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from .._engine.model import Key, Operation
from .._engine.state import State
from .._errors import KernelError
from .._kernel.host import Host
from . import sysctl

NAME = "sysctl_file"
RANK = 90
BORROWED = False

DIRECTORY = "/etc/sysctl.d"
HEADER = "# Written by cnf.ebpf for topology {}; changes by hand are lost.\n"


@dataclasses.dataclass(frozen=True)
class Value:
    """One line: a value that ``systemd-sysctl`` sets at boot."""

    IDENTITY: t.ClassVar[t.Tuple[str, ...]] = ("topology", "name")

    topology: str
    name: str
    value: str
    owner: t.Optional[str] = None

    def key(self) -> Key:
        return Key(NAME, "", f"{path_of(self.topology)} {self.name}")

    def needs(self) -> t.Tuple[Key, ...]:
        return ()

    def provides(self) -> t.Tuple[Key, ...]:
        return (self.key(),)


def path_of(topology: str) -> str:
    return os.path.join(DIRECTORY, f"60-cnf-ebpf-{topology}.conf")


def _read(topology: str) -> t.Tuple[t.Dict[str, str], bool]:
    """Name to value of the topology's file, and whether the file is ours (or not there)."""
    try:
        with open(path_of(topology), encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return {}, True
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", path_of(topology)) from problem
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition(" = ")
        if equals and not line.startswith("#"):
            found["/".join(part.replace("/", ".") for part in name.strip().split("."))] = value.strip()
    return found, text.startswith(HEADER.format(topology))


def observe(
    host: Host, wanted: t.Mapping[Key, t.Optional[t.Any]], topology: str, claimed: t.Container[Key]
) -> t.Dict[Key, Value]:
    keys = [key for key in wanted if key.kind == NAME]
    if not keys:
        return {}
    values, ours = _read(topology)
    found = {}
    for key in keys:
        name = key.id.split(" ", 1)[1]
        if name in values or not ours:
            found[key] = Value(topology, name, values.get(name, ""), topology if ours else None)
    return found


def fixed(before: Value, after: Value) -> t.List[str]:
    return []


def side_effects(operation: Operation, state: State) -> t.Dict[Key, t.Any]:
    return {}


def apply(host: Host, operation: Operation) -> None:
    """Write the file with one line added, changed or removed; without any line it goes."""
    value = operation.value
    path = path_of(value.topology)
    lines, _ours = _read(value.topology)
    lines.pop(value.name, None)
    if operation.after is not None:
        lines[value.name] = operation.after.value
    if not lines:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    text = HEADER.format(value.topology)
    text += "".join(f"{sysctl.dotted(name)} = {line}\n" for name, line in sorted(lines.items()))
    _replace(path, text)


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.new"  # systemd-sysctl reads *.conf only
    try:
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # of a run that was killed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(
                file.fileno(), 0o644
            )  # whatever the umask: the boot reads it as root, people read it as they are
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        raise KernelError(problem.errno or 0, "", path) from problem


def commands(operation: Operation) -> t.List[str]:
    value = operation.value
    line = f"{sysctl.dotted(value.name)} = {value.value}"
    lines = []
    if operation.before is not None:
        lines.append(f"sed -i '/^{sysctl.dotted(value.name)} = /d' {path_of(value.topology)}")
    if operation.after is not None:
        lines.append(f"echo '{line}' >> {path_of(value.topology)}")
    return lines


def to_item(value: Value) -> t.Optional[t.Tuple[str, t.Dict[str, t.Any]]]:
    return None  # told by persist: true
