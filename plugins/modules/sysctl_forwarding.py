#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage forwarding, reverse path filter and proxy sysctls."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sysctl_forwarding
short_description: Manage forwarding, reverse path filter and proxy sysctls
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Sets the values below C(/proc/sys/net) that decide whether a namespace forwards packets and how, for all interfaces or for one.
  - At least one of O(ipv4), O(ipv6), O(rp_filter), O(proxy_arp), O(proxy_ndp) and O(accept_ra) is required with O(state=present).
    Those that are not set are left alone.
  - O(state=absent) gives back the values that were found before the first change. It takes those that are named or, when none is,
    all that were set for the O(interface). What value is given for a named one does not matter.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  netns:
    description: Namespace of the values. If not set, the one in which the module runs.
    type: str
  interface:
    description:
      - Interface of the values, or V(all), or V(default) for interfaces that are made later.
      - The meaning of V(all) differs by value, see each option.
    type: str
    default: all
  ipv4:
    description:
      - Whether IPv4 packets are forwarded.
      - With O(interface=all), the kernel sets C(default) and every interface along. What each of them had is saved, and
        given back with O(state=absent).
    type: bool
  ipv6:
    description:
      - Whether IPv6 packets are forwarded. O(interface=all) sets every interface, as for O(ipv4).
      - An interface that forwards does not accept router advertisements any more, unless its O(accept_ra=always). A host that has its
        IPv6 default route from a router advertisement loses it.
    type: bool
  rp_filter:
    description:
      - IPv4 reverse path filter. V(strict) drops a packet when the route back does not lead through the interface on which it came
        in, V(loose) when there is no route back at all.
      - The larger of the values of C(all) and of the interface counts, where V(off) is 0, V(strict) 1 and V(loose) 2. So V(off) for
        C(all) does not turn off what an interface has, and V(loose) for C(all) makes every interface loose.
      - V(strict) silently drops asymmetric and redirected traffic.
    type: str
    choices: ["off", strict, loose]
  proxy_arp:
    description: Whether ARP requests for addresses to which the host has a route are answered. C(all) or the interface suffices.
    type: bool
  proxy_ndp:
    description:
      - Whether neighbor solicitations are answered for others. C(all) or the interface suffices.
      - Unlike O(proxy_arp), only addresses that have a proxy entry (C(ip neigh add proxy)) are answered for.
    type: bool
  accept_ra:
    description:
      - Whether IPv6 router advertisements are accepted. V(never), V(host) while the interface does not forward, or V(always).
      - The kernel reads the value of each interface only. C(all) has no effect on interfaces, so name one.
    type: str
    choices: [never, host, always]
  persist:
    description:
      - Whether the values are also written to a file below C(/etc/sysctl.d), so that they are set at boot.
      - The file is C(60-cnf-ebpf-NAME.conf), where C(NAME) is the topology, or C(tasks) for single tasks. It holds one line for each value,
        and goes with its last line.
      - Only without O(netns), because a named namespace does not outlive a boot.
    type: bool
    default: false
notes:
  - A new namespace starts with the IPv4 values of the initial namespace and the kernel's default IPv6 values, unless
    C(net.core.devconf_inherit_init_net) says otherwise.
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.route
"""

EXAMPLES = r"""
---
- name: Let the host forward IPv4 and IPv6, also after a reboot
  cnf.ebpf.sysctl_forwarding:
    ipv4: true
    ipv6: true
    persist: true

- name: Keep accepting router advertisements on the uplink of a router
  cnf.ebpf.sysctl_forwarding:
    interface: eth0
    accept_ra: always

- name: Let a namespace forward
  cnf.ebpf.sysctl_forwarding:
    netns: router
    ipv4: true
    ipv6: true

- name: Accept asymmetric traffic on one interface
  cnf.ebpf.sysctl_forwarding:
    interface: nk-client
    rp_filter: loose

- name: Give the values of the namespace back
  cnf.ebpf.sysctl_forwarding:
    netns: router
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
  sample: {sysctl: [{name: net/ipv4/conf/all/forwarding, netns: router, value: "0"}]}
after:
  description: The same after the run. In check mode this is the prediction.
  returned: success
  type: dict
  sample: {sysctl: [{name: net/ipv4/conf/all/forwarding, netns: router, value: "1"}]}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [change sysctl net/ipv4/conf/all/forwarding in netns router (value 0 -> 1)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample: [ip netns exec router sysctl -w net.ipv4.conf.all.forwarding=1]
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
    run_resource("sysctl_forwarding")


if __name__ == "__main__":
    main()
