#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Share flows among weighted next hops of a policy router."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_pool
short_description: Share flows among weighted next hops
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Sets a pool of a router, an object that is loaded from C(policy_router.bpf.c). Entries (M(cnf.ebpf.bpf_policy_entry)) name the
    pool; its members change without touching them.
  - A packet's member is found by a hash of its flow in a table of slots (weighted Maglev). While members stay, no flow moves. When
    one leaves, its flows move and of the others' less than 1 %.
  - A member that is dead is passed over by the program itself.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  object:
    description: Name of the router, as in M(cnf.ebpf.bpf_object). Required.
    type: str
  topology:
    description:
      - Topology to which O(object) belongs. Unless given, an object that single tasks made.
      - Within M(cnf.ebpf.topology) it goes without saying.
    type: str
  netns:
    description: Namespace in which devices are looked up, the same as that of the entries. The host's own unless given.
    type: str
  name:
    description: Name of the pool, up to 31 signs. Required unless O(entries) is given.
    type: str
  members:
    description: The next hops of the pool, all of them. Required with O(state=present).
    type: list
    elements: dict
    suboptions:
      address:
        description: Address of the next hop on O(members[].interface). Unless given, every destination is taken to be on its link.
        type: str
      interface:
        description: Device by which packets leave.
        type: str
        required: true
      weight:
        description: Share of the flows relative to the other members'. V(0) drains the member, it gets no new packets.
        type: int
        default: 1
  mode:
    description:
      - V(flow) keeps packets together that have the same addresses, protocol and ports, V(source) those of the same source
        address. V(random) takes a member for each packet by itself, which reorders connections.
    type: str
    choices: [flow, source, random]
    default: flow
  symmetric:
    description: With O(mode=flow), both directions of a flow get the same member.
    type: bool
    default: false
  entries:
    description:
      - Several pools in one call. Each takes the same options, and those of the task hold where an entry does not say otherwise.
    type: list
    elements: dict
  validate:
    description: What to do when a new member is not usable, as in M(cnf.ebpf.bpf_policy_entry).
    type: str
    choices: [strict, warn, "off"]
    default: strict
requirements:
  - Linux kernel >= 5.16
notes:
  - A pool that entries name is not removed.
seealso:
  - module: cnf.ebpf.bpf_policy_entry
  - module: cnf.ebpf.bpf_policy_info
"""

EXAMPLES = r"""
---
- name: Four firewalls, one of them twice as strong, one drained
  cnf.ebpf.bpf_pool:
    object: router
    name: firewalls
    symmetric: true
    members:
      - {address: 10.9.0.1, interface: fw0, weight: 2}
      - {address: 10.9.0.2, interface: fw0}
      - {address: 10.9.0.3, interface: fw0}
      - {address: 10.9.0.4, interface: fw0, weight: 0}

- name: Send a customer through them
  cnf.ebpf.bpf_policy_entry:
    object: router
    source: 10.1.0.0/16
    pool: firewalls
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
    bpf_pool:
      - object: router
        name: firewalls
        mode: flow
        members:
          - address: 10.9.0.1
            interface: fw0
            weight: 2
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - 'create bpf_pool tasks/router:firewalls (missing)'
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - 'bpftool map update pinned /sys/fs/bpf/cnf/tasks/router/maps/members  # the table of firewalls: 10.9.0.1%fw0 x2'
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
    run_resource("bpf_pool")


if __name__ == "__main__":
    main()
