# SPDX-License-Identifier: GPL-3.0-or-later
"""bpf_map_info on this kernel: entries in human form, per CPU and by key, and errors that say what there is."""

from __future__ import annotations

import json
import os
import sys
import typing as t
from pathlib import Path

import pytest
from bpf_steps import COUNT, with_count
from sandbox import Sandbox
from steps import assert_holds, converged

MODULES = "ansible_collections.cnf.ebpf.plugins.modules"
NAME = f"maps{os.getpid()}"  # programs are the whole kernel's: other runs of these tests have theirs
RULES = [{"source": 1, "protocol": 6, "port": 23}, {"source": 2, "protocol": 17, "port": 53}]
FIREWALL = {
    "name": NAME,
    "bpf_object": [{"name": "fw", "source": "filter.bpf.c"}],
    "bpf_map_entry": [
        {"object": "fw", "map": "sources4", "key": {"prefixlen": 16, "address": "10.66.0.0"}, "value": 1},
        {"object": "fw", "map": "sources6", "key": {"prefixlen": 48, "address": "2001:db8:66::"}, "value": 2},
        *({"object": "fw", "map": "rules", "key": key, "value": "TC_DROP"} for key in RULES),
    ],
}


def module(box: Sandbox, name: str, **options: t.Any) -> t.Dict[str, t.Any]:
    words = json.dumps({"ANSIBLE_MODULE_ARGS": options})
    done = box.run(sys.executable, "-m", f"{MODULES}.{name}", input=words, env=box.environment(), check=False)
    return json.loads(done.stdout)


def ask(box: Sandbox, **options: t.Any) -> t.Dict[str, t.Any]:
    return module(box, "bpf_map_info", **options)


def refused(box: Sandbox, **options: t.Any) -> str:
    answer = ask(box, **options)
    assert answer.get("failed") is True, answer
    message = str(answer["msg"])
    assert "\n" not in message
    return message


def own(**options: t.Any) -> t.Dict[str, t.Any]:
    return {"topology": NAME, "object": "fw", **options}


def test_entries_are_told_as_they_are_declared(box: Sandbox) -> None:
    converged(box, FIREWALL)
    found = ask(box, **own(map="sources4"))
    assert found["changed"] is False
    assert found["entries"] == [{"key": {"prefixlen": 16, "address": "10.66.0.0"}, "value": 1}]
    assert (found["truncated"], found["missing"], found["notes"]) == (False, [], [])
    assert_holds(
        found["map"],
        {"name": "sources4", "type": "lpm_trie", "key": "prefixlen u32, address be32", "value": "u32"},
    )
    six = ask(box, **own(map="sources6"))
    assert six["entries"] == [{"key": {"prefixlen": 48, "address": "2001:db8:66::"}, "value": 2}]
    # By path and by id it is the same map.
    path = f"/sys/fs/bpf/cnf/{NAME}/fw/maps/sources4"
    assert ask(box, map=path)["entries"] == found["entries"]
    assert ask(box, id=found["map"]["id"], _ansible_check_mode=True)["entries"] == found["entries"]


def test_keys_and_limits(box: Sandbox) -> None:
    document = {
        **FIREWALL,
        "bpf_map_entry": [
            {
                "object": "fw",
                "map": "sources4",
                "key": {"prefixlen": 32, "address": f"10.0.0.{n}"},
                "value": n,
            }
            for n in range(1, 21)
        ],
    }
    converged(box, document)
    whole = ask(box, **own(map="sources4", limit=20))
    assert (len(whole["entries"]), whole["truncated"]) == (20, False)
    some = ask(box, **own(map="sources4", limit=7))
    assert (len(some["entries"]), some["truncated"]) == (7, True)
    assert all(row in whole["entries"] for row in some["entries"])
    keys = [
        {"prefixlen": 32, "address": "10.0.0.3"},
        {"prefixlen": 32, "address": "192.0.2.1"},
        {"prefixlen": "32", "address": "10.0.0.9"},
    ]
    picked = ask(box, **own(map="sources4", keys=keys))
    assert [row["value"] for row in picked["entries"]] == [3, 9]
    assert picked["missing"] == [{"prefixlen": 32, "address": "192.0.2.1"}]
    assert ask(box, **own(map="sources4", keys=[]))["entries"] == []


def test_counters_have_names_and_totals(box: Sandbox) -> None:
    converged(box, with_count(name=NAME, tcx_attach=[{"object": "count", "link": "b0"}]))
    box.sh("ip netns exec client ping -c 3 -i 0.05 -q 10.0.0.1")
    found = ask(box, topology=NAME, object="count", map="counters")
    assert len(found["entries"]) == 32
    named = {row["name"]: row for row in found["entries"] if "name" in row}
    assert list(named) == ["COUNT_TOTAL", "COUNT_IPV4", "COUNT_IPV6", "COUNT_OTHER"]
    row = named["COUNT_IPV4"]
    assert row["key"] == 1
    assert row["total"] == {"packets": 3, "bytes": 3 * 98}
    cpus = int(box.sh("getconf _NPROCESSORS_CONF"))
    assert len(row["per_cpu"]) == cpus and "value" not in row
    assert sum(value["packets"] for value in row["per_cpu"]) == 3
    # BCC's objects do not name their counters, and are told without names.
    one = ask(box, topology=NAME, object="count", map="counters", keys=[1, "0x2"])
    assert [(row["key"], row["name"]) for row in one["entries"]] == [(1, "COUNT_IPV4"), (2, "COUNT_IPV6")]


def test_probes_must_move_counters_or_leave_them_alone(box: Sandbox) -> None:
    converged(box, with_count(name=NAME, tcx_attach=[{"object": "count", "link": "b0"}]))

    def probe(*counters: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        rows = [{"topology": NAME, "object": "count", **row} for row in counters]
        return module(box, "reachability", netns="client", destination="10.0.0.1", counters=rows)

    done = probe({"key": 1}, {"key": 1, "field": "bytes"}, {"key": 9, "expect": "stays"})
    assert "failed" not in done, done
    assert [(row["before"], row["after"], row["expected"]) for row in done["counters"]] == [
        (0, 3, True),
        (0, 3 * 98, True),
        (0, 0, True),
    ]
    wrong = probe({"key": 1, "expect": "stays"}, {"key": 9})
    assert wrong["failed"] and not wrong["changed"]
    assert wrong["msg"] == (
        f"object {NAME}/count: map counters, key 1: 3 before and 6 after; expected to stay | "
        f"object {NAME}/count: map counters, key 9: 0 before and 0 after; expected to grow"
    )
    for row, said in (
        ({"object": "other", "key": 1}, f"counters[1].object: topology {NAME} has no object other"),
        ({"map": "other", "key": 1}, f"counters[1].map: bpf_object {NAME}/count has no map other"),
        ({"key": "first"}, "counters[1].key: "),
        ({"key": 1, "field": "hits"}, "counters[1].field: "),
    ):
        answer = probe({"key": 1}, row)
        assert answer["failed"] and answer["msg"].startswith(said) and "\n" not in answer["msg"], answer


def test_bcc_maps_are_told_as_well(box: Sandbox) -> None:
    converged(box, {"name": NAME, "bpf_object": [{**COUNT, "compiler": "bcc"}]})
    found = ask(box, topology=NAME, object="count", map="counters", keys=[0])
    (row,) = found["entries"]
    assert (row["key"], row["total"]) == (0, {"packets": 0, "bytes": 0})


def test_a_map_without_type_information_is_hexadecimal(box: Sandbox) -> None:
    box.sh(
        "bpftool map create /sys/fs/bpf/raw type hash key 4 value 3 entries 9 name raw;"
        "bpftool map update pinned /sys/fs/bpf/raw key hex 0a 00 00 01 value hex ff 00 10"
    )
    found = ask(box, map="/sys/fs/bpf/raw")
    assert found["entries"] == [{"key": "0a:00:00:01", "value": "ff:00:10"}]
    assert_holds(found["map"], {"key": "4 bytes", "value": "3 bytes", "type": "hash", "max_entries": 9})
    assert found["notes"] == ["map raw has no type information"]
    number = int.from_bytes(b"\x0a\0\0\1", sys.byteorder)
    found = ask(box, map="/sys/fs/bpf/raw", keys=["0a000001", "0a 00 00 01", number, "00:00:00:02"])
    assert [row["value"] for row in found["entries"]] == ["ff:00:10"] * 3
    assert found["missing"] == ["00:00:00:02"]
    line = "keys[0]: map raw has no type information: its keys are 4 bytes in hexadecimal"
    for wrong in ("10.0.0.1", "0a:00", {"a": 1}, True, -1, 1 << 32):
        assert refused(box, map="/sys/fs/bpf/raw", keys=[wrong]) == line


def test_a_map_is_found_when_its_pin_is_hidden(box: Sandbox) -> None:
    converged(box, FIREWALL)
    box.sh("mount -t bpf bpf /sys/fs/bpf")
    found = ask(box, **own(map="sources4"))
    assert found["entries"] == [{"key": {"prefixlen": 16, "address": "10.66.0.0"}, "value": 1}]
    line = refused(box, map=f"/sys/fs/bpf/cnf/{NAME}/fw/maps/sources4")
    assert line.startswith("/sys/fs/bpf: two BPF file systems are mounted over each other")


def test_a_prefix_is_looked_up_itself_and_not_what_covers_it(box: Sandbox) -> None:
    converged(box, FIREWALL)

    def has(prefixlen: int, address: str) -> bool:
        key = {"prefixlen": prefixlen, "address": address}
        found = ask(box, **own(map="sources4", keys=[key]))
        assert found["missing"] == ([] if found["entries"] else [key])
        return bool(found["entries"])

    assert has(16, "10.66.0.0") and has(16, "10.66.1.2")
    assert not any((has(17, "10.66.0.0"), has(32, "10.66.0.0"), has(15, "10.66.0.0"), has(16, "10.67.0.0")))
    assert not has(33, "10.66.0.0")


@pytest.fixture(scope="module")
def firewall() -> t.Iterator[Sandbox]:
    """A host with the firewall, of which tests only read."""
    with Sandbox() as box:
        converged(box, FIREWALL)
        yield box


def test_errors_say_what_there_is(firewall: Sandbox, tmp_path: Path) -> None:
    box = firewall
    maps = f"/sys/fs/bpf/cnf/{NAME}/fw/maps"
    names = sorted(box.sh(f"ls {maps}").split())
    assert "sources4" in names
    told = f"maps in {maps}: {', '.join(names)}"
    assert refused(box, map=f"{maps}/source4") == f"map: there is no pin {maps}/source4; {told}"
    assert refused(box, map=maps) == f"map: {maps} is not a pin; {told}"
    program = f"/sys/fs/bpf/cnf/{NAME}/fw/programs/filter"
    assert refused(box, map=program) == (
        f"map: {program} is a program, not a map; maps in {os.path.dirname(program)}: none"
    )
    (tmp_path / "file").write_text("x")
    assert refused(box, map=str(tmp_path / "file")) == (
        f"map: {tmp_path}/file is not a pin; maps in {tmp_path}: none"
    )
    assert refused(box, **own(map="source4")) == (
        f"map: bpf_object {NAME}/fw has no map source4; it has {', '.join(names)}"
    )
    assert refused(box, topology=NAME, object="wall", map="rules") == (
        f"object: topology {NAME} has no object wall on this host; it has fw"
    )
    assert refused(box, map="rules") == "map: 'rules' is a name: give its object, or the path of a pin"
    assert refused(box, id=2_000_000_000) == (
        "id: there is no map 2000000000; `bpftool map` lists those there are"
    )
    assert refused(box, **own(map="rules", limit=0)) == "limit: 0 is not a number of entries; give 1 or more"
    assert refused(box) == "one of the following is required: map, id"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"adress": "10.0.0.1"}, "has no field 'adress'; it has prefixlen, address"),
        ({"prefixlen": 8, "address": "10.0.0"}, "address: needs an IPv4 address or a number, not '10.0.0'"),
        ({"prefixlen": -(1 << 40), "address": 0}, "prefixlen: -1099511627776 does not fit 32 bits"),
        (7, "is given as fields, not as 7"),
    ],
)
def test_a_wrong_key_is_told_by_its_field(firewall: Sandbox, key: t.Any, said: str) -> None:
    line = refused(firewall, **own(map="sources4", keys=[{"prefixlen": 8, "address": "10.0.0.0"}, key]))
    assert line.startswith("keys[1]: sources4 key")
    assert said in line
    assert line.endswith("(the key is prefixlen u32, address be32)")


def test_maps_without_readable_entries_are_refused(box: Sandbox) -> None:
    box.sh(
        "bpftool map create /sys/fs/bpf/ring type ringbuf key 0 value 0 entries 4096 name ring;"
        "bpftool map create /sys/fs/bpf/line type queue key 0 value 4 entries 8 name line"
    )
    assert refused(box, map="/sys/fs/bpf/ring") == (
        "map ring: the entries of a ringbuf cannot be read by key; cnf.ebpf.bpf_trace reads it"
    )
    assert refused(box, map="/sys/fs/bpf/line") == "map line: the entries of a queue cannot be read by key"
