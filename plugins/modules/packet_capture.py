#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Capture packets of a device."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: packet_capture
short_description: Capture packets of a device in any network namespace
version_added: "0.1.0"
author:
  - cnf.ebpf maintainers (@cnf-ebpf)
description:
  - Runs C(tcpdump) on a device for some time, or until it has enough packets, tells them as text and can bring them to the controller
    as a file.
extends_documentation_fragment:
  - cnf.ebpf.attributes
  - cnf.ebpf.attributes.info_module
attributes:
  check_mode:
    details:
      - Captures in check mode as well, and writes O(dest), too. It never changes anything on the target.
  platform:
    platforms: linux
options:
  link:
    description: Name or altname of the device, V(any) for all devices. It must exist and be up.
    type: str
    required: true
  netns:
    description: Network namespace of the device. The host's own unless given.
    type: str
    default: ''
  filter:
    description:
      - Which packets to capture, an expression of C(pcap-filter(7\)) as one text or as a list of words.
      - No shell sees it. It cannot begin with a dash.
    type: raw
  count:
    description: How many packets end the capture. Without it, only O(seconds) and the size do.
    type: int
  seconds:
    description: For how long to capture at most, from when the device is listened on.
    type: float
    default: 10.0
  snaplen:
    description: How many bytes of a packet to capture at most.
    type: int
    default: 262144
  direction:
    description: Whether to capture what the device receives, what it sends, or both.
    type: str
    choices: [in, out, inout]
    default: inout
  limit:
    description: How many packets to tell as text at most. O(dest) gets them all.
    type: int
    default: 1000
  dest:
    description:
      - File on the controller that gets the capture in the format of pcap, with mode 0600. Its directory must exist, and a file
        of that name is replaced. A relative path begins at the directory of the playbook.
      - Use a name with C(inventory_hostname) in it when the task runs on several hosts.
      - Cannot be used together with C(async).
    type: str
requirements:
  - tcpdump
  - python >= 3.9
notes:
  - Needs root, that is, C(CAP_NET_ADMIN) and C(CAP_SYS_ADMIN). Use C(become=true).
  - A capture ends when it has 64 MiB, for it is part of the module's answer.
  - What records is root and looks into no packet. What makes text of packets runs as C(nobody).
  - No file is left on the target, and no process, however the module ends.
seealso:
  - module: cnf.ebpf.bpf_trace
  - module: cnf.ebpf.reachability
"""

EXAMPLES = r"""
---
- name: Capture ten pings in a namespace
  cnf.ebpf.packet_capture:
    netns: client
    link: eth0
    filter: icmp or icmp6
    count: 10
    seconds: 30
  register: pings

- name: Show them
  ansible.builtin.debug:
    msg: "{{ pings.packets | map(attribute='text') }}"

- name: Bring a capture to the controller
  cnf.ebpf.packet_capture:
    link: eth0
    filter: [host, 192.0.2.1, and, tcp, port, 443]
    seconds: 5
    snaplen: 128
    direction: in
    limit: 0
    dest: "captures/{{ inventory_hostname }}.pcap"

- name: Capture while other tasks send
  cnf.ebpf.packet_capture:
    link: eth0
    seconds: 20
  async: 60
  poll: 0
  register: running
"""

RETURN = r"""
---
packets:
  description: The packets, at most O(limit).
  returned: success
  type: list
  elements: dict
  contains:
    time:
      description: When the packet was captured, in ISO 8601 and UTC.
      returned: always
      type: str
      sample: "2026-01-31T09:30:00.123456Z"
    text:
      description: What C(tcpdump) says of it. Addresses and ports are numbers.
      returned: always
      type: str
      sample: "IP 10.0.0.2 > 10.0.0.1: ICMP echo request, id 7, seq 1, length 64"
captured:
  description: Number of packets captured.
  returned: success
  type: int
received_by_filter:
  description: Number of packets that met the filter, those among them that were not read any more.
  returned: success
  type: int
dropped:
  description: Number of packets that the kernel dropped because they were not read fast enough.
  returned: success
  type: int
ended:
  description: What ended the capture, V(count), V(seconds), or V(size).
  returned: success
  type: str
  sample: seconds
truncated:
  description: Whether RV(packets) lacks some that were captured.
  returned: success
  type: bool
bytes:
  description: Size of the capture in bytes, headers of the file included.
  returned: success
  type: int
dest:
  description: Absolute path of the file on the controller.
  returned: when O(dest) is given
  type: str
  sample: /home/me/play/captures/web1.pcap
"""

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect, _inspect_capture


def main() -> None:
    _inspect.run(
        lambda module: _inspect_capture.capture(module.params, module.tmpdir),
        argument_spec=_inspect_capture.ARGUMENT_SPEC,
    )


if __name__ == "__main__":
    main()
