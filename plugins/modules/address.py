#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage IP addresses of links."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: address
short_description: Manage IP addresses of links
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Adds, changes and removes IPv4 and IPv6 addresses of links, one or, with O(entries), many in one call.
  - An address is known by its namespace, its device, the address itself and, for IPv4, its prefix length. An IPv6 address is on a
    device once, so another prefix length replaces it.
  - Addresses that the call does not name are left alone.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  dev:
    description: Device that has the address. Required unless O(entries) is given.
    type: str
  address:
    description:
      - Address with prefix length, such as V(10.0.1.1/24). Without a length, it is V(/32) or V(/128).
      - Required unless O(entries) is given.
    type: str
  netns:
    description: Namespace of the device. If not set, the one in which the module runs.
    type: str
  peer:
    description: Address of the other end of a point-to-point connection. The prefix length is then that of the other end's network.
    type: str
  scope:
    description: Where the address is valid. IPv4 only. The kernel derives the scope of an IPv6 address from the address.
    type: str
    choices: [global, link, host]
  nodad:
    description:
      - Whether to skip duplicate address detection. IPv6 only.
      - Without it, an address of a device that does neighbor discovery cannot be used for 1 to 2 seconds after it was added.
    type: bool
  noprefixroute:
    description: Whether to leave out the route to the network of the address that the kernel makes otherwise.
    type: bool
  entries:
    description:
      - Many addresses, each with O(dev), O(address), O(netns), O(peer), O(scope), O(nodad) and O(noprefixroute) as above.
      - Mutually exclusive with O(dev) and O(address). Other options
        beside it are defaults for the entries. O(state) and O(adopt) hold for all.
      - Converged as one transaction. Faster than a loop by far.
    type: list
    elements: dict
requirements:
  - Linux kernel >= 5.18 (for the protocol number of addresses)
notes:
  - An address that DHCP or a router advertisement gave is foreign.
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.netkit_link
  - module: cnf.ebpf.link
"""

EXAMPLES = r"""
---
- name: Add an address
  cnf.ebpf.address:
    dev: eth0
    netns: client
    address: 10.0.1.2/24

- name: Add a service address that can be used at once
  cnf.ebpf.address:
    dev: lo
    netns: server
    address: 2001:db8:53::1/128
    nodad: true

- name: Many addresses in one call
  cnf.ebpf.address:
    entries:
      - {dev: lo, netns: server, address: 192.0.2.53/32}
      - {dev: lo, netns: server, address: 192.0.2.80/32}
      - {dev: eth0, netns: server, address: "2001:db8:1::2/64", noprefixroute: true}

- name: A point-to-point address
  cnf.ebpf.address:
    dev: nk-client
    address: 10.255.0.1/32
    peer: 10.255.0.2

- name: Remove an address
  cnf.ebpf.address:
    dev: eth0
    netns: client
    address: 10.0.1.2/24
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
  sample: {address: [{dev: eth0, netns: client, address: 10.0.1.2, prefixlen: 24}]}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [create address eth0 10.0.1.2/24 in netns client (missing)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample: [ip -n client address add 10.0.1.2/24 dev eth0 proto 207]
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
    run_resource("address")


if __name__ == "__main__":
    main()
