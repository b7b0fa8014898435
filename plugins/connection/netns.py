# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run tasks in a network namespace of a host, over whatever connection leads to the host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: netns
short_description: Run tasks in a network namespace of a host
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Runs every task of a host in a named network namespace of the machine to which another connection leads, over SSH or locally. So
    modules that know nothing of namespaces work there.
  - Files are those of the machine. Only what is executed is executed in the namespace.
options:
  netns:
    description: Name of the network namespace, which must exist.
    type: str
    required: true
    vars:
      - name: ansible_netns
  transport:
    description: The connection that leads to the machine. Its own variables hold as always, such as C(ansible_host).
    type: str
    default: ssh
    vars:
      - name: ansible_netns_transport
  keep_sys:
    description:
      - How the namespace is entered. By default as C(ip netns exec) does, with a C(/sys) that shows the devices of the namespace and
        with the files of C(/etc/netns/NAME), but without the pins of BPF objects.
      - Set it to keep the machine's C(/sys), where the pins are and the devices of the namespace are not.
    type: bool
    default: false
    vars:
      - name: ansible_netns_keep_sys
notes:
  - To enter a namespace takes root. Log in as root, or use C(become).
  - The modules of this collection have an option C(netns) and do not need this.
"""

EXAMPLES = r"""
# An inventory: the namespace blue of a gateway as a host of its own
all:
  hosts:
    gateway-blue:
      ansible_host: gateway.example.net
      ansible_connection: cnf.ebpf.netns
      ansible_netns: blue
"""

import re
import shlex
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.connection import ConnectionBase
from ansible.plugins.loader import connection_loader

NAME = re.compile(r"[!-.0-~][!-.0-~]{0,254}\Z")  # printable ASCII without '/'
DIRECTORY = "/run/netns"


def entering(netns: str, keep_sys: bool) -> t.List[str]:
    """The words in front of a command that is to run in a namespace. Raises AnsibleError for what is no name."""
    if not NAME.match(netns) or netns in (".", "..") or netns[0] == "-":
        raise AnsibleError(f"ansible_netns: {netns!r} is not the name of a network namespace")
    if keep_sys:
        return ["nsenter", f"--net={DIRECTORY}/{netns}", "--"]
    return ["ip", "netns", "exec", netns]


def missing(netns: str) -> str:
    """What the machine says of a namespace that is not there."""
    return f"cnf.ebpf: there is no network namespace {netns}"


def within(netns: str, words: t.Sequence[str], command: str) -> str:
    """A shell's command line that runs another one behind those words.

    It looks for the namespace itself: ``ip`` would end with 255, which ssh takes for its own failure.
    """
    refused = f"{{ printf '%s\\n' {shlex.quote(missing(netns))} >&2; exit 3; }}"
    entered = " ".join(shlex.quote(word) for word in (*words, "/bin/sh", "-c", command))
    return f"test -e {shlex.quote(f'{DIRECTORY}/{netns}')} || {refused}; {entered}"


class _Become:
    """A become plugin that enters the namespace once it has become root."""

    def __init__(self, plugin: t.Any, wrap: t.Callable[[str], str]) -> None:
        self._plugin = plugin
        self._wrap = wrap

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._plugin, name)

    def build_become_command(self, cmd: str, shell: t.Any) -> t.Any:
        return self._plugin.build_become_command(self._wrap(cmd), shell)


class Connection(ConnectionBase):
    """A connection around another one."""

    transport = "cnf.ebpf.netns"
    has_pipelining = True
    has_tty = False

    def __init__(self, play_context: t.Any, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(play_context, *args, **kwargs)
        self._connection: t.Any = None
        self._netns = ""
        self._words: t.List[str] = []
        self._inner_args = args

    def set_options(self, task_keys: t.Any = None, var_options: t.Any = None, direct: t.Any = None) -> None:
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._netns = self.get_option("netns")
        self._words = entering(self._netns, self.get_option("keep_sys"))
        name = self.get_option("transport")
        if self._connection is None:
            self._connection = connection_loader.get(name, self._play_context, *self._inner_args)
            if self._connection is None:
                raise AnsibleError(f"ansible_netns_transport: there is no connection plugin {name!r}")
            if self.become is not None:
                self._connection.set_become_plugin(self.become)
        if var_options:  # of `meta: reset_connection`, which knows nothing of sub-plugins
            self._connection.set_options(task_keys=task_keys, var_options=var_options)
        # The executor sets the options of a plugin's `_sub_plugin` from the variables of the host (network_cli does the same).
        self._sub_plugin = {"type": "connection", "name": name, "obj": self._connection}

    def _resolve_option_variables(self, variables: t.Any, templar: t.Any) -> t.Any:
        """The variables of options, and those of the connection that leads to the machine: `meta: reset_connection` asks for them."""
        found = super()._resolve_option_variables(variables, templar)
        name = found.get("ansible_netns_transport", "ssh")
        inner = connection_loader.get(name, self._play_context, *self._inner_args)
        return (
            {**inner._resolve_option_variables(variables, templar), **found} if inner is not None else found
        )

    def set_become_plugin(self, plugin: t.Any) -> None:
        wrapped = _Become(plugin, self._within) if plugin is not None else None
        super().set_become_plugin(wrapped)
        if self._connection is not None:
            self._connection.set_become_plugin(wrapped)

    def _within(self, command: str) -> str:
        return within(self._netns, self._words, command)

    def _connect(self) -> Connection:
        self._connection._shell = self._shell
        self._connection._connect()
        self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: t.Optional[bytes] = None, sudoable: bool = True
    ) -> t.Tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        # What runs by `become` enters behind it (see _Become); what is not for root, such as a directory for files, stays outside.
        has_become = self.become is not None and self.become.success and self.become.success in cmd
        if sudoable and not has_become:
            cmd = self._within(cmd)
        code, out, err = self._connection.exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if code and missing(self._netns).encode() in err + out:  # with a terminal there is but one stream
            raise AnsibleConnectionFailure(
                f"network namespace {self._netns} does not exist on the machine; create it first (cnf.ebpf.netns)"
            )
        return code, out, err

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        self._connection.put_file(in_path, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        self._connection.fetch_file(in_path, out_path)

    def reset(self) -> None:
        self._connection.reset()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connected = False
