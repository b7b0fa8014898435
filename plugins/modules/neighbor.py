#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage neighbor (ARP and ND) entries."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: neighbor
short_description: Manage neighbor (ARP and ND) entries
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Adds, changes and removes entries of the neighbor tables, one or, with O(entries), many in one call.
  - An entry is either permanent, with the hardware address in O(mac), or managed, with O(managed=true). The kernel resolves a managed
    entry by itself and keeps it resolved.
  - A BPF program that redirects to a next hop loses the packet that triggers its resolution. A managed entry for the next hop avoids
    that.
  - What the kernel learned by itself is not compared, and makes way.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  dev:
    description: Device behind which the neighbor is. Required unless O(entries) is given.
    type: str
  address:
    description: IP address of the neighbor. Required unless O(entries) is given.
    type: str
  netns:
    description: Namespace of the device. If not set, the one in which the module runs.
    type: str
  mac:
    description:
      - Hardware address of the neighbor, unicast, for a permanent entry, in quotes because YAML reads some as numbers.
      - Either this or O(managed=true) is needed with O(state=present).
    type: str
  managed:
    description: Whether the kernel resolves the neighbor and keeps it resolved. Needs kernel 5.16.
    type: bool
    default: false
  entries:
    description:
      - Many neighbors, each with O(dev), O(address), O(netns), O(mac) and O(managed) as above.
      - Mutually exclusive with O(dev) and O(address). Other options
        beside it are defaults for the entries. O(state) and O(adopt) hold for all.
      - Converged as one transaction. Faster than a loop by far.
    type: list
    elements: dict
requirements:
  - Linux kernel >= 5.0 (for the protocol number of neighbors), >= 5.16 for managed entries
notes:
  - A device without ARP, such as a netkit device in mode l3, does not resolve neighbors and needs no entries.
  - O(state=absent) needs O(dev), O(address) and O(netns) only.
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.route
"""

EXAMPLES = r"""
---
- name: A permanent entry
  cnf.ebpf.neighbor:
    dev: eth0
    netns: client
    address: 10.0.1.9
    mac: "02:00:00:00:00:09"

- name: Keep the next hops of a policy resolved
  cnf.ebpf.neighbor:
    entries:
      - {dev: eth1, address: 192.0.2.1, managed: true}
      - {dev: eth1, address: "2001:db8:1::1", managed: true}

- name: Remove an entry
  cnf.ebpf.neighbor:
    dev: eth0
    netns: client
    address: 10.0.1.9
    state: absent
"""

RETURN = r"""
---
before:
  description:
    - What the host had of everything that the call declares or changes, a list for each kind of resource.
    - A declared resource shows its declared fields only. What does not exist is not listed.
  returned: success
  type: dict
  sample: {}
after:
  description: The same after the run. In check mode this is the prediction.
  returned: success
  type: dict
  sample:
    neighbor:
      - dev: eth0
        netns: client
        address: 10.0.1.9
        mac: "02:00:00:00:00:09"
        managed: false
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [create neighbor eth0 10.0.1.9 in netns client (missing)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - ip -n client neigh replace 10.0.1.9 dev eth0 lladdr 02:00:00:00:00:09 nud permanent protocol 207
diff:
  description: What RV(actions) change, one line for each resource, as C(--diff) shows it.
  returned: success
  type: dict
  contains:
    before_header:
      description: What the lines are about.
      returned: success
      type: str
    after_header:
      description: The same as RV(diff.before_header).
      returned: success
      type: str
    before:
      description: The resources that change, before.
      returned: success
      type: str
    after:
      description: The resources that change, after.
      returned: success
      type: str
notes:
  description: What deserves attention although nothing failed, such as a foreign object that was left alone. Each is also a warning.
  returned: success
  type: list
  elements: str
  sample: []
applied:
  description: The actions that had been done before one failed. Empty when nothing had been touched.
  returned: failure
  type: list
  elements: str
  sample: []
undone:
  description: The actions that took RV(applied) back, in order.
  returned: failure
  type: list
  elements: str
  sample: []
failed_action:
  description:
    - The action that failed, or V(verify) when the host did not keep what was set. Empty when nothing had been touched.
    - When something could not be put back, RV(ignore:msg) says what, and the task is reported as changed.
  returned: failure
  type: str
  sample: ""
"""

from ansible_collections.cnf.ebpf.plugins.module_utils._module import run_resource


def main() -> None:
    run_resource("neighbor")


if __name__ == "__main__":
    main()
