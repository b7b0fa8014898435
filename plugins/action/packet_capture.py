# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the module packet_capture and write the capture that it brings along to a file of the controller."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
import typing as t
import zlib

from ansible.plugins.action import ActionBase

from ..module_utils._errors import CnfError

FILE_MODE = 0o600


class ActionModule(ActionBase):
    """The action of packet_capture; without O(dest) it is the plain module."""

    _supports_async = True

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        result = t.cast(t.Dict[str, t.Any], super().run(tmp, task_vars))
        try:
            return self._capture(result, task_vars)
        except CnfError as problem:
            # Returned and not raised: before 2.19, Ansible shows a traceback with what actions raise.
            return {"failed": True, "msg": str(problem)}

    def _capture(
        self, result: t.Dict[str, t.Any], task_vars: t.Optional[t.Dict[str, t.Any]]
    ) -> t.Dict[str, t.Any]:
        dest = self._task.args.get("dest")
        if dest:
            if self._task.async_val:
                raise CnfError("dest: cannot be used with async, whose answer comes to another task")
            dest = self._loader.path_dwim(str(dest))
            check_place(dest)
        try:
            result.update(self._execute_module(task_vars=task_vars, wrap_async=self._task.async_val))
        finally:
            if not self._task.async_val:
                self._remove_tmp_path(self._connection._shell.tmpdir)
        content = result.pop("pcap", None)
        if dest and content is not None and not result.get("failed"):
            write_file(dest, zlib.decompress(base64.b64decode(content)))
            result["dest"] = dest
        return result


def check_place(path: str) -> None:
    """Refuse before anything is captured what could not be written afterwards."""
    directory = os.path.dirname(path)
    if os.path.isdir(path):
        raise CnfError(f"dest: {path} is a directory; give the path of a file")
    if not os.path.isdir(directory):
        raise CnfError(f"dest: there is no directory {directory} on the controller; make it first")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise CnfError(f"dest: no permission to write to {directory} on the controller")


def write_file(path: str, content: bytes) -> None:
    """Put a file in its place in one step, readable by its owner only."""
    try:
        fd, fresh = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path))
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, FILE_MODE)
                file.write(content)
            os.replace(fresh, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
    except OSError as problem:
        raise CnfError(f"dest: {path} cannot be written: {problem.strerror}") from problem
