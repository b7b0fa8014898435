#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the entries of a BPF map."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_map_info
short_description: Read the entries of a BPF map
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Reads the entries of any BPF map, with keys and values by the field names of its source and in human form, as
    M(cnf.ebpf.bpf_map_entry) takes them.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
options:
  map:
    description:
      - Path of a pin, such as V(/sys/fs/bpf/mine/table), or with O(object) the name of a map as in the source.
    type: str
  topology:
    description: Name of the topology to which O(object) belongs. V(tasks) is what single tasks make.
    type: str
    default: tasks
  object:
    description:
      - Name of the object, as in M(cnf.ebpf.bpf_object).
      - Its map is found by its pin, and by the programs that use it when a second BPF file system hides the pins.
    type: str
  id:
    description: Id of the map in the kernel, as M(cnf.ebpf.bpf_info) and C(bpftool map) tell it.
    type: int
  keys:
    description:
      - Look up only these keys, each in human form, a mapping of field names for a structure. Fields that are left out are zero.
      - In a map without type information, a key is its bytes in hexadecimal such as V(0a:00:00:01), or a number.
    type: list
    elements: raw
  limit:
    description: How many entries to read at most, unless O(keys) are given. The order is the kernel's.
    type: int
    default: 1000
requirements:
  - Linux kernel >= 5.10
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - A map that programs write to meanwhile is not read as of one moment.
seealso:
  - module: cnf.ebpf.bpf_map_entry
  - module: cnf.ebpf.bpf_info
"""

EXAMPLES = r"""
---
- name: Read the counters of an object
  cnf.ebpf.bpf_map_info:
    object: count
    map: counters
  register: counted

- name: Show how many packets there were
  ansible.builtin.debug:
    msg: "{{ (counted.entries | selectattr('name', 'defined') | selectattr('name', 'equalto', 'COUNT_TOTAL') | first).total.packets }}"

- name: Look up two prefixes
  cnf.ebpf.bpf_map_info:
    topology: edge
    object: firewall
    map: sources4
    keys:
      - {prefixlen: 16, address: 10.66.0.0}
      - {prefixlen: 32, address: 192.0.2.1}
  register: rows

- name: Read a map of another tool
  cnf.ebpf.bpf_map_info:
    map: /sys/fs/bpf/tc/globals/policy
    limit: 10
"""

RETURN = r"""
---
map:
  description: The map itself.
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      returned: always
      type: int
    name:
      description: Its name, cut to 15 characters by the kernel.
      returned: always
      type: str
      sample: counters
    type:
      description: Its type.
      returned: always
      type: str
      sample: percpu_array
    max_entries:
      description: How many entries there is room for.
      returned: always
      type: int
      sample: 32
    key:
      description: Layout of the key in words, or the number of its bytes.
      returned: always
      type: str
      sample: u32
    value:
      description: Layout of the value in words, or the number of its bytes.
      returned: always
      type: str
      sample: packets u64, bytes u64
entries:
  description: The entries, in the kernel's order or in that of O(keys).
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: The key in human form, in hexadecimal where its type is not known.
      returned: always
      type: raw
      sample: 0
    name:
      description: Name of the index in the source.
      returned: in a map RV(ignore:counters) whose program names its indexes, as those of the collection do under clang
      type: str
      sample: COUNT_TOTAL
    value:
      description: The value in human form. Of a map of maps or programs, the id.
      returned: unless the map has a value for each CPU
      type: raw
    per_cpu:
      description: The values of all CPUs in their order.
      returned: when the map has a value for each CPU
      type: list
      elements: raw
      sample:
        - {packets: 3, bytes: 294}
        - {packets: 1, bytes: 98}
    total:
      description: The sum over all CPUs, field by field, of what is an integer; null when nothing is.
      returned: when the map has a value for each CPU
      type: raw
      sample: {packets: 4, bytes: 392}
missing:
  description: Those of O(keys) that the map does not have.
  returned: success
  type: list
  elements: raw
truncated:
  description: Whether there are more entries than O(limit).
  returned: success
  type: bool
notes:
  description: That the map has no type information, so that keys and values are hexadecimal. It is a warning as well.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_maps


def main() -> None:
    _inspect.run(
        lambda module: _inspect_maps.read_map(module.params),
        argument_spec=_inspect_maps.ARGUMENT_SPEC,
        required_one_of=[("map", "id")],
        mutually_exclusive=[("map", "id"), ("object", "id")],
    )


if __name__ == "__main__":
    main()
