# SPDX-License-Identifier: GPL-3.0-or-later
"""bpf_info on this kernel: ours and others' programs at every hook, objects without pins, and rates of real packets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from bpf_steps import COUNT, PAIR, with_count
from sandbox import SUPPORT, Sandbox
from steps import assert_holds, converged

MODULE = "ansible_collections.cnf.ebpf.plugins.modules.bpf_info"
NAME = f"info{os.getpid()}"  # programs are the whole kernel's: other runs of these tests have theirs
PINS = f"/sys/fs/bpf/cnf/{NAME}/count"


def ask(box: Sandbox, **options: t.Any) -> t.Dict[str, t.Any]:
    words = json.dumps({"ANSIBLE_MODULE_ARGS": options})
    done = box.run(sys.executable, "-m", MODULE, input=words, env=box.environment(), check=False)
    return json.loads(done.stdout)


def foreign(
    box: Sandbox, directory: Path, name: str, device: str, hook: str, netns: str = "", **options: t.Any
) -> int:
    """Attach a program as another tool would; its id."""
    words = [sys.executable, str(SUPPORT / "foreign.py"), name, device, hook, json.dumps(options)]
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    done = box.run(*inside, *words, str(directory), env=box.environment())
    return int(done.stdout)


def ours(found: t.Mapping[str, t.Any], name: str = NAME) -> t.Dict[str, t.Any]:
    (row,) = [row for row in found["objects"] if row["topology"] == name]
    return t.cast(t.Dict[str, t.Any], row)


def pinned_id(box: Sandbox, path: str) -> int:
    return int(json.loads(box.run("bpftool", "-j", "prog", "show", "pinned", path).stdout)["id"])


def lists(found: t.Mapping[str, t.Any]) -> t.Dict[str, t.List[str]]:
    """Hooks to the names of what is there."""
    return {
        f"{device['netns']}:{device['link']} {hook['hook']}": [
            row["program"] or row["name"] or row["type"] for row in hook["programs"]
        ]
        for device in found["devices"]
        for hook in device["hooks"]
    }


def test_an_empty_host(box: Sandbox) -> None:
    found = ask(box)
    assert (found["changed"], found["devices"], found["netkit"]) == (False, [], [])
    assert ask(box, _ansible_check_mode=True)["devices"] == []


def test_every_hook_with_ours_and_others_in_order(box: Sandbox, tmp_path: Path) -> None:
    document = with_count(
        name=NAME,
        tcx_attach=[{"object": "count", "link": "b0"}],
        xdp_attach=[{"object": "count", "link": "a0", "netns": "client"}],
    )
    converged(box, document)
    linkless = foreign(box, tmp_path, "early", "b0", "ingress", first=True, linkless=True)
    linked = foreign(box, tmp_path, "late", "b0", "ingress")
    foreign(box, tmp_path, "out", "a0", "egress", netns="client")
    box.sh(
        "tc qdisc add dev b0 clsact;"
        "tc filter add dev b0 egress prio 9 protocol ip u32 match u32 0 0 flowid 1:1;"
        f"tc filter add dev b0 egress prio 5 bpf direct-action object-pinned {PINS}/programs/count"
    )
    found = ask(box)
    assert lists(found) == {
        ":b0 tcx ingress": ["early", "count", "late"],
        ":b0 clsact egress": ["count", "u32"],
        "client:a0 xdp": ["count_xdp"],
        "client:a0 tcx egress": ["out"],
    }
    host, client = found["devices"]
    assert (host["netns"], host["link"], client["netns"], client["link"]) == ("", "b0", "client", "a0")
    ingress, egress = host["hooks"]
    assert ingress["revision"] == 4 and egress["revision"] is None
    early, count, late = ingress["programs"]
    number = pinned_id(box, f"{PINS}/programs/count")
    assert_holds(early, {"id": linkless, "type": "sched_cls", "link_id": None, "pin": None, "topology": None})
    assert_holds(late, {"id": linked, "pin": "/sys/fs/bpf/late", "object": None, "program": None})
    assert_holds(
        count,
        {
            "id": number,
            "name": "count",
            "pin": f"{PINS}/links/count/ingress@b0@@",
            "priority": None,
            "topology": NAME,
            "object": "count",
            "program": "count",
        },
    )
    assert isinstance(count["link_id"], int) and isinstance(late["link_id"], int)
    shown = json.loads(box.run("bpftool", "-j", "prog", "show", "id", str(number)).stdout)
    assert count["tag"] == shown["tag"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", count["since"])
    since = int(box.sh(f"date -d {count['since']} +%s"))
    assert abs(since - shown["loaded_at"]) <= 1
    first, second = egress["programs"]
    assert_holds(first, {"id": number, "priority": 5, "pin": f"{PINS}/programs/count", "link_id": None})
    assert_holds(second, {"id": None, "type": "u32", "priority": 9, "since": None, "tag": None})
    xdp = client["hooks"][0]
    assert (xdp["mode"], xdp["revision"]) == ("native", None)
    assert_holds(xdp["programs"][0], {"pin": f"{PINS}/links/count_xdp/xdp@a0@client@", "object": "count"})
    assert isinstance(xdp["programs"][0]["link_id"], int)
    assert f"\n    2. {NAME}/count:count, program {number}, link {count['link_id']}\n" in found["text"]

    assert_holds(
        ours(found),
        {
            "object": "count",
            "source": "count.bpf.c",
            "constants": {},
            "attachments": [
                {"program": "count", "netns": "", "link": "b0", "hook": "tcx ingress"},
                {"program": "count", "netns": "", "link": "b0", "hook": "clsact egress"},
                {"program": "count_xdp", "netns": "client", "link": "a0", "hook": "xdp"},
            ],
            "maps": [
                {
                    "name": "counters",
                    "type": "percpu_array",
                    "max_entries": 32,
                    "entries": 32,
                    "key": "u32",
                    "value": "packets u64, bytes u64",
                    "pin": f"{PINS}/maps/counters",
                }
            ],
        },
    )
    assert ours(found)["compiler"].split()[0] in ("clang", "bcc")
    programs = ours(found)["programs"]
    assert [(row["program"], row["type"]) for row in programs] == [
        ("count", "sched_cls"),
        ("count_xdp", "xdp"),
    ]
    assert [row["pin"] for row in programs] == [f"{PINS}/programs/count", f"{PINS}/programs/count_xdp"]


def test_limits(box: Sandbox) -> None:
    document = with_count(
        name=NAME,
        tcx_attach=[{"object": "count", "link": "b0"}, {"object": "count", "link": "a0", "netns": "client"}],
    )
    converged(box, document)
    box.sh("ip link property add dev b0 altname uplink")
    assert set(lists(ask(box, netns=""))) == {":b0 tcx ingress"}
    assert set(lists(ask(box, netns="client"))) == {"client:a0 tcx ingress"}
    assert set(lists(ask(box, link="a0"))) == {"client:a0 tcx ingress"}
    assert set(lists(ask(box, link="uplink"))) == {":b0 tcx ingress"}
    nothing = ask(box, netns="client", link="b0", fill=False)
    assert nothing["devices"] == []
    assert ours(nothing)["attachments"] == []
    assert ours(nothing)["maps"][0]["entries"] is None
    refused = ask(box, netns="clients")
    assert refused["failed"] and refused["msg"] == "netns: there is no network namespace 'clients'"
    assert ask(box, sample=-1)["msg"] == "sample: -1.0 is not a time to count for; give seconds, or 0"


def test_rates_are_those_of_the_sample(box: Sandbox, tmp_path: Path) -> None:
    foreign(box, tmp_path, "busy", "lo", "ingress")

    def sample(**options: t.Any) -> t.Dict[str, t.Any]:
        (row,) = ask(box, link="lo", netns="", **options)["devices"][0]["hooks"][0]["programs"]
        return t.cast(t.Dict[str, t.Any], row)

    idle = sample(sample=0.1)
    assert (idle["runs_per_second"], idle["ns_per_run"]) == (0, None)
    # A ping to oneself is two packets. It runs until the sample is over, and ends with the sandbox at the latest.
    words = box.command("ping", "-i", "0.01", "-q", "127.0.0.1")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        busy = sample(sample=0.5)
        process.kill()
    assert busy["runs_per_second"] > 0 and busy["ns_per_run"] > 0
    assert busy["run_count"] >= busy["runs_per_second"] * 0.5
    assert busy["run_time_ns"] > 0
    plain = sample()
    assert "runs_per_second" not in plain and "ns_per_run" not in plain
    assert plain["run_count"] >= busy["run_count"]


def test_programs_are_told_when_a_second_bpffs_hides_the_pins(box: Sandbox) -> None:
    converged(box, with_count(name=NAME, tcx_attach=[{"object": "count", "link": "b0"}]))
    box.sh("mount -t bpf bpf /sys/fs/bpf")
    found = ask(box)
    (note,) = [note for note in found["notes"] if "mounted over each other" in note]
    assert note.startswith("/sys/fs/bpf: two BPF file systems")
    assert note in json.dumps(found["warnings"])
    assert lists(found) == {":b0 tcx ingress": ["count"]}
    row = found["devices"][0]["hooks"][0]["programs"][0]
    assert_holds(row, {"pin": None, "topology": NAME, "object": "count", "program": "count"})
    (counters,) = ours(found)["maps"]
    assert (counters["name"], counters["entries"], counters["pin"]) == ("counters", 32, None)
    box.sh("umount /sys/fs/bpf")
    assert ask(box)["devices"][0]["hooks"][0]["programs"][0]["pin"] == f"{PINS}/links/count/ingress@b0@@"


def test_links_that_no_list_shows(box: Sandbox, tmp_path: Path) -> None:
    converged(box, {**PAIR, "name": NAME})
    foreign(box, tmp_path, "orphan", "b0", "ingress")
    link = json.loads(box.run("bpftool", "-j", "link", "show", "pinned", "/sys/fs/bpf/orphan").stdout)
    about = f"link {link['id']} (tcx ingress, program {link['prog_id']} orphan)"
    assert not [note for note in ask(box)["notes"] if about in note]
    box.sh("ip link del b0")
    assert f"{about} is left over: its device is gone" in ask(box)["notes"]
    box.sh("ip link add b1 type veth peer name b2; ip netns add other; ip link set b1 netns other")
    foreign(box, tmp_path, "hidden", "b1", "ingress", netns="other")
    link = json.loads(box.run("bpftool", "-j", "link", "show", "pinned", "/sys/fs/bpf/hidden").stdout)
    about = f"link {link['id']} (tcx ingress, program {link['prog_id']} hidden)"
    assert not [note for note in ask(box)["notes"] if about in note]
    keeper = box.command("nsenter", "--net=/run/netns/other", "sh", "-c", "echo in; exec sleep infinity")
    with subprocess.Popen(keeper, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "in\n"
            box.sh("umount /run/netns/other; rm /run/netns/other")
            (note,) = [note for note in ask(box)["notes"] if about in note]
        finally:
            process.kill()
    assert re.fullmatch(re.escape(about) + r" is on device \d+ of a network namespace without a name", note)


def test_filters_of_the_old_ingress_qdisc(box: Sandbox) -> None:
    converged(box, {**PAIR, "name": NAME, "bpf_object": [COUNT]})
    box.sh(
        "tc qdisc add dev b0 handle ffff: ingress;"
        f"tc filter add dev b0 ingress prio 3 bpf direct-action object-pinned {PINS}/programs/count"
    )
    found = ask(box)
    assert lists(found) == {":b0 qdisc ingress": ["count"]}
    assert found["devices"][0]["hooks"][0]["programs"][0]["priority"] == 3


@pytest.mark.parametrize("size", [1000, 4_000_000])
def test_the_fill_of_a_map_is_exact(box: Sandbox, size: int) -> None:
    """Also of one so large that it is counted by its keys."""
    entries = [
        {
            "object": "fw",
            "map": "sources4",
            "key": {"prefixlen": 32, "address": f"10.0.{number // 250}.{number % 250}"},
            "value": 1,
        }
        for number in range(700)
    ]
    document = {
        "name": NAME,
        "bpf_object": [{"name": "fw", "source": "filter.bpf.c", "maps": {"sources4": size}}],
        "bpf_map_entry": entries,
    }
    converged(box, document)
    maps = {row["name"]: row for row in ours(ask(box))["maps"]}
    assert (maps["sources4"]["entries"], maps["sources4"]["max_entries"]) == (700, size)
    assert maps["sources6"]["entries"] == 0
    assert maps["counters"]["entries"] == 32
