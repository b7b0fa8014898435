# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run tells: states, lines of the diff, actions and commands."""

from __future__ import annotations

import pytest
from fakes import FakeKernel, MemoryStore, request, run

from ansible_collections.cnf.ebpf.plugins.module_utils import _report
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.converge import Outcome
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import Key, Operation, Plan
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import (
    _ends,
    address,
    link,
    netns,
    port,
    sysctl,
)

FIRST = {
    "netns": [{"name": "red"}],
    "link": [
        {"name": "v0", "kind": "veth", "addresses": ["10.0.0.1/24"], "peer": {"name": "v1", "netns": "red"}}
    ],
}
SECOND = {
    "netns": [{"name": "red"}],
    "link": [{"name": "v0", "kind": "veth", "mtu": 9000, "peer": {"name": "v1", "netns": "red"}}],
}


def results(*documents):
    kernel, store = FakeKernel(), MemoryStore()
    return [_report.result(run(kernel, store, request(document)), "topology t") for document in documents]


def test_result_on_an_empty_host():
    (found,) = results(FIRST)
    assert found["changed"] is True
    assert found["before"] == {}
    assert list(found["after"]) == ["netns", "link", "address"]
    assert found["after"]["link"] == [
        {"name": "v0", "kind": "veth", "up": True, "peer": {"name": "v1", "netns": "red", "up": True}}
    ]
    assert found["actions"] == [
        "create netns red (missing)",
        "create link v0 (missing)",
        "create address v0 10.0.0.1/24 (missing)",
    ]
    assert found["commands"][0] == "ip netns add red"
    assert found["diff"] == {
        "before_header": "topology t",
        "after_header": "topology t",
        "before": "",
        "after": "netns red: lo_up=true\n"
        "link v0: kind=veth up=true peer.name=v1 peer.netns=red peer.up=true\n"
        "address v0 10.0.0.1/24: prefixlen=24\n",
    }
    assert found["notes"] == []


def test_result_when_nothing_changes():
    _first, again = results(FIRST, FIRST)
    assert again["changed"] is False
    assert (again["actions"], again["commands"], again["diff"]["before"], again["diff"]["after"]) == (
        [],
        [],
        "",
        "",
    )
    assert again["before"] == again["after"]
    assert list(again["before"]) == ["netns", "link", "address"]


def test_diff_of_a_change_shows_what_is_declared_and_what_goes():
    _first, second = results(FIRST, SECOND)
    assert second["actions"] == [
        "delete address v0 10.0.0.1/24 (no longer declared)",
        "change link v0 (mtu 1500 -> 9000)",
    ]
    assert second["commands"] == ["ip address del 10.0.0.1/24 dev v0", "ip link set v0 mtu 9000"]
    before = second["diff"]["before"].splitlines()
    assert before[0].startswith("address v0 10.0.0.1/24: prefixlen=24")
    assert before[1].startswith(
        "link v0: kind=veth up=true mtu=1500 peer.name=v1 peer.netns=red peer.up=true"
    )


def test_diff_leaves_out_what_is_not_declared_of_the_far_end():
    _first, second = results(FIRST, SECOND)
    before, after = second["diff"]["before"].splitlines(), second["diff"]["after"].splitlines()
    assert after == ["link v0: kind=veth up=true mtu=9000 peer.name=v1 peer.netns=red peer.up=true"]
    assert before[1] == "link v0: kind=veth up=true mtu=1500 peer.name=v1 peer.netns=red peer.up=true"


def test_implied_operations_are_in_the_diff_and_not_among_the_actions():
    pair = link.Value("v0", "", "dummy", owner="t")
    on_it = address.Value("v0", "", "10.0.0.1", 24, owner="*")
    plan = Plan(
        (
            Operation("delete", on_it.key(), on_it, None, "goes with link v0", within=pair.key()),
            Operation("delete", pair.key(), pair, None, "no longer declared"),
        )
    )
    found = _report.result(Outcome(plan, {on_it.key(): on_it, pair.key(): pair}, {}), "t")
    assert found["actions"] == ["delete link v0 (no longer declared)"]
    assert found["commands"] == ["ip link del v0"]
    assert found["diff"]["before"] == "address v0 10.0.0.1/24: prefixlen=24\nlink v0: kind=dummy\n"


def test_a_rebuilt_resource_has_one_line_on_each_side():
    had, has = (
        link.Value("x0", "", "vxlan", options={"vni": 1}),
        link.Value("x0", "", "vxlan", options={"vni": 2}),
    )
    plan = Plan(
        (
            Operation("delete", had.key(), had, None, "rebuilt"),
            Operation("create", has.key(), None, has, "missing"),
        )
    )
    diff = _report.diff_of(Outcome(plan, {had.key(): had}, {has.key(): has}), "t")
    assert (diff["before"], diff["after"]) == ("link x0: kind=vxlan vni=1\n", "link x0: kind=vxlan vni=2\n")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (netns.Value("red", False, "t", ("eth0",)), "netns red: lo_up=false"),
        (
            link.Value(
                "v0", "red", "netkit", True, options={"mode": "l3"}, peer=_ends.End("v1", ""), id=("", "v0")
            ),
            "link v0: kind=netkit up=true mode=l3 peer.name=v1",
        ),
        (port.Value("v0", "red", "br0"), "port v0 in netns red: master=br0"),
        (sysctl.Value("a/b", "", "1", {"eth0": "0"}), "sysctl a/b: value=1"),
    ],
)
def test_line_of_a_value_has_no_bookkeeping(value, line):
    assert _report.line_of(value) == line


def test_states_are_grouped_in_the_order_of_creation():
    values = {
        Key("port", "", "v0"): port.Value("v0", "", "br0"),
        Key("netns", "", "red"): netns.Value("red", True, "t", ()),
    }
    assert _report.states(values) == {
        "netns": [{"name": "red", "lo_up": True}],
        "port": [{"link": "v0", "master": "br0"}],
    }
