#!/usr/bin/python
# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: reachability
short_description: Probe addresses by ICMP, TCP or UDP from network namespaces
version_added: "0.1.0"
description:
  - Sends ICMP echo requests, opens TCP connections or sends UDP datagrams from a network namespace of the host, and compares what
    came back with what is expected, be it that the address answers or that it does not.
  - Measures loss and round trip, and tells why a probe was lost when the network or the kernel says so.
  - Runs many probes at the same time in one call. Neither C(ping) nor any other program or library is needed.
  - Fails when a probe is not as expected, naming each such probe.
extends_documentation_fragment:
  - cnf.ebpf.attributes
attributes:
  check_mode:
    support: full
    details:
      - The module changes nothing, so it sends its probes in check mode too.
  diff_mode:
    support: none
    details:
      - There is nothing that could differ.
  idempotent:
    support: full
    details:
      - A run changes nothing. What it measures may differ from run to run.
  platform:
    support: full
    platforms: linux
options:
  destination:
    description:
      - IPv4 or IPv6 address to probe. Names are not resolved.
      - A link-local IPv6 address needs its device, as V(fe80::1%eth0) or by O(dev).
      - Required unless O(probes) is given.
    type: str
  netns:
    description:
      - Named network namespace to probe from. Left out or empty, it is that of the host.
    type: str
  protocol:
    description:
      - V(icmp) sends echo requests (ping).
      - V(tcp) opens a connection and closes it; a complete handshake is an answer.
      - V(udp) sends a datagram; any datagram back from the address and port is an answer.
    type: str
    choices: [icmp, tcp, udp]
    default: icmp
  port:
    description:
      - Port to probe. Required when O(protocol=tcp) or O(protocol=udp), and not allowed when O(protocol=icmp).
    type: int
  source:
    description:
      - Address of the namespace to send from. Left out, the kernel chooses.
    type: str
  dev:
    description:
      - Device that the packets must leave and enter by, which may be a VRF.
    type: str
  count:
    description:
      - Packets or connections, V(1) to V(1000).
    type: int
    default: 3
  interval:
    description:
      - Seconds from one packet or connection to the next, whether or not the first was answered.
    type: float
    default: 0.1
  timeout:
    description:
      - Seconds to wait for the answer to each packet or connection.
    type: float
    default: 1.0
  size:
    description:
      - Bytes of payload of an ICMP or UDP probe, V(0) to V(65507).
      - UDP payloads shorter than 10 bytes have no room for a sequence number; their answers are counted in the order sent.
    type: int
    default: 56
  ttl:
    description:
      - Hops that a packet may make, V(1) to V(255), IPv6's hop limit. Left out, what the kernel sets.
      - The n-th router of the way reports that a packet with V(n) has expired, which shows that it is the n-th.
    type: int
  expect:
    description:
      - V(reachable) is met by an answer, and no more loss than O(max_loss).
      - V(unreachable) is met when nothing answers at all, whatever O(max_loss) is. A refused TCP connection is no answer.
      - V(expired) is met when nothing answers and a router reports of each packet, but for O(max_loss), that its O(ttl) was used up.
        Routers limit how many such reports they send, so a small O(count) is best.
    type: str
    choices: [reachable, unreachable, expired]
    default: reachable
  reporter:
    description:
      - Address that must report that packets have expired. Left out, any router may. Only with O(expect=expired).
    type: str
  max_loss:
    description:
      - Percentage of loss up to which the address is still reachable.
      - If nothing answers it is unreachable, even with V(100).
    type: float
    default: 0.0
  wait:
    description:
      - Seconds for which to try again while the outcome is not the expected one, for example until duplicate address detection
        is done or a service is up. Each attempt sends O(count) anew, and one that has begun is completed.
    type: float
    default: 0.0
  probes:
    description:
      - Several probes, all run at the same time.
      - What a probe leaves out is taken from the option of that name of the task.
    type: list
    elements: dict
    suboptions:
      destination:
        description: As O(destination).
        type: str
        required: true
      netns:
        description: As O(netns). The empty string stands for the host's namespace when O(netns) names another.
        type: str
      protocol:
        description: As O(protocol).
        type: str
        choices: [icmp, tcp, udp]
      port:
        description: As O(port). A port taken from the task means nothing to an ICMP probe.
        type: int
      source:
        description: As O(source).
        type: str
      dev:
        description: As O(dev).
        type: str
      count:
        description: As O(count).
        type: int
      interval:
        description: As O(interval).
        type: float
      timeout:
        description: As O(timeout).
        type: float
      size:
        description: As O(size).
        type: int
      ttl:
        description: As O(ttl).
        type: int
      expect:
        description: As O(expect).
        type: str
        choices: [reachable, unreachable, expired]
      reporter:
        description: As O(reporter).
        type: str
      max_loss:
        description: As O(max_loss).
        type: float
      wait:
        description: As O(wait).
        type: float
  counters:
    description:
      - Counters of BPF objects that the probes must move, or must leave alone. They are read before the first probe and after the last.
      - What else passes counts as well.
    type: list
    elements: dict
    default: []
    suboptions:
      object:
        description: Name of the object, as in M(cnf.ebpf.bpf_object).
        type: str
        required: true
      topology:
        description: Name of the topology to which it belongs. V(tasks) is what single tasks make.
        type: str
        default: tasks
      map:
        description: Name of its map.
        type: str
        default: counters
      key:
        description: Key of the counter, as M(cnf.ebpf.bpf_map_info) takes it.
        type: raw
        required: true
      field:
        description: Which number of a structure to read.
        type: str
        default: packets
      expect:
        description: V(grows) is met when the number is higher afterwards, V(stays) when it is the same.
        type: str
        choices: [grows, stays]
        default: grows
notes:
  - ICMP probes need C(CAP_NET_RAW) and entering a namespace needs C(CAP_SYS_ADMIN); run the task as root.
  - A namespace or device that does not exist, or a O(source) that is no address of the namespace, is an error whatever O(expect) is.
author:
  - cnf.ebpf maintainers (!UNKNOWN)
"""

EXAMPLES = r"""
- name: The server answers from the client's namespace
  cnf.ebpf.reachability:
    netns: client
    destination: 10.0.2.2

- name: The web service comes up within half a minute
  cnf.ebpf.reachability:
    netns: client
    destination: fd00:2::2
    protocol: tcp
    port: 443
    count: 1
    wait: 30

- name: The neighbour on a link answers to its link-local address
  cnf.ebpf.reachability:
    destination: fe80::1%eth1

- name: The tenants reach their gateways and not each other
  cnf.ebpf.reachability:
    wait: 5
    probes:
      - netns: red
        destination: 10.1.0.1
      - netns: blue
        destination: 10.2.0.1
      - netns: red
        destination: 10.2.0.10
        expect: unreachable
      - netns: red
        destination: 10.2.0.10
        protocol: tcp
        port: 22
        expect: unreachable

- name: The second router of the way is the firewall, and its program has seen the packet
  cnf.ebpf.reachability:
    netns: client
    destination: 10.2.0.10
    ttl: 2
    expect: expired
    reporter: 10.3.0.1
    count: 1
    counters:
      - topology: edge
        object: firewall
        key: 0

- name: The long way loses no more than one packet in a hundred
  cnf.ebpf.reachability:
    netns: client
    source: 192.168.100.5
    destination: 198.51.100.7
    count: 200
    interval: 0.02
    max_loss: 1
  register: long_way

- name: It takes less than 50 milliseconds
  ansible.builtin.assert:
    that: long_way.rtt_avg < 50
"""

RETURN = r"""
results:
  description:
    - One element for each probe, in the order given, also when the module fails because a probe was not as expected.
    - When there is one probe, its fields are returned at the top level too.
  returned: when the probes ran
  type: list
  elements: dict
  contains:
    netns:
      description: The namespace that was probed from, empty for the host's.
      returned: always
      type: str
      sample: client
    destination:
      description: The address that was probed.
      returned: always
      type: str
      sample: 10.0.2.2
    protocol:
      description: The protocol, V(icmp), V(tcp) or V(udp).
      returned: always
      type: str
      sample: tcp
    port:
      description: The port, null for ICMP.
      returned: always
      type: int
      sample: 443
    sent:
      description: Packets or connections tried in the last attempt, those that the kernel refused to send included.
      returned: always
      type: int
      sample: 3
    received:
      description: How many of them were answered in time.
      returned: always
      type: int
      sample: 3
    loss:
      description: Percentage of them that was not.
      returned: always
      type: float
      sample: 0.0
    rtt_min:
      description: Shortest round trip in milliseconds, null when nothing answered.
      returned: always
      type: float
      sample: 0.041
    rtt_avg:
      description: Mean round trip in milliseconds, null when nothing answered.
      returned: always
      type: float
      sample: 0.055
    rtt_max:
      description: Longest round trip in milliseconds, null when nothing answered.
      returned: always
      type: float
      sample: 0.072
    reachable:
      description: Whether the address answered with no more loss than allowed.
      returned: always
      type: bool
      sample: true
    expected:
      description: Whether the outcome is the expected one.
      returned: always
      type: bool
      sample: true
    reason:
      description:
        - Why probes were lost, the most frequent reason first and V(no answer) last; empty when none was lost.
        - Among others V(no answer), V(connection refused), V(port unreachable), and what routers and the kernel report, with
          the address of the reporter.
      returned: always
      type: str
      sample: "destination unreachable: no route (from 10.0.0.1)"
    attempts:
      description: How often the probe was tried, more than once only with O(wait).
      returned: always
      type: int
      sample: 1
counters:
  description: One element for each of O(counters), in the order given.
  returned: when the probes ran
  type: list
  elements: dict
  contains:
    object:
      description: Topology and name of the object.
      returned: always
      type: str
      sample: edge/firewall
    map:
      description: Name of the map.
      returned: always
      type: str
      sample: counters
    key:
      description: The key as given.
      returned: always
      type: raw
      sample: 0
    before:
      description: The number before the first probe.
      returned: always
      type: int
      sample: 17
    after:
      description: The number after the last probe.
      returned: always
      type: int
      sample: 20
    expected:
      description: Whether it has grown, or has stayed, as expected.
      returned: always
      type: bool
      sample: true
netns:
  description: The namespace that was probed from, empty for the host's.
  returned: when there is one probe
  type: str
  sample: client
destination:
  description: The address that was probed.
  returned: when there is one probe
  type: str
  sample: 10.0.2.2
protocol:
  description: The protocol, V(icmp), V(tcp) or V(udp).
  returned: when there is one probe
  type: str
  sample: tcp
port:
  description: The port, null for ICMP.
  returned: when there is one probe
  type: int
  sample: 443
sent:
  description: Packets or connections tried in the last attempt, those that the kernel refused to send included.
  returned: when there is one probe
  type: int
  sample: 3
received:
  description: How many of them were answered in time.
  returned: when there is one probe
  type: int
  sample: 3
loss:
  description: Percentage of them that was not.
  returned: when there is one probe
  type: float
  sample: 0.0
rtt_min:
  description: Shortest round trip in milliseconds, null when nothing answered.
  returned: when there is one probe
  type: float
  sample: 0.041
rtt_avg:
  description: Mean round trip in milliseconds, null when nothing answered.
  returned: when there is one probe
  type: float
  sample: 0.055
rtt_max:
  description: Longest round trip in milliseconds, null when nothing answered.
  returned: when there is one probe
  type: float
  sample: 0.072
reachable:
  description: Whether the address answered with no more loss than allowed.
  returned: when there is one probe
  type: bool
  sample: true
expected:
  description: Whether the outcome is the expected one.
  returned: when there is one probe
  type: bool
  sample: true
reason:
  description:
    - Why probes were lost, the most frequent reason first and V(no answer) last; empty when none was lost.
    - Among others V(no answer), V(connection refused), V(port unreachable), and what routers and the kernel report, with
      the address of the reporter.
  returned: when there is one probe
  type: str
  sample: "destination unreachable: no route (from 10.0.0.1)"
attempts:
  description: How often the probe was tried, more than once only with O(wait).
  returned: when there is one probe
  type: int
  sample: 1
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cnf.ebpf.plugins.module_utils import _probe, _probe_counters
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import CnfError


def main() -> None:
    module = AnsibleModule(
        argument_spec={**_probe.ARGUMENT_SPEC, "counters": _probe_counters.ARGUMENT_SPEC},
        mutually_exclusive=[("destination", "probes")],
        required_one_of=[("destination", "probes")],
        supports_check_mode=True,
    )
    try:
        probes = _probe.parse(module.params)
        watched = _probe_counters.parse(module.params["counters"])
        before = _probe_counters.read(watched)
        outcomes = _probe.run(probes)
        moves = _probe_counters.moves(watched, before, _probe_counters.read(watched))
    except CnfError as problem:
        module.fail_json(msg=str(problem))
    results = [outcome.result() for outcome in outcomes]
    single = results[0] if len(results) == 1 else {}
    result = {"results": results, "counters": [move.result() for move in moves], **single}
    failures = " | ".join(filter(None, [_probe.summary(outcomes), *(move.problem() for move in moves)]))
    if failures:
        module.fail_json(msg=failures, changed=False, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
