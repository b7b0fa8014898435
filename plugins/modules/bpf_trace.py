#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read events of BPF programs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_trace
short_description: Read events that BPF programs emit
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Takes the events of a ring buffer for some time, or reads what programs say by C(bpf_printk) in the kernel's trace pipe.
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
  trace_pipe:
    description: Read the kernel's trace pipe instead of a map.
    type: bool
    default: false
  type:
    description:
      - Name of a structure in the type information of the map or of a program that uses it. Events of at least its length are
        told by its fields, too.
      - Clang keeps only types that a global variable or a map refers to. A program that emits a structure C(struct event)
        keeps it by C(const struct event *unused __attribute__((unused\));).
    type: str
  seconds:
    description: For how long to read.
    type: float
    default: 10.0
  events:
    description:
      - How many events end the reading earlier. Of the trace pipe a few more may be told, when they came together.
    type: int
    default: 1000
requirements:
  - Linux kernel >= 5.10
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - Reading takes events away. The kernel keeps one position per ring buffer and refuses no second reader, so when a daemon reads the
    same ring buffer, each event gets to one of the two, and some may get to both. Do not use it on a ring buffer that has a reader.
  - Events that waited before the module began are told first.
  - The trace pipe is one for the whole kernel, with the lines of all programs and tracers. It needs a kernel with tracefs, which
    need not be mounted.
seealso:
  - module: cnf.ebpf.bpf_map_info
  - module: cnf.ebpf.packet_capture
"""

EXAMPLES = r"""
---
- name: Take up to 100 events of an object's ring buffer
  cnf.ebpf.bpf_trace:
    object: sampler
    map: events
    type: event
    seconds: 5
    events: 100
  register: taken

- name: Show them
  ansible.builtin.debug:
    msg: "{{ taken.events | map(attribute='data') }}"

- name: Read what programs print
  cnf.ebpf.bpf_trace:
    trace_pipe: true
    seconds: 3
"""

RETURN = r"""
---
events:
  description: The events in the order in which they were emitted.
  returned: success
  type: list
  elements: dict
  contains:
    raw:
      description: The bytes in hexadecimal.
      returned: from a ring buffer
      type: str
      sample: 0a00000140000000
    data:
      description: The event by the fields of O(type), in human form. Null without O(type), and for an event that is shorter.
      returned: from a ring buffer
      type: raw
      sample: {saddr: 10.0.0.1, length: 64}
    task:
      description: Name of the task during which the line was printed, null for a line that has no such form.
      returned: from the trace pipe
      type: str
      sample: ping
    pid:
      description: Number of that task, or null.
      returned: from the trace pipe
      type: int
    cpu:
      description: Number of the CPU, or null.
      returned: from the trace pipe
      type: int
    time:
      description: Seconds since boot, or null.
      returned: from the trace pipe
      type: float
    text:
      description: The text, or the whole line.
      returned: from the trace pipe
      type: str
count:
  description: Number of events.
  returned: success
  type: int
discarded:
  description: Records that a program reserved and then discarded; 0 for the trace pipe.
  returned: success
  type: int
lost:
  description:
    - Lines that the trace pipe lost because nobody read them in time.
    - Null for a ring buffer, which does not count what did not fit. A program that wants to know counts failed reservations.
  returned: success
  type: int
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_trace


def main() -> None:
    _inspect.run(
        lambda module: _inspect_trace.trace(module.params),
        argument_spec=_inspect_trace.ARGUMENT_SPEC,
    )


if __name__ == "__main__":
    main()
