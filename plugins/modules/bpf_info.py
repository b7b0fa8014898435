#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read BPF programs, objects and netkit devices."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bpf_info
short_description: Read which BPF programs are attached where on a host
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Tells every BPF program at the network hooks of a host in one answer, whoever attached it, in all named network namespaces and
    the host's own. The hooks are XDP, netkit, tcx and the legacy filters of clsact.
  - Tells the objects of all topologies with their maps and attachments, and netkit devices with their settings and other ends.
  - What is attached is what the kernel's own lists say, not what pins say.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
options:
  netns:
    description:
      - Only devices of this network namespace. The empty string stands for the host's own. It is an error when there is none of
        that name.
    type: str
  link:
    description: Only devices of this name, or with this altname. There may be one in each namespace.
    type: str
  sample:
    description:
      - Seconds for which the kernel is asked to count the runs of every program and the time they take, to tell them as rates.
        Counting costs each run some tens of nanoseconds meanwhile.
      - With V(0) it is not asked to.
    type: float
    default: 0.0
  fill:
    description:
      - Whether to count the entries of maps. A million of them takes about a second, or some seconds where keys and values could be more than 64 MiB.
    type: bool
    default: true
requirements:
  - Linux kernel >= 5.10
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - Objects are told for the whole host, whatever O(netns) and O(link) say, but RV(objects[].attachments) only of the devices that
    were looked at.
  - A kernel without tcx (Linux 6.6) or netkit (6.7) has no such hooks, which is no error.
seealso:
  - module: cnf.ebpf.bpf_map_info
  - module: cnf.ebpf.topology_info
"""

EXAMPLES = r"""
---
- name: Read everything
  cnf.ebpf.bpf_info:
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.text.splitlines() }}"

- name: Fail when somebody else has a program at a hook of eth0
  ansible.builtin.assert:
    that: found.devices | selectattr('link', 'equalto', 'eth0') | map(attribute='hooks') | flatten
          | map(attribute='programs') | flatten | rejectattr('topology') | length == 0

- name: See how much time the programs of one namespace take
  cnf.ebpf.bpf_info:
    netns: client
    sample: 2
    fill: false
  register: rates
"""

RETURN = r"""
---
devices:
  description: The devices with at least one program, those of the host's own namespace first.
  returned: success
  type: list
  elements: dict
  contains:
    netns:
      description: The network namespace, empty for the host's own.
      returned: always
      type: str
      sample: client
    link:
      description: Name of the device.
      returned: always
      type: str
      sample: eth0
    ifindex:
      description: Its index.
      returned: always
      type: int
      sample: 2
    hooks:
      description: The hooks at which something is attached, in the order in which a received packet meets them.
      returned: always
      type: list
      elements: dict
      contains:
        hook:
          description:
            - V(xdp), V(netkit primary), V(netkit peer), V(tcx ingress), V(tcx egress), V(clsact ingress) or V(clsact egress).
            - V(qdisc ingress) for the filters of the queueing discipline V(ingress), which clsact replaced.
          returned: always
          type: str
          sample: tcx ingress
        mode:
          description: Mode of XDP, V(native), V(generic) or V(offload); null for other hooks.
          returned: always
          type: str
        revision:
          description: Number that grows with each change of the list; null for hooks without one, XDP and clsact.
          returned: always
          type: int
          sample: 3
        programs:
          description:
            - The programs in the order in which they run, and filters of other kinds in between.
            - What a filter of another kind does not have is null.
          returned: always
          type: list
          elements: dict
          contains:
            id:
              description: Id of the program.
              returned: always
              type: int
              sample: 41
            name:
              description: Its name, cut to 15 characters by the kernel.
              returned: always
              type: str
              sample: count
            tag:
              description: Hash of its instructions.
              returned: always
              type: str
              sample: 3b185187f1855c4c
            type:
              description: Type of the program, or kind of the filter.
              returned: always
              type: str
              sample: sched_cls
            link_id:
              description: Id of the link that attaches it, null when it was attached without one.
              returned: always
              type: int
              sample: 17
            pin:
              description: Path at which the link, or without one the program, is pinned; null when no pin is to be seen.
              returned: always
              type: str
              sample: /sys/fs/bpf/cnf/edge/count/links/count/ingress@eth0@@
            priority:
              description: Priority of a filter, null at other hooks.
              returned: always
              type: int
            topology:
              description: The topology to which it belongs, V(tasks) for single tasks, null when it is foreign.
              returned: always
              type: str
              sample: edge
            object:
              description: Its object, null when it is foreign.
              returned: always
              type: str
              sample: count
            program:
              description: Its name in the object's source, null when it is foreign.
              returned: always
              type: str
              sample: count
            since:
              description: When it was loaded, in ISO 8601 and UTC.
              returned: always
              type: str
              sample: "2026-01-31T09:30:00Z"
            run_count:
              description: Runs that the kernel counted while statistics were enabled, V(0) when they never were.
              returned: always
              type: int
            run_time_ns:
              description: Nanoseconds that these runs took.
              returned: always
              type: int
            runs_per_second:
              description: Runs per second of the sample.
              returned: when O(sample) is more than 0
              type: float
            ns_per_run:
              description: Mean nanoseconds of a run within the sample, null without a run.
              returned: when O(sample) is more than 0
              type: float
objects:
  description: The objects of all topologies, by topology and name.
  returned: success
  type: list
  elements: dict
  contains:
    topology:
      description: The topology, V(tasks) for single tasks.
      returned: always
      type: str
      sample: edge
    object:
      description: Name of the object.
      returned: always
      type: str
      sample: count
    source:
      description: Name of the source or ELF file, null when none of its programs is left.
      returned: always
      type: str
      sample: count.bpf.c
    compiler:
      description: The compiler with its version, or V(prebuilt); null as RV(objects[].source).
      returned: always
      type: str
      sample: clang 19.1.7
    constants:
      description: The constants that were set.
      returned: always
      type: dict
    programs:
      description: Its programs in the kernel, copies of the same program among them.
      returned: always
      type: list
      elements: dict
      contains:
        program:
          description: Name in the source.
          returned: always
          type: str
        id:
          description: Id of the program.
          returned: always
          type: int
        tag:
          description: Hash of its instructions.
          returned: always
          type: str
        type:
          description: Type of the program.
          returned: always
          type: str
        pin:
          description: Path of its pin, null when none is to be seen.
          returned: always
          type: str
    maps:
      description: Its maps, without those of global variables.
      returned: always
      type: list
      elements: dict
      contains:
        name:
          description: Name in the source.
          returned: always
          type: str
          sample: counters
        id:
          description: Id of the map.
          returned: always
          type: int
        type:
          description: Type of the map.
          returned: always
          type: str
          sample: percpu_array
        max_entries:
          description: Its size in entries, of a ring buffer in bytes.
          returned: always
          type: int
          sample: 32
        entries:
          description: Entries in use, of an array its size. Null without O(fill), and for types that cannot tell.
          returned: always
          type: int
          sample: 32
        key:
          description: Layout of the key in words.
          returned: always
          type: str
          sample: u32
        value:
          description: Layout of the value in words.
          returned: always
          type: str
          sample: packets u64, bytes u64
        pin:
          description: Path of its pin, null when none is to be seen.
          returned: always
          type: str
    attachments:
      description: Where its programs are attached.
      returned: always
      type: list
      elements: dict
      contains:
        program:
          description: Name in the source.
          returned: always
          type: str
        netns:
          description: The network namespace, empty for the host's own.
          returned: always
          type: str
        link:
          description: Name of the device.
          returned: always
          type: str
        hook:
          description: The hook, as in RV(devices[].hooks[].hook).
          returned: always
          type: str
netkit:
  description: The netkit devices. Settings that the kernel does not report are left out.
  returned: success
  type: list
  elements: dict
  contains:
    netns:
      description: The network namespace, empty for the host's own.
      returned: always
      type: str
    link:
      description: Name of the device.
      returned: always
      type: str
    ifindex:
      description: Its index.
      returned: always
      type: int
    end:
      description: V(primary), through which programs are managed, or V(peer).
      returned: always
      type: str
    peer:
      description: Name (RV(ignore:name)) and namespace (RV(ignore:netns)) of the other end, null when that has no name.
      returned: always
      type: dict
    mode:
      description: V(l2) or V(l3).
      returned: when the kernel tells
      type: str
    policy:
      description: What happens to packets of the primary while no program is attached, V(forward) or V(blackhole).
      returned: when the kernel tells
      type: str
    peer_policy:
      description: The same for packets of the peer.
      returned: when the kernel tells
      type: str
    scrub:
      description: Whether marks and priorities of packets are zeroed, V(default) or V(none).
      returned: when the kernel tells
      type: str
    peer_scrub:
      description: The same for the peer.
      returned: when the kernel tells
      type: str
    headroom:
      description: Room in front of packets in bytes.
      returned: when the kernel tells
      type: int
    tailroom:
      description: Room behind packets in bytes.
      returned: when the kernel tells
      type: int
notes:
  description:
    - What else deserves attention, in one line each. They are warnings as well.
    - That a second BPF file system hides pins, links on devices in namespaces without a name, and links whose device is gone.
  returned: success
  type: list
  elements: str
text:
  description: The answer for reading.
  returned: success
  type: str
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_bpf


def main() -> None:
    _inspect.run(
        lambda module: _inspect_bpf.read(module.params),
        argument_spec=_inspect_bpf.ARGUMENT_SPEC,
    )


if __name__ == "__main__":
    main()
