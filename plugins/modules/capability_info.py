#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read what a host can do."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: capability_info
short_description: Read what a host can do
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Asks the kernel which kinds of links and hooks it has, looks for libraries and compilers, and says which packages would bring what
    is missing and which roles of the collection need it.
  - Nothing is concluded from the version of the kernel. To ask for a kind of link may load its kernel module.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
options:
  compiler:
    description: The compiler that RV(packages) shall bring.
    type: str
    choices: [clang, bcc]
    default: clang
  os_release:
    description: The file that names the distribution.
    type: path
    default: /etc/os-release
requirements:
  - Linux kernel >= 5.10
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
"""

EXAMPLES = r"""
---
- name: What can these hosts do?
  cnf.ebpf.capability_info:
  register: host

- name: Show it
  ansible.builtin.debug:
    msg: "{{ host.text.splitlines() }}"
"""

RETURN = r"""
---
kernel:
  description: Release of the running kernel.
  returned: success
  type: str
  sample: 6.12.48+deb13-cloud-amd64
family:
  description: Family of the distribution, V(debian) or V(redhat), or null.
  returned: success
  type: str
capabilities:
  description: Whether the host has each of the link kinds, hooks, libraries and compilers.
  returned: success
  type: dict
  sample: {netkit: true, tcx: true, bpffs: true, clang: true, bcc: false}
packages:
  description: Packages that bring what is missing.
  returned: success
  type: list
  elements: str
  sample: [python3-pyroute2]
missing:
  description: What each role of the collection lacks on this host.
  returned: success
  type: dict
  sample: {simple_cnf: []}
notes:
  description: What else deserves attention, such as a second BPF file system. Each is also a warning.
  returned: success
  type: list
  elements: str
  sample: []
text:
  description: The answer for reading.
  returned: success
  type: str
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_capabilities


def main() -> None:
    _inspect.run(
        lambda module: _inspect_capabilities.read(module.params),
        argument_spec=_inspect_capabilities.ARGUMENT_SPEC,
    )


if __name__ == "__main__":
    main()
