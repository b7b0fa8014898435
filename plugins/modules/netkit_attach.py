#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attach BPF programs to netkit pairs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: netkit_attach
short_description: Attach BPF programs to netkit pairs
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Attaches a program of an object to a netkit pair, at a declared place among the programs that are there already.
  - Programs of both directions are attached through the primary end, in whichever namespace it is. What runs at the far end can neither see nor remove them.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  object:
    description: Name of the object, as in M(cnf.ebpf.bpf_object). Required unless O(entries) is given.
    type: str
  program:
    description:
      - Name of the program in the object.
      - Unless given, the only one that fits the hook, or else the one that is called like the source.
    type: str
  link:
    description: Primary end of the pair. Required unless O(entries) is given.
    type: str
  netns:
    description: Namespace of O(link). The host's own unless given.
    type: str
  hook:
    description:
      - V(peer) sees what the far end sends, as the primary end receives it, and finds devices and routes of the namespace of the primary end.
      - V(primary) sees what the primary end sends, as the far end receives it, and finds those of the far end's namespace.
    type: str
    choices: [primary, peer]
    default: peer
  order:
    description:
      - Where the program goes in the list of the hook. Programs that are attached there run one after the other until one of them gives a verdict.
      - V(first) and V(last) are meant against programs of others. Among several of ours that ask for the same, the one that was attached
        earlier is further ahead.
      - V(before) and V(after) are relative to O(relative_to).
      - Unless given, any place will do, and a new program goes to the end, ahead of those that asked to be last.
      - Programs of others are never moved.
    type: str
    choices: [first, last, before, after]
  relative_to:
    description: The program to be placed beside. Exactly one of O(relative_to.object), O(relative_to.name) and O(relative_to.id).
    type: dict
    suboptions:
      object:
        description: Object of the same owner, or C(OWNER/OBJECT).
        type: str
      program:
        description: Program of that object. Any of them unless given.
        type: str
      name:
        description: Name of the program in the kernel, as C(bpftool net) shows it. Its first 15 characters count.
        type: str
      id:
        description: Number of the program in the kernel. It holds until its owner loads it again.
        type: int
  mechanism:
    description:
      - V(netkit) refuses any other device.
      - V(auto) takes the tcx hook that sees the same packets when O(link) is not a netkit device. For pairs that M(cnf.ebpf.netkit_link) declares with
        C(fallback=veth).
    type: str
    choices: [netkit, auto]
    default: netkit
  entries:
    description:
      - Several attachments in one call. Each takes the same options, and those of the task hold where an entry does not say otherwise.
    type: list
    elements: dict
requirements:
  - Linux kernel >= 6.7, with CONFIG_NETKIT
notes:
  - The policy V(blackhole) of a pair holds only while no program is attached. To drop what no program lets pass, attach C(drop_all) of
    C(filter.bpf.c) with O(order=last).
  - A hook takes 63 programs.
  - An attachment is recognized by the mark of its program, not by its pin. What lost its pin, or whose device was moved to another namespace,
    is taken up again. A device that was deleted and made anew gets its program back in the next run.
  - A change of place loads a second copy of the program for a moment, so that no packet passes by. Packets in that moment may be counted twice.
seealso:
  - module: cnf.ebpf.bpf_object
  - module: cnf.ebpf.netkit_link
  - module: cnf.ebpf.tcx_attach
  - module: cnf.ebpf.bpf_info
"""

EXAMPLES = r"""
---
- name: Filter what a container sends
  cnf.ebpf.netkit_attach:
    object: firewall
    program: filter
    link: nk0
    hook: peer

- name: Drop whatever the filter has not let pass
  cnf.ebpf.netkit_attach:
    object: firewall
    program: drop_all
    link: nk0
    hook: peer
    order: last

- name: Count what goes to a container
  cnf.ebpf.netkit_attach:
    object: count
    link: nk0
    hook: primary
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
    netkit_attach:
      - {object: count, program: count, link: nk0, hook: peer, mechanism: netkit, health: ok}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - create netkit_attach nk0 peer tasks/count:count (missing)
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - bpftool net attach netkit_peer pinned /sys/fs/bpf/cnf/tasks/count/programs/count dev nk0
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
    run_resource("netkit_attach")


if __name__ == "__main__":
    main()
