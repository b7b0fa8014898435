#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage routes."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: route
short_description: Manage routes
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Adds, changes and removes IPv4 and IPv6 routes, one or, with O(entries), many in one call.
  - A route is known by its namespace, O(table), O(destination) and O(metric). The rest is changed in place by one request, so that
    no packet finds the table without the route.
  - Routes that the call does not name are left alone, in whatever table.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  destination:
    description:
      - Prefix to which the route leads, such as V(10.0.0.0/8), or V(default). Host bits are cleared. Without a length, it is V(/32)
        or V(/128).
      - V(default) is of O(family) or, if that is not set, of the family of O(via), or else IPv4.
      - Required unless O(entries) is given.
    type: str
  family:
    description: Address family. Only needed for O(destination=default) without O(via).
    type: str
    choices: [inet, inet6]
  netns:
    description: Namespace of the route. If not set, the one in which the module runs.
    type: str
  via:
    description: Address of the next hop. An IPv4 route can have an IPv6 next hop.
    type: str
  dev:
    description: Device through which the route leads. If not set, the kernel finds it by O(via).
    type: str
  table:
    description: Routing table, V(main), V(local), V(default) or a number from 1 to 4294967295. Other names are not read from the host.
    type: str
    default: main
  metric:
    description:
      - Preference of the route, 0 to 4294967295. The lowest wins. It is part of the identity, so another metric is another route.
      - If not set, V(0) for IPv4. For IPv6, V(0) or no value is V(1024), as for the kernel.
    type: int
  type:
    description:
      - V(unicast) forwards and needs O(via), O(dev) or both. The others take neither.
      - V(blackhole) drops silently, V(unreachable) and V(prohibit) answer with an ICMP error.
    type: str
    choices: [blackhole, prohibit, unicast, unreachable]
    default: unicast
  scope:
    description: Distance of the destination. IPv4 only. If not set, as C(ip route) derives it from O(via) and O(dev).
    type: str
    choices: [global, link, host]
  source:
    description: Source address that the host prefers when it sends by this route. It must be an address of the host.
    type: str
  onlink:
    description: Whether O(via) counts as directly connected to O(dev), which must be given, even when no address of it says so.
    type: bool
  entries:
    description:
      - Many routes, each with O(destination), O(family), O(netns), O(via), O(dev), O(table), O(metric), O(type), O(scope), O(source)
        and O(onlink) as above.
      - Mutually exclusive with O(destination). Other options
        beside it are defaults for the entries. O(state) and O(adopt) hold for all.
      - Converged as one transaction. Faster than a loop by far.
    type: list
    elements: dict
notes:
  - The kernel drops the routes through a device that goes down or loses the address they depend on. The next run puts them back.
  - O(state=absent) needs O(destination), and O(netns), O(family), O(table) and O(metric) where they are not the default. An IPv6
    V(default) needs O(family=inet6) or O(via).
  - systemd-networkd removes foreign routes when it configures a link unless it runs with C(ManageForeignRoutes=no).
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.rule
    description: To choose the table by source, mark or port.
  - module: cnf.ebpf.neighbor
"""

EXAMPLES = r"""
---
- name: Default routes of a namespace, IPv4 and IPv6
  cnf.ebpf.route:
    entries:
      - {netns: client, destination: default, via: 10.0.1.1}
      - {netns: client, destination: default, via: "fd00:1::1"}

- name: A route through a device
  cnf.ebpf.route:
    destination: 10.0.2.0/24
    dev: nk-server
    source: 10.0.1.1

- name: A route in a table of its own, with a next hop that no address announces
  cnf.ebpf.route:
    destination: default
    table: "100"
    via: 192.0.2.1
    dev: eth1
    onlink: true

- name: Answer packets to unused addresses with an error
  cnf.ebpf.route:
    destination: 2001:db8::/32
    type: unreachable
    metric: 4096

- name: Replace a default route that was made by hand
  cnf.ebpf.route:
    destination: default
    via: 192.0.2.1
    adopt: true

- name: Remove the IPv6 default route of a namespace
  cnf.ebpf.route:
    netns: client
    destination: default
    family: inet6
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
    route:
      - destination: 0.0.0.0/0
        netns: client
        table: 254
        metric: 0
        type: unicast
        via: 10.0.1.1
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [create route 0.0.0.0/0 table main metric 0 in netns client (missing)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample: [ip -n client route add default via 10.0.1.1 proto 207]
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
    run_resource("route")


if __name__ == "__main__":
    main()
