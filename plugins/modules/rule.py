#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage policy routing rules."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rule
short_description: Manage policy routing rules
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Adds and removes policy routing rules, one or, with O(entries), many in one call.
  - The kernel cannot change a rule. A rule that differs in anything is another rule, so to change one, remove the old one or declare
    it in M(cnf.ebpf.topology), which replaces it.
  - Rules that the call does not name are left alone.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  priority:
    description:
      - Place among the rules, 1 to 4294967295. The lowest is asked first. The kernel's own rules are at 0 (table local),
        32766 (main) and 32767 (default), so a rule above 32766 is only asked when table main has no route.
      - Required unless O(entries) is given.
    type: int
  family:
    description:
      - Address family. If not set, that of O(source) or O(destination), or else V(inet).
      - A rule without prefixes that shall hold for both families needs two entries.
    type: str
    choices: [inet, inet6]
  netns:
    description: Namespace of the rule. If not set, the one in which the module runs.
    type: str
  source:
    description: Prefix of the source address. If not set, or V(all), any.
    type: str
  destination:
    description: Prefix of the destination address. If not set, or V(all), any.
    type: str
  iif:
    description: Name of the device on which the packet came in, V(lo) for packets of the host itself. It need not exist yet.
    type: str
  oif:
    description: Name of the device to which a socket is bound. It need not exist yet.
    type: str
  fwmark:
    description: Mark of the packet, with an optional mask, such as V(0x10) or V(0x10/0xff). Without a mask, all 32 bits count.
    type: str
  protocol:
    description: IP protocol of the packet.
    type: str
    choices: [icmp, icmpv6, sctp, tcp, udp]
  source_port:
    description: Source port or range, such as V(443) or V(1000-2000).
    type: str
  destination_port:
    description: Destination port or range, as O(source_port).
    type: str
  invert:
    description: Whether the rule holds for packets that do not match.
    type: bool
    default: false
  table:
    description:
      - Table to ask with O(action=lookup), for which it is required, and only for it. V(main), V(local), V(default) or a number from
        1 to 4294967295.
      - When the table has no matching route, the next rule is asked.
    type: str
  action:
    description: What to do with a matching packet. V(blackhole) drops silently, V(unreachable) and V(prohibit) answer with an ICMP error.
    type: str
    choices: [blackhole, lookup, prohibit, unreachable]
    default: lookup
  entries:
    description:
      - Many rules, each with O(priority), O(family), O(netns), O(source), O(destination), O(iif), O(oif), O(fwmark), O(protocol),
        O(source_port), O(destination_port), O(invert), O(table) and O(action) as above.
      - Mutually exclusive with O(priority). Other options
        beside it are defaults for the entries. O(state) and O(adopt) hold for all.
      - Converged as one transaction. Faster than a loop by far.
    type: list
    elements: dict
requirements:
  - Linux kernel >= 4.17 (for the protocol number of rules, protocols and ports)
notes:
  - O(state=absent) needs all options that describe the rule, because all of them are its identity.
  - systemd-networkd removes foreign rules when it starts or configures a link unless it runs with
    C(ManageForeignRoutingPolicyRules=no).
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.route
"""

EXAMPLES = r"""
---
- name: Route packets from a network by a table of its own
  cnf.ebpf.rule:
    priority: 1000
    source: 10.0.2.0/24
    table: "100"

- name: Route marked packets by a table of their own, both families
  cnf.ebpf.rule:
    entries:
      - {priority: 1010, family: inet, fwmark: "0x10/0xff", table: "110"}
      - {priority: 1010, family: inet6, fwmark: "0x10/0xff", table: "110"}

- name: Web traffic of a namespace leaves by another table
  cnf.ebpf.rule:
    netns: client
    priority: 1020
    protocol: tcp
    destination_port: 80-443
    table: "120"

- name: Never forward between two networks
  cnf.ebpf.rule:
    priority: 900
    source: 2001:db8:1::/48
    destination: 2001:db8:2::/48
    action: prohibit

- name: Remove a rule
  cnf.ebpf.rule:
    priority: 1000
    source: 10.0.2.0/24
    table: "100"
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
    rule:
      - priority: 1000
        family: inet
        source: 10.0.2.0/24
        destination: ""
        iif: ""
        oif: ""
        fwmark: ""
        protocol: ""
        source_port: ""
        destination_port: ""
        invert: false
        action: lookup
        table: 100
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [create rule inet 1000 from 10.0.2.0/24 lookup 100 (missing)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample: [ip rule add priority 1000 from 10.0.2.0/24 lookup 100 protocol 207]
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
    run_resource("rule")


if __name__ == "__main__":
    main()
