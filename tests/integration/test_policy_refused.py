# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies that are refused, each in one line and with nothing changed; what validation finds, and who owns a policy."""

from __future__ import annotations

import typing as t

import policy_world as w
import pytest
from policy_cases import info, ways
from sandbox import Sandbox
from steps import converged, refused, settled


def with_entry(**fields: t.Any) -> t.Dict[str, t.Any]:
    return w.with_router(entries=[fields])


GOOD = {"source": w.VIP, "interface": "good", "next_hop": "10.0.1.1"}


@pytest.fixture(scope="module")
def prepared() -> t.Iterator[Sandbox]:
    """A host with the topology and a router without entries; the tests of this module leave it as it is."""
    with Sandbox() as box:
        converged(box, w.with_router(entries=[]))
        w.addressed(box)
        yield box


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {**GOOD, "source": "192.168.100.5/24"},
            "bpf_policy_entry[0].source: 192.168.100.5/24 has host bits",
        ),
        (
            {**GOOD, "interface": "godo"},
            "bpf_policy_entry[0]: link godo in netns server is neither declared nor present",
        ),
        ({"source": w.VIP}, "bpf_policy_entry[0]: says not what to do"),
        ({"source": w.VIP, "pool": "web"}, "bpf_pool edge/router:web is neither declared nor present"),
        ({**GOOD, "object": "rooter"}, "bpf_object edge/rooter is neither declared nor present"),
        ({**GOOD, "topology": "other"}, "bpf_policy_entry[0].topology: is for single tasks; here it is edge"),
        ({**GOOD, "next_hop": "10.7.7.7"}, "next hop 10.7.7.7 is not on the link of good in netns server"),
        ({**GOOD, "validate": "lax"}, "value of validate must be one of: strict, warn, off, got: lax"),
        ({**GOOD, "colour": "red"}, "bpf_policy_entry[0]: unsupported option colour"),
        ({**GOOD, "file": "x.csv"}, "bpf_policy_entry[0].source: cannot stand beside file"),
        ({"content": "AAAA"}, "bpf_policy_entry[0].file: its content is damaged"),
    ],
)
def test_one_line_and_nothing_changed(prepared: Sandbox, fields: t.Dict[str, t.Any], message: str) -> None:
    assert message in refused(prepared, with_entry(**fields))
    assert message in refused(prepared, with_entry(**fields), check=True)
    assert info(prepared)["count"] == 0


@pytest.mark.parametrize(
    ("spoil", "mend", "message"),
    [
        ("ip -n server link set good down", "", "interface good in netns server is down; set it up"),
        (
            "ip -n router link set s0 down",
            "ip -n router link set s0 up",
            "interface good in netns server has no carrier",
        ),
        (
            "ip netns exec server sysctl -qw net.ipv4.conf.good.forwarding=0",
            "",
            "ipv4 forwarding is off on good in netns server, so the kernel does not tell whether 10.0.1.1 is alive",
        ),
        (
            "ip netns exec server sysctl -qw net.ipv4.conf.good.rp_filter=1",
            "",
            "rp_filter is strict on good in netns server",
        ),
    ],
)
def test_a_next_hop_that_is_no_good_is_found_before_anything_is_written(
    box: Sandbox, spoil: str, mend: str, message: str
) -> None:
    """By a single task, for a topology would mend the device and the switches first."""
    base = w.with_router()
    base.pop("bpf_policy_entry")
    converged(box, base)
    w.addressed(box)
    box.sh(spoil)
    task = {"section": "bpf_policy_entry", "params": w.entry(**GOOD, topology="edge")}
    for check in (True, False):
        answer = box.task(task, check=check)
        assert message in answer["error"], answer
        assert "\n" not in answer["error"]
    assert info(box)["count"] == 0
    warned = box.task({**task, "params": {**task["params"], "validate": "warn"}})
    assert any(message in note for note in warned["notes"])
    assert info(box)["count"] == 1
    if mend:
        box.sh(mend)


def test_what_was_not_asked_about_before_is_asked_about_when_it_comes_to_count(box: Sandbox) -> None:
    """A next hop that is there already is new when its liveness is asked for, and a member when it is no longer drained."""
    base = w.with_router()
    base.pop("bpf_policy_entry")
    converged(box, base)
    w.addressed(box)
    box.sh("ip netns exec server sysctl -qw net.ipv4.conf.good.forwarding=0")
    blind = {"section": "bpf_policy_entry", "params": w.entry(**GOOD, topology="edge", liveness=False)}
    assert "error" not in box.task(blind)
    said = "ipv4 forwarding is off on good in netns server, so the kernel does not tell whether 10.0.1.1 is alive"
    seeing = {**blind, "params": {**blind["params"], "liveness": True}}
    assert said in box.task(seeing)["error"]
    assert box.task({**blind, "state": "absent"})["changed"]

    def pool(weight: int) -> t.Dict[str, t.Any]:
        member = {"interface": "good", "address": "10.0.1.1", "weight": weight}
        params = {"object": "router", "topology": "edge", "netns": "server", "name": "p", "members": [member]}
        return {"section": "bpf_pool", "params": params}

    assert "error" not in box.task(pool(0))
    assert said in box.task(pool(1))["error"]


def test_a_next_hop_that_does_not_answer(box: Sandbox) -> None:
    document = w.with_router(entries=[{**GOOD, "next_hop": "10.0.1.77"}])
    error = box.topology(document)["error"]
    assert "next hop 10.0.1.77 does not answer ARP on good in netns server" in error
    assert error.endswith("everything was put back as before")
    assert box.namespaces() == []
    document["bpf_policy_entry"][0]["validate"] = "off"
    converged(box, document)
    settled(box, document)


def test_a_way_that_is_narrower_is_told_and_not_refused(box: Sandbox) -> None:
    """Longer packets are lost there in silence; of what stays as it is nothing is said."""
    converged(box, w.with_router(entries=[]))
    w.addressed(box)
    box.sh("ip -n server link set good mtu 1400; ip -n router link set s0 mtu 1400")
    document = w.with_router(entries=[GOOD])
    for row in document["link"]:  # as it is by now
        if row["name"] == "good":
            row["mtu"] = row["peer"]["mtu"] = 1400
    said = (
        "bpf_policy_entry edge/router: the MTU of good is 1400, that of bad is 1500: longer packets are lost there and their sender is "
        "not told; give both the same MTU, or clamp the MSS"
    )

    def told(check: bool) -> t.List[str]:
        return [note for note in converged(box, document, check=check)["notes"] if "MTU" in note]

    assert told(check=True) == told(check=False) == [said]
    assert told(check=True) == []
    for size, received in ((1300, 1), (1420, 0)):
        ping = f"ip netns exec client ping -q -c 1 -W 1 -s {size} {w.VIP} || true"
        assert f" {received} received" in box.sh(ping)


def test_devices_of_another_namespace_than_the_attachments(box: Sandbox) -> None:
    """Both have a device of that name; its index in one means nothing, or another, in the other."""
    box.sh("ip link add good type veth peer name far; ip link set good up; ip link set far up")
    box.sh("ip address add 10.0.1.2/24 dev good; sysctl -qw net.ipv4.conf.good.forwarding=1")
    document = w.with_router(entries=[])
    wrong = {
        "object": "router",
        "source": w.VIP,
        "interface": "good",
        "next_hop": "10.0.1.1",
        "liveness": False,
    }
    document["bpf_policy_entry"] = [wrong]
    said = (
        "bpf_policy_entry edge/router: the router is attached to bad egress in netns server, but its devices are looked up in "
        "the host namespace; set netns to where it is attached"
    )
    for check in (True, False):
        assert said in box.topology(document, check=check)["error"]
    assert box.namespaces() == []
    wrong["validate"] = "warn"
    assert said in box.topology(document, check=True)["notes"]


def test_a_policy_that_does_not_fit_is_refused_with_the_size_that_it_needs(box: Sandbox) -> None:
    document = w.with_router(entries=[{"source": f"10.9.0.{n}", "action": "drop"} for n in range(1, 12)])
    document["bpf_object"] = [{**w.ROUTER, "maps": {"sources4_exact": 10}}]
    error = box.topology(document)["error"]
    assert (
        "11 entries do not fit into map sources4_exact, which has room for 10; load the object with maps"
        in error
    )
    assert box.namespaces() == []
    document["bpf_policy_entry"].pop()
    converged(box, document)


def test_what_a_topology_declares_a_task_does_not_change(box: Sandbox) -> None:
    converged(box, w.with_router())
    task = {
        "section": "bpf_policy_entry",
        "params": w.entry(source="10.9.0.0/16", action="drop", topology="edge"),
    }
    error = box.task(task)["error"]
    assert "bpf_policy_entry edge/router: belongs to topology 'edge', which declares it otherwise" in error
    assert info(box)["count"] == 2


def test_tasks_may_fill_the_router_of_a_topology_that_declares_no_policy(box: Sandbox) -> None:
    base = w.with_router()
    base.pop("bpf_policy_entry")
    converged(box, base)
    w.addressed(box)

    def entry(state: str = "present", **fields: t.Any) -> t.Dict[str, t.Any]:
        return {"section": "bpf_policy_entry", "state": state, "params": w.entry(topology="edge", **fields)}

    assert box.task(entry(**GOOD))["actions"] == [
        "change bpf_policy_entry edge/router (added source 192.168.100.5/32)"
    ]
    assert box.task(entry(**GOOD))["actions"] == []
    box.task(entry(source="10.9.0.0/16", action="drop"))
    assert w.answers(box, w.VIP) == 3
    settled(box, base)
    assert info(box)["count"] == 2
    gone = box.task(entry("absent", source=w.VIP))
    assert gone["actions"] == ["change bpf_policy_entry edge/router (removed source 192.168.100.5/32)"]
    assert box.task(entry("absent", source=w.VIP))["actions"] == []
    assert w.managed(box) == []
    assert [row["source"] for row in info(box)["entries"]] == ["10.9.0.0/16"]
    converged(box, {"name": "edge"}, state="absent")
    assert box.task(entry("absent", source="10.9.0.0/16"))["actions"] == []


def test_a_pool_that_entries_name_is_not_removed(box: Sandbox) -> None:
    pool = {
        "object": "router",
        "netns": "router",
        "name": "p",
        "members": [{"interface": "a", "address": "10.0.11.2"}],
    }
    entry = {"object": "router", "netns": "router", "source": "10.0.0.0/8", "pool": "p"}
    document = ways("veth", ("a", "b"), (), bpf_pool=[pool], bpf_policy_entry=[entry])
    converged(box, document)
    error = box.topology({**document, "bpf_pool": []})["error"]
    assert "needs bpf_pool edge/router:p, which this run removes because it is no longer declared" in error
    for name, value in (("members", None), ("symmetric", True), ("name", "a/b")):
        wrong = {**pool, name: value, **({"mode": "source"} if name == "symmetric" else {})}
        assert f"bpf_pool[0].{name}" in box.topology({**document, "bpf_pool": [wrong]})["error"]
    converged(box, {**document, "bpf_pool": [], "bpf_policy_entry": []})


def test_what_else_is_in_the_tables_is_mended(box: Sandbox) -> None:
    """Somebody deletes an entry with bpftool, and writes one of their own."""
    document = w.with_router(
        entries=[*w.ENTRIES, {"protocol": "tcp", "destination_port": 80, "action": "drop"}]
    )
    converged(box, document)
    maps = "/sys/fs/bpf/cnf/edge/router/maps"
    box.sh(f"bpftool map delete pinned {maps}/sources4_exact key 192 168 100 5")
    done = converged(box, document)
    assert done["actions"] == ["change bpf_policy_entry edge/router (added source 192.168.100.5/32)"]
    box.sh(f"bpftool map update pinned {maps}/sources4_exact key 10 0 0 1 value 1 0 0 0 0 0 0 0")
    done = converged(box, document)
    assert done["actions"] == ["change bpf_policy_entry edge/router (removed source 10.0.0.1/32)"]
    box.sh(f"bpftool map delete pinned {maps}/ports key 6 0 0 80")
    done = converged(box, document)
    # No class of ports is the declared one any more, so it is made anew, with its rows.
    assert done["actions"] == [
        "change bpf_policy_entry edge/router (health differs in conditions4, conditions6, ports -> ok)"
    ]
    settled(box, document)
