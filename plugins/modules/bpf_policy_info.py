#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the policy of a router with its counters."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_policy_info
short_description: Read the policy of a router with its counters
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Reads from the kernel what a policy router does, as M(cnf.ebpf.bpf_policy_entry) would declare it, with the packets of each
    entry, the counters of the chain and the tables of pools.
  - Compares it with a wanted list, and measures rates when asked to wait.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
options:
  topology:
    description: Name of the topology to which O(object) belongs. V(tasks) is what single tasks make.
    type: str
    default: tasks
  object:
    description: Name of the router, as in M(cnf.ebpf.bpf_object).
    type: str
    required: true
  sample:
    description: Seconds to wait between two readings of the counters, for rates. V(0) reads once.
    type: float
    default: 0.0
  limit:
    description: How many entries to tell at most. The order is that of tables and addresses.
    type: int
    default: 1000
  with_content:
    description: Whether to tell the whole policy in RV(content) too.
    type: bool
    default: false
  entries:
    description:
      - The wanted entries, with the options of M(cnf.ebpf.bpf_policy_entry). What differs is told in RV(drift).
    type: list
    elements: dict
  file:
    description: The same from a file on the controller, as in M(cnf.ebpf.bpf_policy_entry).
    type: str
  content:
    description: The entries of O(file) in a form of its own. The action plugin fills it in.
    type: str
  tables:
    description: The contents of files. The action plugin fills it in.
    type: dict
requirements:
  - Linux kernel >= 5.16
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - A policy that is being changed meanwhile is not read as of one moment.
seealso:
  - module: cnf.ebpf.bpf_policy_entry
  - module: cnf.ebpf.bpf_policy_test
"""

EXAMPLES = r"""
---
- name: Read the policy, and how much traffic it has in five seconds
  cnf.ebpf.bpf_policy_info:
    topology: edge
    object: router
    sample: 5
  register: policy

- name: Show it
  ansible.builtin.debug:
    msg: "{{ policy.text.splitlines() }}"

- name: Has anything drifted?
  cnf.ebpf.bpf_policy_info:
    object: router
    file: files/customers.csv
  register: policy
  failed_when: not policy.in_sync
"""

RETURN = r"""
---
object:
  description: Name of the router.
  returned: success
  type: str
topology:
  description: Topology to which it belongs.
  returned: success
  type: str
netns:
  description: Namespace in which its devices are, empty for the host's own.
  returned: success
  type: str
count:
  description: How many entries it has.
  returned: success
  type: int
digest:
  description: SHA-256 of what the policy says, the same on all hosts with the same policy.
  returned: success
  type: str
entries:
  description:
    - The entries in the words of M(cnf.ebpf.bpf_policy_entry), with their counters.
    - C(fallbacks) are packets that were left to the kernel for want of a usable next hop, C(drops) those that were dropped.
      C(last_hit) is the time of the last packet. Without C(counted) there is no counter for the entry.
  returned: success
  type: list
  elements: dict
  sample:
    - source: 192.0.2.80/32
      interface: eth1
      next_hop: 198.51.100.1
      counted: true
      packets: 42
      bytes: 3528
      fallbacks: 0
      drops: 0
      last_hit: "2026-11-24T12:00:00Z"
content:
  description: The policy in a form of its own, which O(cnf.ebpf.bpf_policy_entry#module:content) takes to bring it back.
  returned: when O(with_content=true)
  type: str
truncated:
  description: Whether there are more entries than O(limit).
  returned: success
  type: bool
chain:
  description: Counters of the router by name, C(packets) and C(bytes), with O(sample) also rates.
  returned: success
  type: dict
  sample:
    total: {packets: 50, bytes: 4200}
    redirect: {packets: 42, bytes: 3528}
    no_match: {packets: 8, bytes: 672}
pools:
  description: The pools with their members, and how many slots of the table each of them has.
  returned: success
  type: list
  elements: dict
  sample: []
drift:
  description: What differs from the wanted entries, each list up to O(limit).
  returned: when O(entries) or O(file) is given
  type: dict
  contains:
    missing:
      description: Wanted entries that are not there.
      returned: always
      type: list
      elements: dict
    unexpected:
      description: Entries that are not wanted.
      returned: always
      type: list
      elements: dict
    different:
      description: Entries that do something else, C(wanted) and C(found).
      returned: always
      type: list
      elements: dict
in_sync:
  description: Whether the policy is the wanted one.
  returned: when O(entries) or O(file) is given
  type: bool
text:
  description: The answer for reading.
  returned: success
  type: str
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_policy


def main() -> None:
    _inspect.run(
        lambda module: _inspect_policy.read(module.params),
        argument_spec=_inspect_policy.INFO_SPEC,
        mutually_exclusive=[("entries", "file")],
    )


if __name__ == "__main__":
    main()
