#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attach a BPF program to the XDP hook of a device."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: xdp_attach
short_description: Attach a BPF program to the XDP hook of a device
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Attaches a program of an object to the XDP hook of a device, where it sees each frame before the network stack does. A device has one XDP program.
  - A program of others is not replaced. With O(adopt=true) it is, unless a link of its owner holds it. It is put back when the run fails.
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
    description: Device. Required unless O(entries) is given.
    type: str
  netns:
    description: Namespace of O(link). The host's own unless given.
    type: str
  mode:
    description:
      - V(native) runs in the driver, V(generic) in the network stack, which is slower and works on any device.
      - V(auto) takes the driver's where it has one. On netkit devices it takes V(generic).
      - A change of the mode detaches the program and attaches it anew. Frames in between pass by.
    type: str
    choices: [auto, native, generic]
    default: auto
  entries:
    description:
      - Several attachments in one call. Each takes the same options, and those of the task hold where an entry does not say otherwise.
    type: list
    elements: dict
requirements:
  - Linux kernel >= 5.10, for the programs of the collection >= 5.18
notes:
  - An attachment is recognized by the mark of its program, not by its pin. What lost its pin, or whose device was moved to another namespace,
    is taken up again. A device that was deleted and made anew gets its program back in the next run.
seealso:
  - module: cnf.ebpf.bpf_object
  - module: cnf.ebpf.tcx_attach
  - module: cnf.ebpf.bpf_info
"""

EXAMPLES = r"""
---
- name: Count frames of eth0 before anything else sees them
  cnf.ebpf.xdp_attach:
    object: count
    link: eth0

- name: The same in the network stack, on a device whose driver has no XDP
  cnf.ebpf.xdp_attach:
    object: count
    link: tap0
    mode: generic
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
    xdp_attach:
      - {object: count, program: count_xdp, link: eth0, hook: xdp, health: ok}
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - create xdp_attach eth0 xdp tasks/count:count_xdp (missing)
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - bpftool net attach xdp pinned /sys/fs/bpf/cnf/tasks/count/programs/count_xdp dev eth0
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
    run_resource("xdp_attach")


if __name__ == "__main__":
    main()
