#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read topologies and the state of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: topology_info
short_description: Read a topology, its drift, or what exists on a host
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Reads the current state of one topology in the schema of M(cnf.ebpf.topology), and its drift, that is, the plan that the
    declared revision would need now.
  - Without O(name), reads all topologies of the host, and everything on the host that M(cnf.ebpf.topology) can say, whoever made it.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
options:
  name:
    description:
      - Name of one topology. It is an error when the host has none of that name.
    type: str
  state_dir:
    description:
      - Directory on the target in which M(cnf.ebpf.topology) keeps its generations.
    type: path
    default: /var/lib/cnf-ebpf
  lock_timeout:
    description:
      - How long to wait, in seconds, while a run converges the host.
    type: float
    default: 60.0
requirements:
  - Linux
  - python >= 3.9
  - pyroute2 >= 0.7.2 (Python package, for the interpreter that runs the module)
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - Multipath routes and rules with selectors that M(cnf.ebpf.rule) does not have are not told in RV(host).
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.netns_info
"""

EXAMPLES = r"""
- name: Read a topology and its drift
  cnf.ebpf.topology_info:
    name: edge
  register: edge

- name: Fail when somebody changed it by hand
  ansible.builtin.assert:
    that: edge.topologies[0].in_sync
    fail_msg: "{{ edge.topologies[0].drift.actions | join(', ') }}"

- name: Read everything
  cnf.ebpf.topology_info:
  register: found
"""

RETURN = r"""
topologies:
  description: The topology that was asked for, or all of the host, sorted by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the topology.
      type: str
      returned: always
      sample: edge
    generation:
      description: Number of its confirmed revision.
      type: int
      returned: always
      sample: 3
    digest:
      description: SHA-256 over the declared document, equal on hosts with equal declarations.
      type: str
      returned: always
    confirmed:
      description: When the revision was confirmed, in seconds since the epoch.
      type: float
      returned: always
    document:
      description: The declared sections.
      type: dict
      returned: always
    state:
      description: What the host has of the declared resources now, as sections of M(cnf.ebpf.topology).
      type: dict
      returned: always
    in_sync:
      description: Whether nothing would have to be done.
      type: bool
      returned: always
    drift:
      description:
        - The plan that would be made now, as lists RV(ignore:actions) and RV(ignore:commands) and as RV(ignore:diff).
        - RV(ignore:before) and RV(ignore:after) are the states without and with it, as M(cnf.ebpf.topology) returns them.
      type: dict
      returned: always
    text:
      description: The topology for reading.
      type: str
      returned: always
host:
  description: What exists on the host, as sections of M(cnf.ebpf.topology).
  returned: when O(name) is not given
  type: dict
text:
  description: The same for reading.
  returned: success
  type: str
"""

from ansible_collections.cnf.ebpf.plugins.module_utils._info import run_topology_info


def main() -> None:
    run_topology_info()


if __name__ == "__main__":
    main()
