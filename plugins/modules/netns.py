#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manage network namespaces."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: netns
short_description: Manage network namespaces
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Makes and removes named network namespaces, the same as C(ip netns) knows, and sets the state of their loopback device.
  - Removing a namespace removes the virtual links in it. A veth or netkit pair with one end in it goes with both ends.
    Physical devices return to the initial namespace.
  - A namespace that still holds links which its owner did not make is not removed unless O(adopt=true).
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  name:
    description: Name of the namespace, that is, of its file below C(/run/netns). Any file name of up to 255 bytes.
    type: str
    required: true
  lo_up:
    description:
      - Whether the loopback device C(lo) of the namespace is up. The kernel makes it down.
      - While it is down, a host cannot reach its own addresses from within the namespace.
    type: bool
    default: true
requirements:
  - Linux kernel >= 5.5 (for altnames)
notes:
  - A process that runs in a namespace keeps it alive, without a name, after it was removed.
seealso:
  - module: cnf.ebpf.topology
  - module: cnf.ebpf.netkit_link
  - module: cnf.ebpf.link
"""

EXAMPLES = r"""
---
- name: Make a namespace
  cnf.ebpf.netns:
    name: client

- name: Make a namespace whose loopback device stays down
  cnf.ebpf.netns:
    name: quiet
    lo_up: false

- name: Take over a namespace that was made with ip netns add
  cnf.ebpf.netns:
    name: legacy
    adopt: true

- name: Remove a namespace
  cnf.ebpf.netns:
    name: client
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
  sample: {netns: [{name: client, lo_up: true}]}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample: [create netns client (missing)]
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample: [ip netns add client, ip -n client link set lo up]
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
    run_resource("netns")


if __name__ == "__main__":
    main()
