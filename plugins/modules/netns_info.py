#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read network namespaces."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: netns_info
short_description: Read network namespaces and what is in them
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Lists the named network namespaces of a host, each with its links, their addresses and their other ends, and with its whole
    state in the schema of M(cnf.ebpf.topology).
  - Costs one table dump per namespace and kind, whatever the number of links.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
options:
  name:
    description:
      - Only the namespace of exactly this name. The list is empty when there is none.
    type: str
requirements:
  - Linux
  - python >= 3.9
  - pyroute2 >= 0.7.2 (Python package, for the interpreter that runs the module)
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
seealso:
  - module: cnf.ebpf.netns
  - module: cnf.ebpf.topology_info
"""

EXAMPLES = r"""
- name: Read all namespaces
  cnf.ebpf.netns_info:
  register: found

- name: Show the links of one namespace
  cnf.ebpf.netns_info:
    name: client
  register: client

- name: Fail unless it has exactly two links besides loopback
  ansible.builtin.assert:
    that: client.namespaces[0].links | rejectattr('name', 'equalto', 'lo') | length == 2
"""

RETURN = r"""
namespaces:
  description: The namespaces, sorted by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the namespace.
      type: str
      returned: always
      sample: client
    lo_up:
      description: Whether its loopback device is up.
      type: bool
      returned: always
    topology:
      description: The topology that made it, C(tasks) for single tasks, or null when it is foreign.
      type: str
      returned: always
      sample: edge
    links:
      description: Its links in the kernel's order.
      type: list
      elements: dict
      returned: always
      contains:
        name:
          description: Name of the link.
          type: str
          returned: always
        kind:
          description: Kind of the link, or V(physical) for a device without one.
          type: str
          returned: always
        topology:
          description: The topology that made it, or null.
          type: str
          returned: always
        up:
          description: Whether it is administratively up.
          type: bool
          returned: always
        mtu:
          description: MTU in bytes.
          type: int
          returned: always
        mac:
          description: Hardware address.
          type: str
          returned: always
        master:
          description: The bridge or VRF to which it belongs, or empty.
          type: str
          returned: always
        peer:
          description: Name and namespace of its other end, or null.
          type: dict
          returned: always
        options:
          description: Options of its kind.
          type: dict
          returned: always
        addresses:
          description: All its addresses with prefix length.
          type: list
          elements: str
          returned: always
        altnames:
          description: Its alternative names.
          type: list
          elements: str
          returned: always
    state:
      description: Links, addresses, routes, rules, neighbors and switches as sections of M(cnf.ebpf.topology).
      type: dict
      returned: always
"""

from ansible_collections.cnf.ebpf.plugins.module_utils._info import run_netns_info


def main() -> None:
    run_netns_info()


if __name__ == "__main__":
    main()
