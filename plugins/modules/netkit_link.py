#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage netkit pairs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: netkit_link
short_description: Manage netkit pairs
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Makes, changes and removes pairs of netkit devices. A netkit pair connects two namespaces like a veth pair, but its BPF
    programs run as part of transmission and are managed from the primary end only.
  - The options outside O(peer) describe the primary end, usually the one in the host. It is the identity of the pair.
    The workload at the other end can neither see nor remove the programs of the pair.
  - Deleting either end deletes both. A namespace that dies takes the pair along, whichever end it held.
  - O(state=absent) needs O(name) and O(netns) of the primary only.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  name:
    description: Name of the primary device, up to 15 bytes, without C(/), C(:), C(%) and white space.
    type: str
    required: true
  netns:
    description: Namespace of the primary. If not set, the one in which the module runs.
    type: str
  up:
    description: Whether the primary is up. A netkit device has carrier only while both ends are up.
    type: bool
    default: true
  mtu:
    description:
      - MTU of the primary in bytes, 68 to 65535. If not set, it is left alone.
      - The other end does not inherit it. Set O(peer.mtu) as well.
    type: int
  mac:
    description:
      - Hardware address of the primary, unicast, in quotes because YAML reads some as numbers.
      - Not with O(mode=l3), in which netkit has none.
    type: str
  addresses:
    description:
      - Addresses of the primary with prefix length, such as V(10.0.1.1/24). Without a length, it is V(/32) or V(/128).
      - Addresses that are not listed are left alone. M(cnf.ebpf.topology) removes those that it no longer declares. After a task,
        use M(cnf.ebpf.address).
    type: list
    elements: str
  master:
    description: Bridge or VRF to which the primary belongs, in the same namespace. A bridge needs O(mode=l2).
    type: str
  peer:
    description: The other end of the pair. Required unless O(state=absent).
    type: dict
    suboptions:
      name:
        description: Name of the peer device, as O(name). It can be the same as O(name) in another namespace.
        type: str
        required: true
      netns:
        description:
          - Namespace of the peer. If not set, the one in which the module runs, not that of the primary.
          - The peer is made in this namespace. An existing one is moved, and loses its addresses and routes by that.
        type: str
      up:
        description: Whether the peer is up.
        type: bool
        default: true
      mtu:
        description: MTU of the peer in bytes, 68 to 65535.
        type: int
      mac:
        description: Hardware address of the peer, unicast. Not with O(mode=l3).
        type: str
      addresses:
        description: Addresses of the peer, as O(addresses).
        type: list
        elements: str
      master:
        description: Bridge or VRF to which the peer belongs, in the namespace of the peer.
        type: str
  mode:
    description:
      - V(l3) moves IP packets without ARP or neighbor discovery, and the devices have no hardware address.
        A BPF program still finds an Ethernet header, with zero addresses.
      - V(l2) moves Ethernet frames, as veth does.
      - Fixed at creation.
    type: str
    choices: [l2, l3]
    default: l3
  policy:
    description:
      - What happens to packets that the primary sends to the peer while no program is attached there. The kernel's default is
        V(forward).
      - V(blackhole) is not a default verdict. As soon as a program is attached the policy does not apply any more, and packets for
        which all programs return NEXT pass. To fail closed, let the last program drop.
      - Can be changed at any time.
    type: str
    choices: [forward, blackhole]
  peer_policy:
    description: As O(policy), for packets that the peer sends to the primary.
    type: str
    choices: [forward, blackhole]
  scrub:
    description:
      - Whether mark and priority of packets that the primary sends are cleared when they enter another namespace. The kernel's
        default is V(default), which clears them. V(none) keeps them, as rules and policies by mark need it.
      - Fixed at creation. Needs kernel 6.13.
    type: str
    choices: [none, default]
  peer_scrub:
    description: As O(scrub), for packets that the peer sends.
    type: str
    choices: [none, default]
  headroom:
    description:
      - Bytes to reserve in front of each packet, 0 to 65535, for programs that add headers.
      - Fixed at creation. Needs kernel 6.14. The value that the kernel reports can grow when another device asks for more.
    type: int
  tailroom:
    description: Bytes to reserve behind each packet, 0 to 65535. Fixed at creation. Needs kernel 6.14.
    type: int
  fallback:
    description:
      - What to make when the kernel has no netkit. V(none) is an error, V(veth) a veth pair of the same names.
      - A veth pair has no O(mode), O(policy), O(scrub), O(headroom) and O(tailroom). RV(notes) say that it was used.
      - When the kernel has netkit later, the veth pair is only replaced with O(recreate=true).
    type: str
    choices: [none, veth]
    default: none
  recreate:
    description:
      - Whether a pair that differs in what is fixed at creation is deleted and made anew. With V(false) this is an error.
      - Attached programs and whatever stands on either end go with the pair, and traffic is interrupted.
    type: bool
    default: false
requirements:
  - Linux kernel >= 6.7 with CONFIG_NETKIT; >= 6.13 for scrub, >= 6.14 for headroom and tailroom
notes:
  - A kernel that does not know an option of netkit ignores it silently. The module reads back, undoes and fails then.
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.netns
  - module: cnf.ebpf.link
    description: For veth pairs and all other kinds of links.
"""

EXAMPLES = r"""
---
- name: Connect a namespace at layer 3
  cnf.ebpf.netkit_link:
    name: nk-client
    addresses:
      - 10.0.1.1/24
      - fd00:1::1/64
    peer:
      name: eth0
      netns: client
      addresses:
        - 10.0.1.2/24
        - fd00:1::2/64

- name: The same MTU at both ends, and marks that survive the way into the namespace
  cnf.ebpf.netkit_link:
    name: nk-fabric
    mtu: 9000
    scrub: none
    peer:
      name: fabric0
      netns: server
      mtu: 9000

- name: A layer 2 pair as port of a bridge, closed towards the host until a program is attached
  cnf.ebpf.netkit_link:
    name: nk-guest
    mode: l2
    peer_policy: blackhole
    master: br-lan
    peer:
      name: eth0
      netns: guest
      mac: "02:00:00:00:00:11"

- name: Use veth where the kernel has no netkit
  cnf.ebpf.netkit_link:
    name: nk-any
    fallback: veth
    peer:
      name: eth0
      netns: any

- name: Remove a pair, both ends of it
  cnf.ebpf.netkit_link:
    name: nk-client
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
    link:
      - name: nk-client
        kind: netkit
        up: true
        options: {mode: l3}
        peer: {name: eth0, netns: client, up: true}
    address:
      - {dev: nk-client, address: 10.0.1.1, prefixlen: 24}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - create link nk-client (missing)
    - create address nk-client 10.0.1.1/24 (missing)
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - ip link add nk-client type netkit mode l3 peer name eth0 netns client
    - ip link set nk-client up
    - ip -n client link set eth0 up
    - ip link property add dev nk-client altname cnf-tasks-1c0c6ca9110a
    - ip address add 10.0.1.1/24 dev nk-client proto 207
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
  description: What deserves attention although nothing failed, such as a fallback that was used. Each is also a warning.
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
    run_resource("netkit_link")


if __name__ == "__main__":
    main()
