#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage veth pairs, bridges, VLANs, tunnels and other links."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: link
short_description: Manage veth pairs, bridges, VLANs, tunnels and other links
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Makes, changes and removes links of the kinds that O(kind) lists.
  - With O(kind=existing), configures a device that is there already, such as a network card. Its state, MTU, hardware address,
    master and namespace are saved before the first change. O(state=absent) gives them back and does not remove the device.
  - O(state=absent) needs O(name) and O(netns) only. Of a pair, these are the ones outside O(peer).
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  name:
    description: Name of the device, up to 15 bytes, without C(/), C(:), C(%) and white space.
    type: str
    required: true
  kind:
    description:
      - Kind of the link. Required unless O(state=absent).
      - V(veth) is a pair of Ethernet devices. Deleting one end deletes both, and a namespace that dies takes both along.
      - V(bridge) switches frames between its O(ports).
      - V(vlan) is the part of O(parent) that is tagged with O(vlan_id).
      - V(vxlan) carries Ethernet frames in UDP.
      - V(vrf) is a routing domain. Links that have it as O(master) use its O(table).
      - V(macvlan) is a device of its own hardware address on O(parent).
      - V(dummy) drops what it is sent.
      - V(wireguard) carries IP in encrypted UDP. The device is made, its keys and peers are set by whoever holds them, with C(wg).
      - V(tun) and V(tap) are persistent, IP and Ethernet respectively, for a process to open.
      - V(existing) is a device that is there already. It is looked up in O(netns) and, to be moved there, in the namespace in which
        the module runs.
    type: str
    choices: [veth, bridge, vlan, vxlan, vrf, macvlan, dummy, wireguard, tun, tap, existing]
  netns:
    description:
      - Namespace of the device. If not set, the one in which the module runs.
      - A device that moves loses its addresses, routes and neighbors.
    type: str
  up:
    description: Whether the device is up. If not set, a device that is made here is up, and one of O(kind=existing) is left alone.
    type: bool
  mtu:
    description:
      - MTU in bytes, 68 to 65535. If not set, it is left alone.
      - The other end of a pair does not inherit it. Set O(peer.mtu) as well.
    type: int
  mac:
    description: Hardware address, unicast, in quotes because YAML reads some as numbers. If not set, it is left alone.
    type: str
  addresses:
    description:
      - Addresses with prefix length, such as V(10.0.1.1/24). Without a length, it is V(/32) or V(/128).
      - Addresses that are not listed are left alone. M(cnf.ebpf.topology) removes those that it no longer declares. After a task,
        use M(cnf.ebpf.address).
    type: list
    elements: str
  master:
    description: Bridge or VRF to which the device belongs, in the same namespace. If not set, it is left alone.
    type: str
  peer:
    description: The other end. Required for O(kind=veth), and only for it.
    type: dict
    suboptions:
      name:
        description: Name of the peer device, as O(name). It can be the same as O(name) in another namespace.
        type: str
        required: true
      netns:
        description: Namespace of the peer. If not set, the one in which the module runs, not that in O(netns).
        type: str
      up:
        description: Whether the peer is up. A veth device has carrier only while both ends are up.
        type: bool
        default: true
      mtu:
        description: MTU of the peer in bytes, 68 to 65535.
        type: int
      mac:
        description: Hardware address of the peer, unicast.
        type: str
      addresses:
        description: Addresses of the peer, as O(addresses).
        type: list
        elements: str
      master:
        description: Bridge or VRF to which the peer belongs, in the namespace of the peer.
        type: str
  parent:
    description:
      - Device on which this one stands, in the same namespace. Fixed at creation.
      - Required for O(kind=vlan) and O(kind=macvlan). For O(kind=vxlan), the device that carries the tunnel, which a multicast
        O(remote) needs.
    type: str
  ports:
    description:
      - Devices that belong to this bridge, in the same namespace. The same as O(master) from the other side, so use one of the two.
      - Ports that are not listed are left alone.
      - Only for O(kind=bridge).
    type: list
    elements: str
  stp:
    description: Whether the bridge takes part in the spanning tree protocol. Only for O(kind=bridge).
    type: bool
  vlan_filtering:
    description: Whether the bridge distinguishes VLANs. Only for O(kind=bridge).
    type: bool
  ageing_time:
    description: Seconds after which the bridge forgets a hardware address, 0 to 1000000. Only for O(kind=bridge).
    type: int
  forward_delay:
    description: Seconds in each of the states listening and learning, 2 to 30. Only for O(kind=bridge).
    type: int
  vlan_id:
    description: VLAN number, 1 to 4094. Fixed at creation. Required for O(kind=vlan), and only for it.
    type: int
  vlan_protocol:
    description: Tag protocol. V(802.1q) if not set. Fixed at creation. Only for O(kind=vlan).
    type: str
    choices: [802.1q, 802.1ad]
  vni:
    description: VXLAN network identifier, 0 to 16777215. Fixed at creation. Required for O(kind=vxlan), and only for it.
    type: int
  local:
    description: Source address of the tunnel. Fixed at creation. Only for O(kind=vxlan).
    type: str
  remote:
    description:
      - Address of the other end of the tunnel, or a multicast group with O(parent). Of the same family as O(local).
      - Only for O(kind=vxlan).
    type: str
  port:
    description:
      - UDP port of the tunnel, 1 to 65535. V(4789) if not set, while C(ip link) takes 8472. Fixed at creation.
      - Only for O(kind=vxlan).
    type: int
  learning:
    description: Whether the tunnel learns where hardware addresses are from what it receives. Only for O(kind=vxlan).
    type: bool
  ttl:
    description:
      - Time to live of outer packets, 0 to 255. With V(0), the default of the host, and 1 for multicast. Fixed at creation.
      - Only for O(kind=vxlan).
    type: int
  table:
    description: Routing table of the VRF, 1 to 4294967295. Fixed at creation. Required for O(kind=vrf), and only for it.
    type: int
  macvlan_mode:
    description: How devices on the same parent reach each other. V(bridge) if not set. Only for O(kind=macvlan).
    type: str
    choices: [private, vepa, bridge, passthru]
  fallback:
    description:
      - What to make where the kernel has no WireGuard, V(tun) for a device that a WireGuard process opens. With V(none), the default,
        that is an error. Only for O(kind=wireguard).
    type: str
    choices: [none, tun]
  recreate:
    description:
      - Whether a link that differs in its kind or in what is fixed at creation is deleted and made anew. With V(false) this is an
        error.
      - Attached programs and whatever stands on the link go with it, and traffic is interrupted.
    type: bool
    default: false
requirements:
  - Linux kernel >= 5.5 (for altnames), with the driver of the kind
notes:
  - An MTU below 1280 turns IPv6 off on the device.
  - Nothing keeps you from changing the device over which Ansible is connected.
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.netns
  - module: cnf.ebpf.netkit_link
  - module: cnf.ebpf.address
"""

EXAMPLES = r"""
---
- name: A veth pair between the host and a namespace
  cnf.ebpf.link:
    name: veth-client
    kind: veth
    addresses: [10.0.1.1/24]
    peer:
      name: eth0
      netns: client
      addresses: [10.0.1.2/24]

- name: A bridge with its address
  cnf.ebpf.link:
    name: br-lan
    kind: bridge
    stp: false
    vlan_filtering: true
    addresses: [10.0.3.1/24]

- name: A veth pair whose host end is a port of the bridge
  cnf.ebpf.link:
    name: veth-h1
    kind: veth
    master: br-lan
    peer:
      name: eth0
      netns: h1
      mac: "02:00:00:00:03:11"

- name: VLAN 120 of a network card
  cnf.ebpf.link:
    name: eth1.120
    kind: vlan
    parent: eth1
    vlan_id: 120

- name: A VXLAN tunnel to one other host
  cnf.ebpf.link:
    name: vx42
    kind: vxlan
    vni: 42
    local: 192.0.2.10
    remote: 192.0.2.20
    learning: false
    mtu: 1450

- name: A VRF
  cnf.ebpf.link:
    name: vrf-blue
    kind: vrf
    table: 1001

- name: Put a network card into a namespace, with a larger MTU
  cnf.ebpf.link:
    name: eth2
    kind: existing
    netns: server
    up: true
    mtu: 9000

- name: Give the network card back as it was found
  cnf.ebpf.link:
    name: eth2
    netns: server
    state: absent

- name: Remove the veth pair, both ends of it
  cnf.ebpf.link:
    name: veth-client
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
  sample:
    link:
      - name: veth-client
        kind: veth
        up: true
        mtu: 1500
        peer: {name: eth0, netns: client, up: true}
after:
  description: The same after the run. In check mode this is the prediction.
  returned: success
  type: dict
  sample:
    link:
      - name: veth-client
        kind: veth
        up: true
        mtu: 1400
        peer: {name: eth0, netns: client, up: true}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [change link veth-client (mtu 1500 -> 1400)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample: [ip link set veth-client mtu 1400]
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
    run_resource("link")


if __name__ == "__main__":
    main()
