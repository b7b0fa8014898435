#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Converge a whole network topology as one transaction."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: topology
short_description: Converge a whole network topology as one transaction
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Takes a document of namespaces, links, addresses, routes, rules, neighbors and sysctls, and brings the host to it with one plan.
    It is all or nothing. When an operation fails, everything is put back as it was.
  - Each section has the name of a module, and its items take the options of that module, word for word. They are validated by the
    same rules, all of them before anything is touched. An error names the place, such as C(netkit_link[2].peer.netns).
  - The order of sections and items does not matter. Things are made after what they need, and removed before it.
  - The topology owns what it made. What an earlier call declared and this one does not is removed, or given back where it was found.
    A section that is left out counts as empty. So the document is the whole topology every time, never a part of it.
  - O(state=absent) removes all of it and gives back what was changed. The sections are not needed for that.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  name:
    description:
      - Name of the topology, up to 63 of the characters C(A-Z a-z 0-9 _ . -), beginning with a letter or a digit. Not V(tasks), which
        owns what single tasks make.
      - It is the owner of everything in it. Another name is another topology, to which the objects of this one are foreign.
    type: str
    required: true
  netns:
    description: Network namespaces. Each item takes the options of M(cnf.ebpf.netns).
    type: list
    elements: dict
  netkit_link:
    description: Netkit pairs. Each item takes the options of M(cnf.ebpf.netkit_link).
    type: list
    elements: dict
  link:
    description: Veth pairs, bridges, VLANs, tunnels and other links, and devices that exist already. Each item takes the options of M(cnf.ebpf.link).
    type: list
    elements: dict
  sysctl_forwarding:
    description: Forwarding, reverse path filter and proxy sysctls. Each item takes the options of M(cnf.ebpf.sysctl_forwarding).
    type: list
    elements: dict
  address:
    description: Addresses of links, besides those that the links declare themselves. Each item takes the options of M(cnf.ebpf.address).
    type: list
    elements: dict
  neighbor:
    description: Permanent and managed neighbor entries. Each item takes the options of M(cnf.ebpf.neighbor).
    type: list
    elements: dict
  route:
    description: Routes. Each item takes the options of M(cnf.ebpf.route).
    type: list
    elements: dict
  rule:
    description: Policy routing rules. Each item takes the options of M(cnf.ebpf.rule).
    type: list
    elements: dict
  bpf_object:
    description: BPF programs and their maps, compiled on the target. Each item takes the options of M(cnf.ebpf.bpf_object).
    type: list
    elements: dict
  bpf_map_entry:
    description: Entries in maps of the objects. Each item takes the options of M(cnf.ebpf.bpf_map_entry).
    type: list
    elements: dict
  bpf_pool:
    description: Pools of policy routers. Each item takes the options of M(cnf.ebpf.bpf_pool).
    type: list
    elements: dict
  bpf_policy_entry:
    description: Entries of policy routers. Each item takes the options of M(cnf.ebpf.bpf_policy_entry).
    type: list
    elements: dict
  tcx_attach:
    description: Programs at the ingress and egress of devices. Each item takes the options of M(cnf.ebpf.tcx_attach).
    type: list
    elements: dict
  netkit_attach:
    description: Programs of netkit pairs. Each item takes the options of M(cnf.ebpf.netkit_attach).
    type: list
    elements: dict
  xdp_attach:
    description: XDP programs of devices. Each item takes the options of M(cnf.ebpf.xdp_attach).
    type: list
    elements: dict
  bundle:
    description: The sources of O(bpf_object). Filled in on the controller.
    type: str
  tables:
    description: The files of O(bpf_policy_entry). Filled in on the controller.
    type: dict
requirements:
  - Linux kernel >= 5.18, and what the module of each section needs
notes:
  - Items do not take O(state_dir), O(lock_timeout) and C(entries). An item with C(state=absent) is treated as if it were not in the list.
    C(adopt) of an item holds for it, O(adopt) for all.
  - To name a resource twice, in one section or by a link and by M(cnf.ebpf.address), is an error. Item and section are named.
  - Each confirmed revision is kept as a numbered generation below O(state_dir), the last ten of them.
seealso:
  - module: cnf.ebpf.netns
  - module: cnf.ebpf.netkit_link
  - module: cnf.ebpf.link
  - module: cnf.ebpf.sysctl_forwarding
  - module: cnf.ebpf.address
  - module: cnf.ebpf.neighbor
  - module: cnf.ebpf.route
  - module: cnf.ebpf.rule
  - module: cnf.ebpf.bpf_object
  - module: cnf.ebpf.bpf_map_entry
  - module: cnf.ebpf.bpf_pool
  - module: cnf.ebpf.bpf_policy_entry
  - module: cnf.ebpf.tcx_attach
  - module: cnf.ebpf.netkit_attach
  - module: cnf.ebpf.xdp_attach
  - module: cnf.ebpf.reachability
"""

EXAMPLES = r"""
---
- name: Two namespaces behind one router, IPv4 and IPv6
  cnf.ebpf.topology:
    name: edge
    netns:
      - name: client
      - name: server
    netkit_link:
      - name: nk-client
        addresses: [10.0.1.1/24, "fd00:1::1/64"]
        peer:
          name: eth0
          netns: client
          addresses: [10.0.1.2/24, "fd00:1::2/64"]
      - name: nk-server
        addresses: [10.0.2.1/24, "fd00:2::1/64"]
        peer:
          name: eth0
          netns: server
          addresses: [10.0.2.2/24, "fd00:2::2/64"]
    sysctl_forwarding:
      - ipv4: true
        ipv6: true
    route:
      - {netns: client, destination: default, via: 10.0.1.1}
      - {netns: client, destination: default, via: "fd00:1::1"}
      - {netns: server, destination: default, via: 10.0.2.1}
      - {netns: server, destination: default, via: "fd00:2::1"}

- name: A bridge segment with two hosts
  cnf.ebpf.topology:
    name: lan
    netns:
      - name: h1
      - name: h2
    link:
      - name: br-lan
        kind: bridge
        stp: false
        addresses: [10.0.3.1/24]
      - name: veth-h1
        kind: veth
        master: br-lan
        peer:
          name: eth0
          netns: h1
          addresses: [10.0.3.11/24]
      - name: veth-h2
        kind: veth
        master: br-lan
        peer:
          name: eth0
          netns: h2
          addresses: [10.0.3.12/24]
    route:
      - {netns: h1, destination: default, via: 10.0.3.1}
      - {netns: h2, destination: default, via: 10.0.3.1}

- name: Policy routing, one network leaves by the second uplink
  cnf.ebpf.topology:
    name: uplinks
    rule:
      - {priority: 1000, source: 10.0.2.0/24, table: "100"}
      - {priority: 1000, source: "fd00:2::/64", table: "100"}
    route:
      - {table: "100", destination: default, via: 192.0.2.1, dev: eth1}
      - {table: "100", destination: default, via: "2001:db8:1::1", dev: eth1}
      - {table: "100", destination: default, type: unreachable, metric: 4096}
    neighbor:
      - {dev: eth1, address: 192.0.2.1, managed: true}
    sysctl_forwarding:
      - interface: eth1
        rp_filter: loose

- name: Take over a namespace and a route that somebody else made
  cnf.ebpf.topology:
    name: legacy
    netns:
      - name: old
        adopt: true
    route:
      - destination: 198.51.100.0/24
        via: 192.0.2.254
        adopt: true

- name: Find out what the removal of a topology would change
  cnf.ebpf.topology:
    name: edge
    state: absent
  check_mode: true
  register: removal

- name: Show it as command lines
  ansible.builtin.debug:
    var: removal.commands

- name: Remove a topology and give back the sysctls that it changed
  cnf.ebpf.topology:
    name: edge
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
  sample: {sysctl: [{name: net/ipv4/conf/all/forwarding, value: "0"}]}
after:
  description: The same after the run. In check mode this is the prediction.
  returned: success
  type: dict
  sample:
    netns:
      - {name: client, lo_up: true}
    sysctl:
      - {name: net/ipv4/conf/all/forwarding, value: "1"}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - create netns client (missing)
    - change sysctl net/ipv4/conf/all/forwarding (value 0 -> 1)
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - ip netns add client
    - ip -n client link set lo up
    - sysctl -w net.ipv4.conf.all.forwarding=1
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
generation:
  description:
    - Number of the generation that describes the state of the topology now. It grows with each confirmed revision.
    - Not in check mode, and not when the topology was removed.
  returned: success, when the topology exists
  type: int
  sample: 3
"""

from ansible_collections.cnf.ebpf.plugins.module_utils._module import run_topology


def main() -> None:
    run_topology()


if __name__ == "__main__":
    main()
