#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Route by source, destination, protocol and port with a policy router."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_policy_entry
short_description: Route by source, destination, protocol and port
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Sets the policy of a router, an object that is loaded from C(policy_router.bpf.c), where packets are routed by entries of maps
    instead of routing tables and rules.
  - An entry matches by O(source), by O(destination), or by O(protocol), O(destination_port) and O(source) together. Without any
    of them it is the default. The router asks them in the order of its chain, conditional entries first, then sources, then
    destinations, then the default. Of prefixes the longest wins.
  - A matching packet is sent to the first of its next hops that is alive, to a member of a pool, or it gets a verdict. What matches
    nothing is left to the kernel.
  - All entries of a call are one plan. An entry is replaced between two packets, and a failure puts the old ones back.
  - For each next hop the kernel is told to keep its neighbour resolved (C(ip neigh ... managed)), as long as an entry names it.
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
    description:
      - Namespace in which devices are looked up, one for all entries of an object. It is that of the device to which the router is
        attached; for the peer hook of a netkit pair it is the namespace of the primary.
      - Unless given, that of the entries that are there already, or the host's own.
    type: str
  source:
    description: Source prefix or address, such as V(192.0.2.0/24), V(192.0.2.7) or V(2001:db8::/32). Host bits are refused.
    type: str
  destination:
    description: Destination prefix or address. Goes without O(source) and O(protocol).
    type: str
  protocol:
    description: Protocol by name or number, such as V(tcp), V(udp), V(icmp), V(ipv6-icmp), V(sctp) or V(47).
    type: str
  destination_port:
    description: Destination port, or a range of ports such as V(8000-8099). Needs O(protocol).
    type: str
  family:
    description:
      - Which packets an entry without addresses is for. Unless given, those that its protocol and its next hops are good for.
    type: str
    choices: [ipv4, ipv6, both]
  interface:
    description:
      - Device by which packets leave. Alone, every destination is taken to be on its link.
    type: str
  next_hop:
    description:
      - Address of the next hop on O(interface). For IPv4 packets it may be an IPv6 address.
    type: str
  next_hops:
    description:
      - Up to six next hops in order of preference; the first that is alive is taken. Each is an C(ADDRESS%INTERFACE) such as
        V(192.0.2.1%eth1), an address on O(interface), C(%INTERFACE) for on-link, or a mapping of C(address) and C(interface).
    type: list
    elements: raw
  pool:
    description: Name of a pool (M(cnf.ebpf.bpf_pool)) whose members share the flows.
    type: str
  action:
    description:
      - V(pass) hands the packet to the kernel, without later programs of the hook. V(drop) drops it.
      - V(exempt) leaves it to the kernel and to later programs, as a hole in a wider prefix.
    type: str
    choices: [pass, drop, exempt]
  strict:
    description: Drop packets when no next hop is usable, rather than leave them to the kernel.
    type: bool
  liveness:
    description:
      - Ask before each use whether a next hop is alive. The program does so itself and heals by itself.
      - On by default. It needs forwarding to be switched on for the device, in the next hop's family.
    type: bool
  priority:
    description:
      - Which of several entries with O(protocol) decides, the lowest number first, V(0) by default. Among equals an entry with a port
        goes before one without, then the longer source prefix, then the smaller range.
    type: int
  comment:
    description: A remark, up to 111 bytes, kept with the entry in the kernel.
    type: str
  entries:
    description:
      - Several entries in one call. Each takes the same options, and those of the task hold where an entry does not say otherwise.
      - An empty list with O(exclusive=true) removes all.
    type: list
    elements: dict
  file:
    description:
      - A file on the controller with entries, for very many. With a name that ends with C(.jsonl) or C(.ndjson) a JSON object on
        each line, else CSV whose first line names the columns. Columns are options; C(next_hops) are separated by spaces.
      - An absolute path, or a name that is looked up in C(files) of the role and the playbook, then beside the inventory and where
        Ansible was started, and in C(files) there.
    type: str
  content:
    description:
      - A policy as RV(cnf.ebpf.bpf_policy_info#module:content) told it, to bring it back. For O(file) the action plugin fills it in.
    type: str
  exclusive:
    description:
      - Remove all entries that are not declared. Within M(cnf.ebpf.topology) the declared ones are always all.
    type: bool
    default: false
  validate:
    description:
      - What to do when a new next hop is not usable, because its interface is missing, down or without carrier, it is not on the link
        or does not answer, forwarding is off where O(liveness) needs it, or C(rp_filter) would drop packets of the other direction.
      - V(strict) fails before anything is written, V(warn) warns, V(off) does not look.
    type: str
    choices: [strict, warn, "off"]
    default: strict
  audit:
    description:
      - Write to the system's log (facility authpriv, program C(cnf-ebpf)) who changed which entry from what to what.
    type: bool
    default: true
  tables:
    description: The contents of files. The action plugin fills it in.
    type: dict
requirements:
  - Linux kernel >= 5.16
notes:
  - Removing an entry (O(state=absent)) needs only what it matches.
  - To count all entries the object needs room, C(maps.entry_counters).
seealso:
  - module: cnf.ebpf.bpf_pool
  - module: cnf.ebpf.bpf_policy_info
  - module: cnf.ebpf.bpf_policy_test
  - module: cnf.ebpf.bpf_object
"""

EXAMPLES = r"""
---
- name: Answer clients of the virtual IP through the router that they came by
  cnf.ebpf.bpf_policy_entry:
    object: router
    source: 192.0.2.80
    interface: eth1
    next_hop: 198.51.100.1

- name: Two customers, two providers, with the other one as a fallback
  cnf.ebpf.bpf_policy_entry:
    object: router
    entries:
      - {source: 10.1.0.0/16, next_hops: [198.51.100.1%isp1, 203.0.113.1%isp2], comment: customer 1}
      - {source: 10.2.0.0/16, next_hops: [203.0.113.1%isp2, 198.51.100.1%isp1], comment: customer 2}
      - {source: 10.2.66.0/24, action: exempt}

- name: Web traffic through the proxy, whatever else is said about its source
  cnf.ebpf.bpf_policy_entry:
    object: router
    protocol: tcp
    destination_port: 80
    interface: proxy0
    next_hop: 10.9.0.2

- name: A hundred thousand sources, exactly those
  cnf.ebpf.bpf_policy_entry:
    object: router
    file: files/customers.csv
    exclusive: true

- name: Remove one
  cnf.ebpf.bpf_policy_entry:
    object: router
    source: 10.2.0.0/16
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
    bpf_policy_entry:
      - object: router
        count: 1
        entries:
          - source: 192.0.2.80/32
            interface: eth1
            next_hop: 198.51.100.1
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - 'change bpf_policy_entry tasks/router (added source 192.0.2.80/32)'
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - 'bpftool map update pinned /sys/fs/bpf/cnf/tasks/router/maps/sources4_exact  # source 192.0.2.80/32: next_hops 198.51.100.1%eth1'
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
    run_resource("bpf_policy_entry")


if __name__ == "__main__":
    main()
