#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask a policy router what it would do with packets."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_policy_test
short_description: Ask a policy router what it would do with packets
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Tells for each packet what the loaded router decides with its live tables, which entry matches, by which device and next hop the
    packet would leave, and why not otherwise. No packet is sent and no counter moves.
  - With O(packets[].expect) it is a gate before and after a change; the task fails when a decision is another.
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
  packets:
    description: The packets, each by its options or as a frame (O(packets[].raw)).
    type: list
    elements: dict
    required: true
    suboptions:
      source:
        description: Source address.
        type: str
      destination:
        description: Destination address.
        type: str
      protocol:
        description: Protocol by name or number. An echo request (V(icmp), V(ipv6-icmp)) unless given.
        type: str
      source_port:
        description: Source port, V(40000) unless given.
        type: int
      destination_port:
        description: Destination port.
        type: int
      size:
        description: Length of the IP packet in bytes, V(84) unless given.
        type: int
      ttl:
        description: Time to live or hop limit, V(64) unless given.
        type: int
      raw:
        description: A whole frame with its Ethernet header, in hexadecimal digits.
        type: str
      device:
        description:
          - The device at which the packet appears. A device to which the router is attached unless given.
        type: str
      expect:
        description:
          - What the decision has to be, for any of C(outcome), C(verdict), C(reason), C(table), C(interface), C(next_hop) and C(flags),
            and of the matching entry C(source), C(destination), C(protocol), C(destination_port), C(family), C(pool), C(action)
            and C(comment). An empty value expects that there is none.
        type: dict
requirements:
  - Linux kernel >= 5.16
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - The object needs the program C(explain), which C(policy_router.bpf.c) has.
seealso:
  - module: cnf.ebpf.bpf_policy_entry
  - module: cnf.ebpf.bpf_policy_info
  - module: cnf.ebpf.reachability
"""

EXAMPLES = r"""
---
- name: Replies of the virtual IP leave by eth1, those of others as always
  cnf.ebpf.bpf_policy_test:
    topology: edge
    object: router
    packets:
      - source: 192.0.2.80
        destination: 203.0.113.9
        protocol: tcp
        source_port: 443
        destination_port: 50000
        expect: {outcome: redirect, interface: eth1, next_hop: 198.51.100.1}
      - source: 192.0.2.81
        destination: 203.0.113.9
        expect: {outcome: no_match}
"""

RETURN = r"""
---
results:
  description:
    - The decision for each packet, in order.
    - C(verdict) is what the program returns, C(outcome) what becomes of the packet, and C(reason) why no next hop was usable, each by
      the name of its counter. C(entry) is the matching entry, C(table) where it was found.
  returned: success, or when an expectation is not met
  type: list
  elements: dict
  sample:
    - packet: "192.0.2.80 -> 203.0.113.9 tcp port 50000"
      verdict: redirect
      outcome: redirect
      reason: ""
      explanation: ""
      table: source_exact
      entry: {source: 192.0.2.80/32, interface: eth1, next_hop: 198.51.100.1}
      interface: eth1
      next_hop: 198.51.100.1
      flags: []
      text: "192.0.2.80 -> 203.0.113.9 tcp port 50000: redirect to 198.51.100.1 by eth1 matched source 192.0.2.80/32"
unexpected:
  description: A line for each expectation that is not met.
  returned: success, or when an expectation is not met
  type: list
  elements: str
  sample: []
text:
  description: The decisions for reading, one on a line.
  returned: success, or when an expectation is not met
  type: str
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_policy


def main() -> None:
    _inspect.run(
        lambda module: _inspect_policy.test(module.params),
        argument_spec=_inspect_policy.TEST_SPEC,
    )


if __name__ == "__main__":
    main()
