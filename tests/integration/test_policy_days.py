# SPDX-License-Identifier: GPL-3.0-or-later
"""Days on which a router's policy could go wrong: undo, devices that vanish, objects that come and go, and who may say what."""

from __future__ import annotations

import typing as t

import policy_world as w
from policy_cases import info, ways
from sandbox import Sandbox
from steps import converged, removed, settled


def task(box: Sandbox, state: str = "present", check: bool = False, **fields: t.Any) -> t.Dict[str, t.Any]:
    params = {"object": "router", "topology": "edge", **fields}
    return box.task({"section": "bpf_policy_entry", "state": state, "params": params}, check=check)


def without_policy() -> t.Dict[str, t.Any]:
    document = w.with_router()
    document.pop("bpf_policy_entry")
    return document


def test_undo_leads_entries_to_the_devices_that_it_has_made_again(box: Sandbox) -> None:
    """The link is gone before the entry is changed; whatever fails then, the entry leads to the link that came back."""
    one = w.with_router()
    two = w.with_router(entries=[])
    two["link"] = [row for row in two["link"] if row["name"] != "good"]
    for section in ("route", "sysctl_forwarding"):
        two[section] = [
            row
            for row in two[section]
            if row.get("interface") != "good" and row.get("via") not in ("10.0.1.2", "fd00:1::2")
        ]
    converged(box, one)
    w.addressed(box)
    digest = info(box)["digest"]
    steps = len(converged(box, two, check=True)["actions"])
    assert steps > 1
    for number in range(steps):
        answer = box.topology(two, fail_after=number)
        assert answer["error"].endswith("everything was put back as before"), answer["error"]
        assert info(box)["digest"] == digest
        settled(box, one)
    w.addressed(box)
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (3, 3)


def test_a_vanished_device_does_not_keep_tasks_from_other_entries(box: Sandbox) -> None:
    converged(box, without_policy())
    w.addressed(box)
    assert "error" not in task(box, netns="server", source=w.VIP, interface="good", next_hop="10.0.1.1")
    box.sh("ip -n server link del good")
    assert task(box, source="10.9.0.0/16", action="drop")["actions"] == [
        "change bpf_policy_entry edge/router (added source 10.9.0.0/16)"
    ]
    assert info(box)["count"] == 2
    gone = task(box, "absent", source=w.VIP)
    assert gone["actions"] == ["change bpf_policy_entry edge/router (removed source 192.168.100.5/32)"]


def test_a_pool_goes_in_the_run_that_leads_its_entries_elsewhere(box: Sandbox) -> None:
    pool = {
        "object": "router",
        "netns": "router",
        "name": "p",
        "members": [{"interface": "a", "address": "10.0.11.2"}],
    }
    entry = {"object": "router", "netns": "router", "source": "10.0.0.0/8", "pool": "p"}
    converged(box, ways("veth", ("a", "b"), (), bpf_pool=[pool], bpf_policy_entry=[entry]))
    del entry["pool"]
    entry["action"] = "drop"
    document = ways("veth", ("a", "b"), (), bpf_policy_entry=[entry])
    done = converged(box, document)
    assert done["actions"] == [
        "change bpf_policy_entry edge/router (changed source 10.0.0.0/8)",
        "delete bpf_pool edge/router:p (no longer declared)",
    ]
    settled(box, document)


def test_a_topology_may_declare_what_tasks_have_filled_in_and_no_longer_do(box: Sandbox) -> None:
    converged(box, without_policy())
    task(box, source="10.9.0.0/16", action="drop")
    task(box, "absent", source="10.9.0.0/16")
    document = w.with_router(entries=[{"source": "10.8.0.0/16", "action": "drop"}])
    converged(box, document)
    settled(box, document)
    assert "belongs to topology 'edge'" in task(box, source="10.9.0.0/16", action="drop")["error"]


def test_an_empty_router_remembers_no_namespace(box: Sandbox) -> None:
    """What comes next says where its devices are, or means the host's own; that nothing is left is no difference."""
    converged(box, without_policy())
    w.addressed(box)
    box.sh("ip link add good type veth peer name far; ip link set good up; ip link set far up")
    task(box, netns="server", source=w.VIP, interface="good", next_hop="10.0.1.1")
    assert task(box, "absent", source=w.VIP)["changed"]
    assert not task(box, "absent", source=w.VIP)["changed"]
    assert not task(box, entries=[], exclusive=True)["changed"]
    assert not task(box, netns="server", entries=[], exclusive=True)["changed"]
    assert "error" not in task(box, source=w.VIP, interface="good", validate="off")
    index = box.ip("link show good")[0]["ifindex"]
    assert [row["interface"] for row in info(box)["entries"]] == ["good"]
    told = box.run(
        "bpftool", "-j", "map", "dump", "pinned", "/sys/fs/bpf/cnf/edge/router/maps/nexthops"
    ).stdout
    assert f'"ifindex":{index}' in told.replace(" ", "") and info(box)["netns"] == ""


def test_undo_lets_entries_go_on_counting(box: Sandbox) -> None:
    """An entry of each table; the failed run removed them, and another one got a counter meanwhile."""
    rows = [
        *w.ENTRIES,
        {"source": "10.0.0.0/8", "action": "pass"},
        {"destination": "10.77.0.0/16", "action": "drop"},
        {"protocol": "udp", "destination_port": "5000-5010", "action": "drop"},
    ]
    one = w.with_router(entries=rows)
    converged(box, one)
    w.addressed(box)
    assert w.answers(box, w.VIP) == 3
    box.sh("ip netns exec server bash -c 'for i in 1 2; do echo x >/dev/udp/10.0.0.2/5005; done'")

    def counted() -> t.List[t.Tuple[str, int, int]]:
        """Each entry in words, without its numbers, and these."""
        found = []
        for row in info(box)["entries"]:
            match = [f"{name} {row[name]}" for name in ("source", "destination", "protocol") if row.get(name)]
            found.append((" ".join(match), row["packets"], row["bytes"]))
        return sorted(found)

    before = counted()
    assert [row[:2] for row in before if row[1]] == [
        ("source 0.0.0.0/0 protocol udp", 2),
        (f"source {w.VIP}/32", 3),
    ]
    two = w.with_router(entries=[{"source": "10.1.0.0/16", "action": "pass"}])
    steps = len(converged(box, two, check=True)["actions"])
    answer = box.topology(two, fail_after=steps - 1)
    assert answer["error"].endswith("everything was put back as before"), answer["error"]
    assert counted() == before
    assert w.answers(box, w.VIP) == 3
    assert (f"source {w.VIP}/32", 6) in [row[:2] for row in counted()]
    # What was removed for good counts anew when it comes again.
    converged(box, two)
    converged(box, one)
    assert {row[1:] for row in counted()} == {(0, 0)}


def test_undo_may_leave_more_in_order_than_there_was(box: Sandbox) -> None:
    """A carrier that went has taken the neighbours of the next hops along; undo, which writes the policy anew, puts them back."""
    one = w.with_router()
    converged(box, one)
    w.addressed(box)
    box.sh("ip -n server neigh del 10.0.1.1 dev good")
    assert w.managed(box) == [["fd00:1::1", "good"]]
    two = w.with_router(entries=[{**w.ENTRIES[0], "strict": True}])
    answer = box.topology(two, fail_after=0)
    assert answer["error"].endswith("everything was put back as before"), answer["error"]
    assert w.managed(box) == [["10.0.1.1", "good"], ["fd00:1::1", "good"]]
    settled(box, one)


def test_neighbours_go_with_an_object_whose_entries_tasks_have_made(box: Sandbox) -> None:
    converged(box, without_policy())
    w.addressed(box)
    task(box, netns="server", source=w.VIP, interface="good", next_hop="10.0.1.1")
    assert w.managed(box) == [["10.0.1.1", "good"]]
    document = without_policy()
    for section in ("bpf_object", "tcx_attach"):
        document.pop(section)
    converged(box, document)
    assert w.managed(box) == []


def test_a_router_may_become_another_program(box: Sandbox) -> None:
    converged(box, w.with_router())
    document = w.asymmetric(bpf_object=[{"name": "router", "source": "count.bpf.c"}])
    converged(box, document)
    settled(box, document)
    removed(box)


def test_a_refused_change_is_not_in_the_log(box: Sandbox) -> None:
    """The log is read as the module writes it: lines of a run that was undone are none."""
    converged(box, without_policy())
    w.addressed(box)
    box.sh(
        "cd /etc/sysctl.d && mkdir upper work && "
        "mount -t overlay overlay -o lowerdir=/dev,upperdir=upper,workdir=work /dev && rm -f /dev/log"
    )
    listen = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('/dev/log'); print('ready', flush=True)\n"
        "while True: print(s.recv(9000).decode().strip('\\0'), flush=True)"
    )
    with box.popen(box.python, "-c", listen) as listener:
        assert listener.stdout is not None and listener.stdout.readline() == "ready\n"
        silent = {"netns": "server", "source": "10.3.0.0/16", "interface": "good", "next_hop": "10.0.1.99"}
        assert "does not answer ARP" in task(box, **silent)["error"]
        warned = task(box, **silent, validate="warn")
        assert any("does not answer ARP" in note for note in warned["notes"])
        box.sh("python3 -c \"import syslog; syslog.syslog('the end')\"")
        lines = []
        while "the end" not in (line := listener.stdout.readline()):
            lines.append(line.partition("]: ")[2].strip())
        listener.kill()
    box.sh("umount -l /dev; rm -rf /etc/sysctl.d/upper /etc/sysctl.d/work")
    assert [line.partition(" changed ")[2] for line in lines] == [
        "none -> source 10.3.0.0/16: next_hops 10.0.1.99%good"
    ]


def test_absent_with_a_file_that_did_not_come_along_removes_nothing(box: Sandbox) -> None:
    converged(box, without_policy())
    task(box, action="drop")
    assert "its content did not come along" in task(box, "absent", file="old.csv")["error"]
    assert info(box)["count"] == 2
