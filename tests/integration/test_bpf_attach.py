# SPDX-License-Identifier: GPL-3.0-or-later
"""Attachments: their order among programs of others, devices that come, go and move, and damage that is mended."""

from __future__ import annotations

import json
import subprocess
import typing as t

import pytest
from bpf_steps import COUNT, OURS, PAIR, counters, nothing_new, with_count
from sandbox import Sandbox
from steps import converged, four_steps, removed, settled
from traffic import Stream

INGRESS = ":b0 ingress"
FIREWALL = {"name": "fw", "source": "filter.bpf.c"}


def attached(**more: t.Any) -> t.Dict[str, t.Any]:
    return {"object": "count", "link": "b0", **more}


# --- order ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({}, ["alpha", "beta", OURS]),
        ({"order": "first"}, [OURS, "alpha", "beta"]),
        ({"order": "last"}, ["alpha", "beta", OURS]),
        ({"order": "before", "relative_to": {"name": "beta"}}, ["alpha", OURS, "beta"]),
        ({"order": "after", "relative_to": {"name": "alpha"}}, ["alpha", OURS, "beta"]),
    ],
)
def test_a_place_among_programs_of_others(box: Sandbox, elsewhere, place, expected) -> None:
    converged(box, PAIR)
    elsewhere("alpha")
    elsewhere("beta", linkless=True)
    assert box.bpf()["hooks"][INGRESS] == {"programs": ["alpha", "beta"], "revision": 3}
    document = with_count(tcx_attach=[attached(**place)])
    converged(box, document)
    assert box.bpf()["hooks"][INGRESS] == {"programs": expected, "revision": 4}
    settled(box, document)
    assert box.bpf()["hooks"][INGRESS]["revision"] == 4
    converged(box, PAIR)
    assert box.bpf()["hooks"][INGRESS] == {"programs": ["alpha", "beta"], "revision": 5}


def test_a_place_beside_a_program_by_its_number(box: Sandbox, elsewhere) -> None:
    converged(box, PAIR)
    (number,) = elsewhere("alpha")
    elsewhere("beta")
    document = with_count(tcx_attach=[attached(order="after", relative_to={"id": number})])
    converged(box, document)
    assert box.hooks()[INGRESS] == ["alpha", OURS, "beta"]


def test_a_program_that_came_in_front_is_overtaken_without_losing_a_packet(box: Sandbox, elsewhere) -> None:
    document = with_count(tcx_attach=[attached(order="first")])
    converged(box, document)
    elsewhere("usurper", first=True)
    assert box.hooks()[INGRESS] == ["usurper", OURS]
    with Stream(box, "client", "", "10.0.0.1") as stream:
        start = counters(box)[1]
        predicted = converged(box, document, check=True)
        done = converged(box, document)
    assert (
        predicted["actions"]
        == done["actions"]
        == [f"change tcx_attach b0 ingress {OURS} (order position 2 of 2 -> first)"]
    )
    # attach the copy, detach the old one, put the program into the copy's place
    assert box.bpf()["hooks"][INGRESS] == {"programs": [OURS, "usurper"], "revision": 6}
    assert (stream.received, stream.copies) == (stream.sent, 0)
    assert counters(box)[1] - start >= stream.sent - 100
    settled(box, document)
    assert len([name for name in box.bpf()["pins"] if "links" in name]) == 1


def test_several_of_ours_in_their_order(box: Sandbox, elsewhere) -> None:
    converged(box, PAIR)
    elsewhere("alpha")
    document = {
        **PAIR,
        "bpf_object": [COUNT, FIREWALL],
        "tcx_attach": [
            {"object": "fw", "program": "drop_all", "link": "b0", "order": "last"},
            attached(order="before", relative_to={"object": "fw", "program": "filter"}),
            {"object": "fw", "program": "filter", "link": "b0", "order": "first"},
        ],
    }
    # `count` before a program that asks to be first: they contradict each other.
    answer = box.topology(document)
    assert answer["error"] == (
        "b0 ingress: edge/fw:filter cannot be first: what others at this hook ask for contradicts it"
    )
    document["tcx_attach"][2]["order"] = "before"
    document["tcx_attach"][2]["relative_to"] = {"name": "alpha"}
    four = converged(box, document)
    assert len(four["actions"]) == 5
    assert box.hooks()[INGRESS] == ["edge/count:count", "edge/fw:filter", "alpha", "edge/fw:drop_all"]
    settled(box, document)
    # One that does not care goes ahead of the one that asked to be last.
    elsewhere("beta", first=True)
    document["bpf_object"] = [*document["bpf_object"], {"name": "second", "source": "count.bpf.c"}]
    document["tcx_attach"] = [*document["tcx_attach"], {"object": "second", "link": "b0"}]
    assert len(converged(box, document)["actions"]) == 2
    assert box.hooks()[INGRESS] == [
        "beta",
        "edge/count:count",
        "edge/fw:filter",
        "alpha",
        "edge/second:count",
        "edge/fw:drop_all",
    ]
    settled(box, document)


def test_two_topologies_that_want_to_be_first_do_not_fight(box: Sandbox) -> None:
    converged(box, {**PAIR, "name": "net"})
    one = {"name": "one", "bpf_object": [COUNT], "tcx_attach": [attached(order="first")]}
    two = {**one, "name": "two"}
    for document in (one, two):
        converged(box, document)
    for document in (one, two, one):
        settled(box, document)
    assert box.hooks()[INGRESS] == ["one/count:count", "two/count:count"]


def test_the_64th_program_of_a_hook_is_a_clear_error(box: Sandbox, elsewhere) -> None:
    converged(box, PAIR)
    elsewhere("many", copies=62)
    document = with_count(tcx_attach=[attached(order="first")])
    converged(box, document)
    assert len(box.hooks()[INGRESS]) == 63
    more = {
        **document,
        "bpf_object": [COUNT, {**COUNT, "name": "again"}],
        "tcx_attach": [*document["tcx_attach"], {"object": "again", "link": "b0"}],
    }
    before = box.bpf()
    answer = box.topology(more)
    assert answer["error"] == (
        "create tcx_attach b0 ingress edge/again:count (missing) failed: edge/again:count at b0 ingress: the hook is full: "
        "it has 63 programs, the kernel's limit is 63; detach one first; everything was put back as before"
    )
    assert answer["left"] == []
    assert box.bpf()["hooks"] == before["hooks"] and box.bpf()["pins"] == before["pins"]
    nothing_new(box, before)


# --- devices ----------------------------------------------------------------------------------------------------------------


def test_a_device_that_was_made_anew_gets_its_programs_back_in_one_run(box: Sandbox) -> None:
    document = with_count(
        tcx_attach=[attached(), attached(hook="egress")],
        xdp_attach=[attached(netns="client", link="a0")],
    )
    converged(box, document)
    expected = box.hooks()
    box.sh("ip link del b0; ip link add b0 type veth peer name a0 netns client")
    assert box.hooks() == {}
    # A link without our mark is somebody else's now.
    answer = box.topology(document)
    assert "b0 exists and was not made by cnf.ebpf" in answer["error"]
    box.sh("ip link del b0")
    done = converged(box, document)
    assert done["actions"][0] == "create link b0 (missing)"
    assert box.hooks() == expected
    settled(box, document)


def test_a_foreign_device_that_was_made_anew_gets_its_program_back(box: Sandbox) -> None:
    document = {"bpf_object": [COUNT], "tcx_attach": [{"object": "count", "link": "phy0"}]}
    box.sh("ip link add phy0 type veth peer name phy1")
    converged(box, document)
    box.sh("ip link del phy0; ip link add phy0 type veth peer name phy1")
    assert box.hooks() == {}
    done = converged(box, document)
    assert done["actions"] == [f"create tcx_attach phy0 ingress {OURS} (missing)"]
    assert box.hooks() == {":phy0 ingress": [OURS]}
    assert [name for name in box.bpf()["pins"] if "/links/" in name] == [
        "edge/count/links/count/ingress@phy0@@"
    ]


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_device_moves_to_another_namespace_with_its_programs(box: Sandbox, by_hand) -> None:
    """The links stay attached: nothing is attached again, only a pin gets another name."""
    box.sh("ip link add phy0 type veth peer name phy1")

    def document(netns: str) -> t.Dict[str, t.Any]:
        there = {"netns": netns} if netns else {}
        return {
            "netns": [{"name": "inner"}],
            "link": [{"name": "phy0", "kind": "existing", **there}] if not by_hand else [],
            "bpf_object": [COUNT],
            "tcx_attach": [{"object": "count", "link": "phy0", **there}],
            "xdp_attach": [{"object": "count", "link": "phy0", **there}],
        }

    converged(box, document(""))
    links = box.bpf()["links"]
    if by_hand:
        box.sh("ip link set phy0 netns inner")
    done = converged(box, document("inner"))
    assert box.bpf()["links"] == links
    assert box.hooks() == {"inner:phy0 ingress": [OURS], "inner:phy0 xdp native": ["edge/count:count_xdp"]}
    assert [name for name in sorted(box.bpf()["pins"]) if "/links/" in name] == [
        "edge/count/links/count/ingress@phy0@inner@",
        "edge/count/links/count_xdp/xdp@phy0@inner@",
    ]
    assert not any("create" in action for action in done["actions"])
    settled(box, document("inner"))


# --- damage -----------------------------------------------------------------------------------------------------------------


def test_a_lost_pin_is_made_again_and_nothing_is_attached_twice(box: Sandbox) -> None:
    document = with_count(tcx_attach=[attached()])
    converged(box, document)
    pin = "/sys/fs/bpf/cnf/edge/count/links/count/ingress@b0@@"
    # A second name keeps the link alive while ours is gone.
    box.sh(f"ln {pin} /sys/fs/bpf/kept; rm {pin}")
    done = converged(box, document)
    assert done["actions"] == [f"change tcx_attach b0 ingress {OURS} (health not pinned -> ok)"]
    assert box.bpf()["hooks"][INGRESS] == {"programs": [OURS], "revision": 2}
    settled(box, document)


def test_a_program_attached_without_a_link_gets_one(box: Sandbox) -> None:
    document = with_count(tcx_attach=[attached()])
    converged(box, document)
    box.sh("rm /sys/fs/bpf/cnf/edge/count/links/count/*; sleep 0.1")
    assert box.hooks() == {}
    box.run(
        box.python,
        "-c",
        "import sys, socket; from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf;"
        "bpf.prog_attach(bpf.get_pinned('/sys/fs/bpf/cnf/edge/count/programs/count'), socket.if_nametoindex('b0'), 46)",
        env=box.environment(),
    )
    assert box.hooks() == {INGRESS: [OURS]}
    with Stream(box, "client", "", "10.0.0.1") as stream:
        done = converged(box, document)
    assert done["actions"] == [f"change tcx_attach b0 ingress {OURS} (health attached without a link -> ok)"]
    assert box.hooks() == {INGRESS: [OURS]}
    assert stream.received == stream.sent
    settled(box, document)


def test_lost_pins_of_programs_and_maps_are_made_again_with_the_counts(box: Sandbox) -> None:
    document = with_count(tcx_attach=[attached()])
    converged(box, document)
    box.sh("ip netns exec client ping -c 3 -i 0.05 -q 10.0.0.1")
    box.sh("rm /sys/fs/bpf/cnf/edge/count/maps/counters")
    done = converged(box, document)
    assert done["actions"] == ["change bpf_object edge/count (health incomplete -> ok)"]
    assert counters(box)[1] == 3
    box.sh("ip netns exec client ping -c 2 -i 0.05 -q 10.0.0.1")
    assert counters(box)[1] == 5
    settled(box, document)


def test_a_second_bpffs_over_the_first_is_refused_and_nothing_is_doubled(box: Sandbox) -> None:
    document = with_count(tcx_attach=[attached()])
    converged(box, document)
    box.sh("mount -t bpf bpf /sys/fs/bpf")
    for check in (True, False):
        answer = box.topology(document, check=check)
        assert "two BPF file systems are mounted over each other" in answer["error"]
        assert answer["type"] == "UnsupportedError"
    assert "two BPF file systems" in box.topology({}, state="absent")["error"]
    assert box.sh("find /sys/fs/bpf -mindepth 1 ! -name '*.debug'") == ""
    box.sh("umount /sys/fs/bpf")
    assert box.bpf()["hooks"][INGRESS] == {"programs": [OURS], "revision": 2}
    settled(box, document)


def test_a_missing_bpffs_is_mounted_and_unmounted_again_when_the_run_fails(box: Sandbox) -> None:
    box.sh("umount /sys/fs/bpf; ! mountpoint -q /sys/fs/bpf")
    document = with_count(tcx_attach=[attached()])
    answer = box.topology(document, fail_after=2)
    assert answer["left"] == []
    box.sh("! mountpoint -q /sys/fs/bpf")
    four_steps(box, document)
    assert box.sh("stat -c %a /sys/fs/bpf").strip() == "1700"


def test_the_store_was_lost_and_all_the_same_everything_goes(box: Sandbox) -> None:
    document = with_count(tcx_attach=[attached()])
    before = box.bpf()
    converged(box, document)
    box.sh("rm -r /var/lib/cnf-ebpf/*")
    less = {**PAIR}
    done = converged(box, less)
    assert any(action.startswith("delete bpf_object edge/count") for action in done["actions"])
    assert box.bpf()["pins"] == {} and box.hooks() == {}
    nothing_new(box, before)


# --- legacy filters ---------------------------------------------------------------------------------------------------------


def test_clsact_beside_filters_of_others(box: Sandbox) -> None:
    converged(box, PAIR)
    box.sh("""
        tc qdisc add dev b0 clsact
        tc filter add dev b0 ingress prio 100 protocol ip u32 match u32 0 0 flowid 1:1
        tc filter add dev b0 ingress prio 300 protocol all u32 match u32 0 0 flowid 1:1
    """)
    theirs = box.sh("tc filter show dev b0 ingress")
    document = with_count(
        tcx_attach=[attached(mechanism="clsact", order="first"), attached(mechanism="clsact", hook="egress")]
    )
    four = converged(box, document)
    assert [action.split(" (")[0] for action in four["actions"]] == [
        "create bpf_object edge/count",
        f"create tcx_attach b0 ingress {OURS}",
        f"create tcx_attach b0 egress {OURS}",
    ]
    assert box.hooks() == {
        ":b0 clsact ingress": [OURS, "u32", "u32"],
        ":b0 clsact egress": [OURS],
        ":b0 clsact": [],
    }
    settled(box, document)
    box.sh("ip netns exec client ping -c 2 -i 0.05 -q 10.0.0.1")
    assert counters(box)[1] == 4
    converged(box, PAIR)
    assert box.sh("tc filter show dev b0 ingress") == theirs
    assert box.hooks() == {":b0 clsact ingress": ["u32", "u32"], ":b0 clsact": []}


def test_a_clsact_that_we_made_goes_with_its_last_filter(box: Sandbox) -> None:
    both = with_count(tcx_attach=[attached(mechanism="clsact"), attached(mechanism="clsact", hook="egress")])
    four_steps(box, both)
    one = with_count(tcx_attach=[attached(mechanism="clsact", hook="egress")])
    converged(box, one)
    assert box.hooks() == {":b0 clsact egress": [OURS], ":b0 clsact": []}
    settled(box, one)
    converged(box, PAIR)
    assert box.hooks() == {}


def test_a_legacy_filter_is_replaced_without_losing_a_packet(box: Sandbox, tmp_path) -> None:
    mine = tmp_path / "count.bpf.c"
    from bpf_steps import PROGRAMS

    text = (PROGRAMS / "count.bpf.c").read_text()
    mine.write_text(text)
    document = with_count(tcx_attach=[attached(mechanism="clsact")])
    document["bpf_object"] = [{"name": "count", "source": str(mine)}]
    converged(box, document)
    with Stream(box, "client", "", "10.0.0.1") as stream:
        start = counters(box)[1]
        for number in range(20):
            mine.write_text(f"{text}\n/* {number % 2} */\n")
            assert len(converged(box, document)["actions"]) == 1
        converged(box, {**document, "tcx_attach": [attached(mechanism="tcx")]})
        converged(box, document)
    assert (stream.received, stream.copies) == (stream.sent, 0)
    assert counters(box)[1] - start >= stream.sent - 100
    settled(box, document)
    assert box.hooks() == {":b0 clsact ingress": [OURS], ":b0 clsact": []}


# --- XDP --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_xdp_modes(box: Sandbox, mode) -> None:
    four_steps(box, with_count(xdp_attach=[attached(mode=mode)]))
    assert box.hooks() == {f":b0 xdp {mode}": ["edge/count:count_xdp"]}
    other = {"native": "generic", "generic": "native"}[mode]
    document = with_count(xdp_attach=[attached(mode=other)])
    done = converged(box, document)
    assert done["actions"] == [f"change xdp_attach b0 xdp edge/count:count_xdp (mode {mode} -> {other})"]
    assert box.hooks() == {f":b0 xdp {other}": ["edge/count:count_xdp"]}
    settled(box, document)


def test_an_xdp_program_of_others_stays_unless_told(box: Sandbox, elsewhere) -> None:
    converged(box, PAIR)
    (number,) = elsewhere("theirs", hook="xdp", mode="generic")
    document = with_count(xdp_attach=[attached()])
    answer = box.topology(document)
    assert answer["error"] == (
        "xdp_attach[0]: xdp_attach b0 xdp edge/count:count_xdp: b0 has an XDP program already, theirs "
        f"(id {number}, generic), which was not attached by cnf.ebpf; set adopt: true to replace it"
    )
    adopting = with_count(xdp_attach=[attached(adopt=True)])
    failed = box.topology(adopting, fail_after=1)
    assert failed["left"] == []
    assert box.hooks() == {":b0 xdp generic": ["theirs"]}
    converged(box, adopting)
    assert box.hooks() == {":b0 xdp native": ["edge/count:count_xdp"]}


# --- map entries ------------------------------------------------------------------------------------------------------------


def test_entries_by_field_name_and_device(box: Sandbox) -> None:
    document: t.Dict[str, t.Any] = {
        **PAIR,
        "bpf_object": [FIREWALL, {"name": "mirror", "source": "mirror.bpf.c"}],
        "bpf_map_entry": [
            {"object": "fw", "map": "sources4", "key": {"prefixlen": 24, "address": "10.0.0.0"}, "value": 7},
            {"object": "fw", "map": "rules", "key": {"source": 7, "protocol": 1}, "value": 2},
            {"object": "mirror", "map": "target", "key": 0, "value": "link:b0"},
        ],
        "tcx_attach": [{"object": "fw", "program": "filter", "link": "b0"}],
    }
    four_steps(box, document)
    ping = ["ip", "netns", "exec", "client", "ping", "-c", "1", "-W", "1", "-q", "10.0.0.1"]
    assert box.run(*ping, check=False).returncode == 1
    dump = json.loads(
        box.run("bpftool", "-j", "map", "dump", "pinned", "/sys/fs/bpf/cnf/edge/mirror/maps/target").stdout
    )
    (index,) = [link["ifindex"] for link in box.ip("link show dev b0")]
    assert dump[0]["formatted"]["value"] == index
    document["bpf_map_entry"][1]["value"] = 0
    done = converged(box, document)
    assert done["actions"] == [
        'change bpf_map_entry edge/fw:rules {"protocol":1,"source":7} (value TC_DROP -> 0)'
    ]
    box.sh(" ".join(ping))
    document["bpf_map_entry"] = document["bpf_map_entry"][:1]
    assert len(converged(box, document)["actions"]) == 2
    dump = json.loads(
        box.run("bpftool", "-j", "map", "dump", "pinned", "/sys/fs/bpf/cnf/edge/mirror/maps/target").stdout
    )
    assert dump[0]["formatted"]["value"] == 0
    removed(box)


def test_a_prefix_within_another_is_an_entry_of_its_own(box: Sandbox) -> None:
    def entry(prefixlen: int, address: str, value: int) -> t.Dict[str, t.Any]:
        return {
            "object": "fw",
            "map": "sources4",
            "key": {"prefixlen": prefixlen, "address": address},
            "value": value,
        }

    def stored() -> t.Dict[int, int]:
        done = box.run("bpftool", "-j", "map", "dump", "pinned", "/sys/fs/bpf/cnf/edge/fw/maps/sources4")
        rows = [row["formatted"] for row in json.loads(done.stdout)]
        return {row["key"]["prefixlen"]: row["value"] for row in rows}

    document = {"bpf_object": [FIREWALL], "bpf_map_entry": [entry(8, "10.0.0.0", 1)]}
    converged(box, document)
    document["bpf_map_entry"].append(entry(16, "10.66.0.0", 1))
    assert len(converged(box, document)["actions"]) == 1
    assert stored() == {8: 1, 16: 1}
    settled(box, document)
    document["bpf_map_entry"] = [entry(16, "10.66.0.0", 2)]
    assert len(converged(box, document)["actions"]) == 2
    assert stored() == {16: 2}
    removed(box)


def test_an_entry_follows_its_device(box: Sandbox) -> None:
    document = {
        "link": [{"name": "mon0", "kind": "veth", "peer": {"name": "mon1"}}],
        "bpf_object": [{"name": "mirror", "source": "mirror.bpf.c"}],
        "bpf_map_entry": [{"object": "mirror", "map": "target", "key": 0, "value": "link:mon0"}],
    }
    converged(box, document)
    (old,) = [link["ifindex"] for link in box.ip("link show dev mon0")]
    box.sh("ip link del mon0")
    done = converged(box, document)
    (new,) = [link["ifindex"] for link in box.ip("link show dev mon0")]
    assert new != old
    assert [action.split(" (")[0] for action in done["actions"]] == [
        "create link mon0",
        "change bpf_map_entry edge/mirror:target 0",
    ]
    settled(box, document)


def test_the_target_of_a_mirror_goes_down_and_the_traffic_does_not_care(box: Sandbox) -> None:
    document = {
        **PAIR,
        "link": [*PAIR["link"], {"name": "mon0", "kind": "veth", "peer": {"name": "mon1"}}],
        "bpf_object": [{"name": "mirror", "source": "mirror.bpf.c"}],
        "bpf_map_entry": [{"object": "mirror", "map": "target", "key": 0, "value": "link:mon0"}],
        "tcx_attach": [{"object": "mirror", "link": "b0"}],
    }
    converged(box, document)
    with Stream(box, "client", "", "10.0.0.1") as stream:
        box.sh(
            "sleep 0.3; ip link set mon1 down; sleep 0.3; ip link set mon0 down; sleep 0.3; ip link del mon0; sleep 0.3"
        )
    assert (stream.received, stream.copies) == (stream.sent, 0)
    found = counters(box, "mirror")
    assert found[0] == found[1] + found[5] and found[1] > 0 and found[5] > 0  # seen = copied + failed


def test_from_a_legacy_filter_to_tcx_and_back_nothing_passes_by(box: Sandbox) -> None:
    """A program that drops everything: a gap would let packets through."""
    document = {
        **PAIR,
        "bpf_object": [FIREWALL],
        "tcx_attach": [{"object": "fw", "program": "drop_all", "link": "b0"}],
    }
    converged(box, document)
    box.sh("ip neigh replace 10.0.0.2 dev b0 lladdr $(ip netns exec client cat /sys/class/net/a0/address)")
    box.sh("ip netns exec client ip neigh replace 10.0.0.1 dev a0 lladdr $(cat /sys/class/net/b0/address)")
    ping = ["ip", "netns", "exec", "client", "ping", "-i", "0.002", "-w", "4", "-q", "10.0.0.1"]
    process = subprocess.Popen(box.command(*ping), stdout=subprocess.PIPE, text=True)
    for mechanism in ("clsact", "tcx", "clsact", "tcx"):
        document["tcx_attach"] = [
            {"object": "fw", "program": "drop_all", "link": "b0", "mechanism": mechanism}
        ]
        converged(box, document)
        kind = "clsact ingress" if mechanism == "clsact" else "ingress"
        assert box.hooks()[f":b0 {kind}"] == ["edge/fw:drop_all"]
        settled(box, document)
    told, _nothing = process.communicate(timeout=20)
    assert ", 0 received" in told
    assert box.hooks() == {INGRESS: ["edge/fw:drop_all"]}
    converged(box, PAIR)
    assert box.hooks() == {}


def test_one_xdp_program_on_two_devices_of_which_one_moves(box: Sandbox) -> None:
    box.sh("ip link add p0 type veth peer name p1; ip link add q0 type veth peer name q1; ip netns add far")
    two = {
        "bpf_object": [COUNT],
        "xdp_attach": [{"object": "count", "link": "p0"}, {"object": "count", "link": "q0"}],
    }
    converged(box, two)
    box.sh("ip link set q0 netns far")
    two["xdp_attach"] = [{"object": "count", "link": "p0"}, {"object": "count", "link": "q0", "netns": "far"}]
    done = converged(box, two)
    assert not any("create" in action for action in done["actions"])
    expected = ["edge/count:count_xdp"]
    assert box.hooks() == {":p0 xdp native": expected, "far:q0 xdp native": expected}
    settled(box, two)


def test_a_legacy_filter_is_found_although_its_pin_is_lost(box: Sandbox) -> None:
    converged(box, with_count(tcx_attach=[attached(mechanism="clsact")]))
    box.sh("rm -r /sys/fs/bpf/cnf")
    removed(box)
    assert box.hooks() == {}
