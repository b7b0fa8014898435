# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens on the controller: the sources of BPF objects are found, and sent along with the one call of the module."""

from __future__ import annotations

import os
import typing as t

from ansible import constants
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ..module_utils._bpf import sources
from ..module_utils._errors import CnfError

PROGRAMS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "files", "bpf"
)
HEADERS = os.path.join(PROGRAMS, "lib")
SECTION = "bpf_object"

Find = t.Callable[[str], t.Optional[str]]  # from the name in an item to a path on the controller


def own_program(name: str) -> t.Optional[str]:
    """The path of one of the programs of the collection."""
    path = os.path.join(PROGRAMS, name)
    return path if os.path.isfile(path) and os.path.dirname(os.path.normpath(path)) == PROGRAMS else None


def own_programs() -> t.List[str]:
    try:
        return sorted(name for name in os.listdir(PROGRAMS) if name.endswith(".bpf.c"))
    except OSError:
        return []


def ship(items: t.Sequence[t.Any], find: Find, single: bool = False) -> t.Tuple[t.List[t.Any], str]:
    """The items with the digest and the programs of their sources, and all sources as one text.

    Items that the module will refuse, or that need nothing from here, stay as they are. Raises CnfError that names the
    place, such as ``bpf_object[0].source``.
    """
    shipped: t.List[t.Any] = []
    found: t.Dict[str, sources.Source] = {}
    for number, item in enumerate(items):
        option = _option(item)
        if option is None:
            shipped.append(item)
            continue
        path = f"{SECTION}.{option}" if single else f"{SECTION}[{number}].{option}"
        place = find(item[option])
        if place is None:
            raise CnfError(
                f"{path}: {item[option]} is neither in the files of the role or the playbook nor among the programs of the "
                f"collection ({', '.join(own_programs())}), nor beside the inventory or where Ansible was started"
            )
        try:
            source = sources.collect(place, [HEADERS], option)
        except CnfError as problem:
            raise CnfError(f"{path}: {problem}") from None  # Ansible would print what it came from once more
        code = sources.code_of(source)
        found[code] = source
        shipped.append({**item, "code": code, "programs": item.get("programs") or dict(source.programs)})
    return shipped, sources.pack(found) if found else ""


def _option(item: t.Any) -> t.Optional[str]:
    """Which option of an item names something on the controller, None when none does."""
    if (
        not isinstance(item, dict)
        or item.get("state") == "absent"
        or boolean(item.get("remote_src") or False, strict=False)
    ):
        return None
    given = [option for option in ("source", "object") if item.get(option)]
    return given[0] if len(given) == 1 and isinstance(item[given[0]], str) else None


class ShippingAction(ActionBase):
    """Runs the module of the same name, once, with the sources that its arguments name."""

    TRANSFERS_FILES = False

    def with_sources(self, args: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        """The module's arguments with the sources."""
        raise NotImplementedError

    def find(self, name: str) -> t.Optional[str]:
        """As :meth:`find_file`, or one of the collection's programs."""
        return self._among_files(name) or own_program(name) or self._beside(name)

    def find_file(self, name: str) -> t.Optional[str]:
        """An absolute path, a file of the role or the playbook, or one beside the inventory or where Ansible was started.

        The last two are for the playbooks of the collection, beside which nobody has files.
        """
        return self._among_files(name) or self._beside(name)

    def _among_files(self, name: str) -> t.Optional[str]:
        if os.path.isabs(name):
            return name
        try:
            return str(self._find_needle("files", name))
        except AnsibleError:
            return None

    def _beside(self, name: str) -> t.Optional[str]:
        for directory in self._directories:
            for path in (os.path.join(directory, "files", name), os.path.join(directory, name)):
                if os.path.exists(path):
                    return path
        return None

    @property
    def cache_directory(self) -> str:
        """A directory of this run of Ansible, for all of its forks, which goes with it."""
        return str(constants.DEFAULT_LOCAL_TMP)

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        self._supports_async = True  # as an attribute of the class, older versions of Ansible overwrite it
        super().run(tmp, task_vars)
        inventory = (task_vars or {}).get("inventory_dir")  # None for a host that no file declares
        self._directories = [
            *([str(inventory)] if inventory else []),
            os.environ.get("PWD") or os.getcwd(),  # as lookup('env', 'PWD'), which the playbooks use
        ]
        try:
            args = self.with_sources(dict(self._task.args))
        except CnfError as problem:
            # Returned and not raised: before 2.19, Ansible shows a traceback with what actions raise.
            return {"failed": True, "msg": str(problem)}
        return t.cast(
            t.Dict[str, t.Any],
            self._execute_module(
                module_name=self._task.action,
                module_args=args,
                task_vars=task_vars,
                wrap_async=bool(self._task.async_val),
            ),
        )
