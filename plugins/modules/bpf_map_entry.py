#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Set entries in the maps of BPF objects."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_map_entry
short_description: Set entries in the maps of BPF objects
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Sets an entry of a map of an object, with keys and values by the field names of the source, in human form.
  - Interface indexes are written as the names of devices, and looked up again in each run.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.actiongroup_ebpf
  - cnf.ebpf.run
options:
  object:
    description: Name of the object, as in M(cnf.ebpf.bpf_object). Required unless O(entries) is given.
    type: str
  map:
    description: Name of the map in the source. Required unless O(entries) is given.
    type: str
  key:
    description:
      - Key of the entry. A mapping of field names for a structure, else a number or a text. Fields that are left out are zero.
      - Addresses are written as such, C(10.0.0.1) or C(fd00::1). Values of an enumeration by name.
      - A text C(link:NAME) stands for the interface index of that device in O(netns).
      - Required unless O(entries) is given.
    type: raw
  value:
    description:
      - Value of the entry, in the same form. Fields that are left out are not changed, and zero in a new entry.
      - Required with O(state=present).
    type: raw
  netns:
    description: Namespace in which devices are looked up. The host's own unless given.
    type: str
  entries:
    description:
      - Several entries in one call. Each takes the same options, and those of the task hold where an entry does not say otherwise.
    type: list
    elements: dict
requirements:
  - Linux kernel >= 5.10
notes:
  - Maps per CPU are for programs to write and are refused.
  - An entry that is removed from an array is zero afterwards, because arrays cannot lose entries.
seealso:
  - module: cnf.ebpf.bpf_object
  - module: cnf.ebpf.bpf_map_info
"""

EXAMPLES = r"""
---
- name: Copy what passes the mirror to mon0
  cnf.ebpf.bpf_map_entry:
    object: mirror
    map: target
    key: 0
    value: link:mon0

- name: Drop telnet from 10.66.0.0/16
  cnf.ebpf.bpf_map_entry:
    object: firewall
    entries:
      - map: sources4
        key: {prefixlen: 16, address: 10.66.0.0}
        value: 1
      - map: rules
        key: {source: 1, protocol: 6, port: 23}
        value: 2

- name: Redirect frames from eth0 to eth1
  cnf.ebpf.bpf_map_entry:
    object: gateway
    map: targets
    key: link:eth0
    value: link:eth1
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
    bpf_map_entry:
      - object: mirror
        map: target
        map_key: "0"
        value: link:mon0
actions:
  description: What was changed or, in check mode, would be, in order and with the reason. Empty when nothing differs.
  returned: success
  type: list
  elements: str
  sample:
    - 'create bpf_map_entry tasks/mirror:target 0 (missing)'
commands:
  description: The equivalent command lines, for reading. The module does not run them.
  returned: success
  type: list
  elements: str
  sample:
    - 'bpftool map update pinned /sys/fs/bpf/cnf/tasks/mirror/maps/target key 0 value "link:mon0"  # by field name'
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
    run_resource("bpf_map_entry")


if __name__ == "__main__":
    main()
