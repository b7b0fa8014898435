# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed, failed or raced at any point: the host is as before, or the next run converges."""

from __future__ import annotations

import json
import typing as t

from sandbox import Sandbox

PAIRS = {
    "netns": [{"name": "ns1"}, {"name": "ns2", "lo_up": False}],
    "netkit_link": [
        {
            "name": f"nk{n}",
            "fallback": "veth",
            "addresses": [f"10.0.{n}.1/24", f"fd00:{n}::1/64"],
            "peer": {"name": "eth0", "netns": f"ns{n}", "addresses": [f"10.0.{n}.2/24", f"fd00:{n}::2/64"]},
        }
        for n in (1, 2)
    ],
    "link": [
        {"name": "br0", "kind": "bridge", "ports": ["v0"], "stp": True},
        {"name": "v0", "kind": "veth", "peer": {"name": "v1", "mtu": 1400}},
        {"name": "tap0", "kind": "tap", "netns": "ns2", "mtu": 1300},
        {"name": "nic0", "kind": "existing", "netns": "ns1", "mtu": 1450, "up": True},
    ],
    "address": [{"dev": "br0", "address": "192.0.2.1/24"}],
    "route": [
        {"netns": "ns1", "destination": "default", "via": "10.0.1.1"},
        {"netns": "ns2", "destination": "::/0", "via": "fd00:2::1"},
        {"destination": "203.0.113.0/24", "type": "blackhole", "table": "777"},
    ],
    "rule": [{"priority": 777, "source": "203.0.113.0/24", "table": "777"}],
    "neighbor": [{"dev": "eth0", "netns": "ns1", "address": "10.0.1.9", "mac": "02:00:00:00:00:09"}],
    "sysctl_forwarding": [
        {"ipv4": True, "ipv6": True, "persist": True},
        {"ipv4": True, "netns": "ns1", "interface": "eth0", "rp_filter": "loose"},
    ],
}

# What another administrator has on the host, in everything's way but not in its names.
FOREIGN = """
ip link add nic0 type veth peer name far0
ip link set nic0 address 02:00:00:00:00:aa mtu 1200
ip address add 198.51.100.1/24 dev nic0
ip link set nic0 up; ip link set far0 up
ip route add 198.51.101.0/24 via 198.51.100.2
ip netns add other
ip netns exec other sysctl -qw net.ipv4.conf.all.forwarding=1
sysctl -qw net.ipv4.conf.far0.forwarding=1
"""

CHANGED = {
    "netns": [{"name": "ns1", "lo_up": False}],
    "netkit_link": [
        {
            "name": "nk1",
            "fallback": "veth",
            "mtu": 1400,
            "addresses": ["10.0.9.1/24", "fd00:1::1/64"],
            "peer": {"name": "uplink", "netns": "ns1", "addresses": ["10.0.1.2/24"]},
        }
    ],
    "link": [
        {"name": "br0", "kind": "bridge", "stp": False},
        {"name": "v0", "kind": "veth", "peer": {"name": "v1", "mtu": 1300}},
    ],
    "route": [{"netns": "ns1", "destination": "default", "via": "10.0.1.7", "onlink": True, "dev": "uplink"}],
    "sysctl_forwarding": [{"ipv6": True}],
}


def operations(box: Sandbox, document: t.Mapping[str, t.Any], **options: t.Any) -> int:
    """How many operations the document needs now, implied ones included."""
    answer = box.topology(document, check=True, **options)
    assert "error" not in answer, answer
    return len(answer["actions"])


def assert_same(found: t.Dict[str, t.Any], expected: t.Dict[str, t.Any]) -> None:
    different = {
        name: (found.get(name), expected.get(name))
        for name in {*found, *expected}
        if found.get(name) != expected.get(name)
    }
    assert not different, json.dumps(different, indent=1)


def test_a_fault_at_each_operation_of_a_creation_leaves_the_host_as_it_was(box: Sandbox) -> None:
    box.sh(FOREIGN)
    before = box.state()
    count = operations(box, PAIRS)
    assert count == 29
    for number in range(count):
        for where in ("fail_at", "fail_after"):
            answer = box.topology(PAIRS, **{where: number})
            assert answer["type"] == "ConvergeError" and not answer["left"], answer
            assert len(answer["applied"]) == number + (where == "fail_after")
            assert_same(box.state(), before)
    assert box.sh("ls -A /var/lib/cnf-ebpf").split() == ["lock"]


def test_a_fault_at_each_operation_of_a_change_leaves_the_host_as_it_was(box: Sandbox) -> None:
    box.sh(FOREIGN)
    assert box.topology(PAIRS)["changed"]
    before = box.state()
    count = operations(box, CHANGED)
    assert count > 15
    for number in range(count + 40):  # implied deletions count as operations too
        answer = box.topology(CHANGED, fail_at=number)
        if "error" not in answer:
            assert number >= count
            break
        assert not answer["left"], answer
        assert_same(box.state(), before)
    else:
        raise AssertionError("the change never ran to its end")
    assert not box.topology(CHANGED)["changed"]


def test_a_fault_at_each_operation_of_a_removal_leaves_the_host_as_it_was(box: Sandbox) -> None:
    box.sh(FOREIGN)
    empty = box.state()
    assert box.topology(PAIRS)["changed"]
    before = box.state()
    for number in range(200):
        answer = box.topology({}, state="absent", fail_at=number)
        if "error" not in answer:
            assert number > 10
            break
        assert not answer["left"], answer
        assert_same(box.state(), before)
    after = box.state()
    # A NIC that was away comes back with what was seen when it left.
    assert_same(after, empty)
    assert box.sh("ls -A /var/lib/cnf-ebpf").split() == ["lock"]


def test_killed_after_each_operation_the_next_run_converges(box: Sandbox) -> None:
    box.sh(FOREIGN)
    before = box.state()
    count = operations(box, PAIRS)
    done = box.topology(PAIRS)
    whole = box.state()
    assert done["changed"]
    box.topology({}, state="absent")
    for number in range(count):
        where = "kill_after" if number % 2 else "kill_before"
        assert box.topology(PAIRS, **{where: number}) == {"killed": True}
        answer = box.topology(PAIRS)
        assert "error" not in answer, (number, answer)
        assert_same(box.state(), whole)
        assert not box.topology(PAIRS)["changed"]
        assert "error" not in box.topology({}, state="absent")
        assert_same(box.state(), before)


def test_killed_then_told_to_go_leaves_nothing(box: Sandbox) -> None:
    box.sh(FOREIGN)
    before = box.state()
    for number in range(operations(box, PAIRS)):
        assert box.topology(PAIRS, kill_after=number) == {"killed": True}
        answer = box.topology({}, state="absent")
        assert "error" not in answer, (number, answer)
        assert_same(box.state(), before)


def test_killed_during_a_removal_the_next_removal_finishes_it(box: Sandbox) -> None:
    box.sh(FOREIGN)
    before = box.state()
    for number in range(200):
        assert "error" not in box.topology(PAIRS)
        answer = box.topology({}, state="absent", kill_after=number)
        assert "error" not in box.topology({}, state="absent")
        assert_same(box.state(), before)
        if "killed" not in answer:
            assert number > 10
            break
