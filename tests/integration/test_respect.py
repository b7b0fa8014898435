# SPDX-License-Identifier: GPL-3.0-or-later
"""What others put on, into or beside our objects, and what two topologies share."""

from __future__ import annotations

import typing as t

import pytest
from sandbox import Sandbox
from steps import assert_same, converged

PAIR = {"name": "d0", "kind": "veth", "addresses": ["10.0.0.1/24", "fd00::1/64"], "peer": {"name": "pd0"}}


def test_a_name_taken_by_a_stranger_is_refused_and_the_stranger_keeps_it(box: Sandbox) -> None:
    converged(box, {"link": [PAIR]})
    box.sh("ip link set d0 down; ip link set d0 name moved; ip link add d0 type veth peer name f9")
    before = box.state()
    for check in (True, False):
        answer = box.topology({"link": [PAIR]}, check=check)
        assert answer["type"] == "PlanError" and "taken by a link that is not ours (d0" in answer["error"]
        assert_same(box.state(), before)


@pytest.mark.parametrize("change", ["remove", "replace"])
def test_a_route_of_others_beside_ours_stays(box: Sandbox, change: str) -> None:
    route = {"destination": "10.9.0.0/16", "via": "10.0.0.2"}
    converged(box, {"link": [PAIR], "route": [route]})
    box.sh("ip route prepend 10.9.0.0/16 via 10.0.0.3 dev d0")
    if change == "remove":
        assert converged(box, {"link": [PAIR]})["changed"]
        rows = box.ip("route show 10.9.0.0/16")
        assert [row["gateway"] for row in rows] == ["10.0.0.3"]
    else:
        answer = box.topology({"link": [PAIR], "route": [{**route, "via": "10.0.0.4"}]})
        assert (
            answer["type"] == "ConvergeError" and "another route to the same destination" in answer["error"]
        )
        assert sorted(row["gateway"] for row in box.ip("route show 10.9.0.0/16")) == ["10.0.0.2", "10.0.0.3"]


def test_next_hops_that_others_added_to_our_ipv6_route_stay(box: Sandbox) -> None:
    document = {"link": [PAIR], "route": [{"destination": "fd99::/64", "via": "fd00::2"}]}
    converged(box, document)
    box.sh("ip -6 route append fd99::/64 via fd00::3 dev d0")
    before = box.state()
    answer = box.topology(document)
    assert answer["type"] == "PlanError" and "added next hops" in answer["error"]
    assert_same(box.state(), before)


def test_a_route_for_one_tos_is_no_route_for_all(box: Sandbox) -> None:
    converged(box, {"link": [PAIR]})
    box.sh("ip route add 10.9.0.0/16 tos 0x10 via 10.0.0.2")
    answer = converged(box, {"link": [PAIR], "route": [{"destination": "10.9.0.0/16", "via": "10.0.0.2"}]})
    assert answer["actions"] == ["create route 10.9.0.0/16 table main metric 0 (missing)"]
    assert len(box.ip("route show 10.9.0.0/16")) == 2


def test_a_link_of_others_on_top_of_ours_does_not_go_along_unasked(box: Sandbox) -> None:
    converged(box, {"link": [PAIR]})
    box.sh("ip link add link d0 name fv10 type macvlan")
    before = box.state()
    answer = box.topology({}, state="absent")
    assert answer["type"] == "PlanError" and "fv10" in answer["error"]
    assert_same(box.state(), before)
    assert box.topology({}, state="absent", adopt=True)["changed"]


def test_a_port_of_others_is_back_in_our_bridge_when_its_removal_fails(box: Sandbox) -> None:
    document = {"link": [{"name": "br0", "kind": "bridge"}]}
    converged(box, document)
    box.sh("ip link add f0 type veth peer name f1; ip link set f0 master br0")
    before = box.state()
    answer = box.topology({}, state="absent", fail_after=1)
    assert answer["type"] == "ConvergeError" and answer["left"] == []
    assert_same(box.state(), before)
    assert box.topology({}, state="absent")["changed"]
    assert "master" not in box.ip("link show f0")[0]


@pytest.mark.parametrize("redirects", ["0", "1"])
def test_forwarding_gives_back_the_redirects_that_the_kernel_switched(box: Sandbox, redirects: str) -> None:
    key = "net.ipv4.conf.all.accept_redirects"
    box.sh(f"sysctl -qw net.ipv4.ip_forward=0 {key}={redirects}")
    converged(box, {"sysctl_forwarding": [{"ipv4": True}]})
    assert box.topology({}, state="absent")["changed"]
    assert box.sh(f"sysctl -n {key} net.ipv4.ip_forward").split() == [redirects, "0"]


def test_what_two_topologies_share_stays_until_both_are_gone(box: Sandbox) -> None:
    document = {
        "route": [{"destination": "10.9.0.0/16", "type": "blackhole"}],
        "sysctl_forwarding": [{"ipv4": True}],
    }
    empty = box.state()
    for name in ("a", "b"):
        converged(box, {**document, "name": name})
    shared = box.state()
    assert "error" not in box.topology({"name": "a"}, state="absent")
    assert_same(box.state(), shared)
    assert "error" not in box.topology({"name": "b"}, state="absent")
    assert_same(box.state(), empty)


def test_two_topologies_that_want_different_values_are_told(box: Sandbox) -> None:
    converged(box, {"name": "a", "sysctl_forwarding": [{"rp_filter": "strict"}]})
    answer = box.topology({"name": "b", "sysctl_forwarding": [{"rp_filter": "loose"}]})
    assert answer["type"] == "PlanError" and "belongs to topology 'a'" in answer["error"]


def test_only_declared_fields_of_a_device_are_given_back(box: Sandbox) -> None:
    box.sh("ip link add nic0 type veth peer name far0")
    converged(box, {"link": [{"name": "nic0", "kind": "existing", "up": True}]})
    box.sh("ip link set nic0 mtu 9000")
    assert box.topology({}, state="absent")["changed"]
    link = box.ip("link show nic0")[0]
    assert (link["mtu"], "UP" in link["flags"]) == (9000, False)


@pytest.mark.parametrize(
    ("second", "needs"),
    [
        ({"link": [{**PAIR, "name": "d1", "netns": "red", "peer": {"name": "pd1"}}]}, "netns red"),
        ({"netns": [{"name": "red"}], "address": [{"dev": "d0", "address": "10.0.0.9/24"}]}, "link d0"),
    ],
)
def test_a_plan_that_removes_what_it_needs_is_refused(box: Sandbox, second: t.Any, needs: str) -> None:
    converged(box, {"netns": [{"name": "red"}], "link": [PAIR]})
    before = box.state()
    answer = box.topology(second, check=True)
    assert answer["type"] == "PlanError" and f"needs {needs}, which this run removes" in answer["error"]
    assert_same(box.state(), before)


def test_a_removed_namespace_comes_back_with_what_others_had_in_it(box: Sandbox) -> None:
    converged(box, {"netns": [{"name": "n1"}, {"name": "n2"}]})
    box.sh(
        "ip netns exec n1 sysctl -qw net.ipv4.ip_forward=1; ip -n n1 rule add priority 9 from 10.9.9.9 lookup 9"
    )
    before = box.state()
    answer = box.topology({}, state="absent", fail_at=1)
    assert answer["type"] == "ConvergeError" and answer["left"] == []
    assert_same(box.state(), before)


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        ("chmod 0777 /var/lib/cnf-ebpf/x", "others could write here"),
        ("rmdir /var/lib/cnf-ebpf/x; ln -s /etc /var/lib/cnf-ebpf/x", "not a file or a link"),
        ("chown 65534 /var/lib/cnf-ebpf/x", "others could write here"),
    ],
)
def test_a_state_directory_that_others_control_is_refused(box: Sandbox, prepare: str, problem: str) -> None:
    box.sh(f"mkdir -m 0700 /var/lib/cnf-ebpf/x; {prepare}")
    before = box.state()
    for check in (True, False):
        answer = box.topology({"netns": [{"name": "red"}]}, state_dir="/var/lib/cnf-ebpf/x", check=check)
        assert answer["type"] == "StoreError" and problem in answer["error"]
    assert_same(box.state(), before)


def test_a_generation_that_cannot_be_written_undoes_the_run(box: Sandbox) -> None:
    box.sh("mkdir -m 0700 /var/lib/cnf-ebpf/edge; touch /var/lib/cnf-ebpf/edge/generations")
    before = box.state()
    answer = box.topology({"link": [PAIR]})
    assert answer["type"] == "ConvergeError" and len(answer["undone"]) == len(answer["applied"]) == 3
    assert_same(box.state(), before)


def test_moving_a_device_tells_which_leased_addresses_end(box: Sandbox) -> None:
    box.sh(
        "ip link add nic0 type veth peer name far0; ip address add 192.0.2.7/24 dev nic0 valid_lft 600 preferred_lft 600"
    )
    document = {"netns": [{"name": "red"}], "link": [{"name": "nic0", "kind": "existing", "netns": "red"}]}
    notes = box.topology(document, check=True)["notes"]
    assert len(notes) == 1 and "the move ends 192.0.2.7/24" in notes[0]


def test_a_networkd_that_removes_routes_of_others_is_told_of(box: Sandbox) -> None:
    """By the files that it leaves and reads, for none runs here."""
    document = {"link": [PAIR], "route": [{"destination": "10.9.0.0/16", "via": "10.0.0.2"}]}
    about = "route: systemd-networkd removes routes of others on this host; set ManageForeignRoutes=no in networkd.conf"
    assert about not in box.topology(document, check=True)["notes"]
    box.sh("mkdir -p /run/systemd; mount -t tmpfs sandbox /run/systemd")
    box.sh("cd /run/systemd; mkdir netif networkd.conf.d; : >netif/state")
    assert about in box.topology(document, check=True)["notes"]
    box.sh("printf '[Network]\\nManageForeignRoutes=no\\n' >/run/systemd/networkd.conf.d/cnf.conf")
    assert about not in converged(box, document)["notes"]
