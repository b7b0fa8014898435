# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens on the controller: files of policy entries are read once for all hosts of a run, and sent with the one call."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import typing as t

from ..module_utils._bpf import policy_input
from ..module_utils._errors import CnfError, SpecError

SECTION = "bpf_policy_entry"
FORMAT = "1"

Find = t.Callable[[str], t.Optional[str]]


def ship_files(
    items: t.Sequence[t.Any], find: Find, cache: str, place_of: str
) -> t.Tuple[t.List[t.Any], t.Dict[str, str]]:
    """The items with the digests of their files, and the contents by digest.

    ``place_of`` is the name of the list, '' for a task's own options. Raises CnfError that names the place.
    """
    shipped: t.List[t.Any] = []
    tables: t.Dict[str, str] = {}
    for number, item in enumerate(items):
        name = item.get("file") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            shipped.append(item)
            continue
        path = f"{place_of}[{number}].file" if place_of else "file"
        place = find(name)
        if place is None:
            raise CnfError(
                f"{path}: {name} is not among the files of the role or the playbook, "
                "nor beside the inventory or where Ansible was started"
            )
        digest, content = compiled(place, path, cache)
        tables[digest] = content
        shipped.append({**item, "content": digest})
    return shipped, tables


def compiled(path: str, shown: str, cache: str) -> t.Tuple[str, str]:
    """Digest and content of a file's entries. ``cache`` is a directory that the forks of one run share."""
    try:
        with open(path, "rb") as file:
            whole = hashlib.sha256(f"{FORMAT} {os.path.splitext(path)[1]} ".encode())
            for chunk in iter(lambda: file.read(1 << 20), b""):
                whole.update(chunk)
    except OSError as problem:
        raise CnfError(f"{shown}: {path} cannot be read: {problem.strerror}") from problem
    digest = whole.hexdigest()
    kept = os.path.join(cache, f"cnf-policies-{digest}")
    with contextlib.suppress(OSError):
        with open(kept, encoding="ascii") as cached:
            return digest, cached.read()
    try:
        content = policy_input.read_file(path, os.path.basename(path)).to_text()
    except SpecError as problem:
        raise CnfError(f"{shown}: {problem}") from problem
    _keep(kept, content)
    return digest, content


def _keep(path: str, content: str) -> None:
    """Put a file in its place in one step, for the user alone; a cache that cannot be written is none."""
    with contextlib.suppress(OSError):
        fd, fresh = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(content)
            os.replace(fresh, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
