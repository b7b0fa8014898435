# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies through ansible-playbook: files, the four steps, the what-if as a gate, and the log of who changed what."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import policy_world as w
import pytest
from policy_cases import hits, info
from sandbox import Sandbox
from steps import converged

from playbooks import Ansible, changed_lines, recap

ROUTER = {"topology": "edge", "object": "router"}
CSV = "source,interface,next_hop,comment\n192.168.100.5,good,10.0.1.1,the web\nfd64::5,good,fd00:1::1,\n"


@pytest.fixture
def ansible(box: Sandbox, tmp_path: Path) -> Ansible:
    """A playbook's directory, and a host with a router that has no policy."""
    base = w.with_router()
    base.pop("bpf_policy_entry")
    converged(box, base)
    w.addressed(box)
    return Ansible(box, tmp_path)


def entries(**more: t.Any) -> t.Dict[str, t.Any]:
    return {"name": "Set", "cnf.ebpf.bpf_policy_entry": {**ROUTER, "netns": "server", **more}}


def test_a_file_in_four_steps(box: Sandbox, ansible: Ansible, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "customers.csv").write_text(CSV)
    task = entries(file="customers.csv", exclusive=True)
    predicted = ansible.run([task], "--check", "--diff")
    assert recap(predicted)["localhost"]["changed"] == 1
    assert info(box)["count"] == 0
    done = ansible.run([task], "--diff")
    assert (
        changed_lines(predicted)
        == changed_lines(done)
        == [
            "+policy edge/router: source 192.168.100.5/32: next_hops 10.0.1.1%good # the web",
            "+policy edge/router: source fd64::5/128: next_hops fd00:1::1%good",
        ]
    )
    for options in ((), ("--check",)):
        assert recap(ansible.run([task], *options))["localhost"]["changed"] == 0
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (3, 3)
    (tmp_path / "files" / "customers.csv").write_text(CSV.replace("the web", "the mail"))
    assert changed_lines(ansible.run([task], "--diff")) == [
        "-policy edge/router: source 192.168.100.5/32: next_hops 10.0.1.1%good # the web",
        "+policy edge/router: source 192.168.100.5/32: next_hops 10.0.1.1%good # the mail",
    ]
    drift = [
        {"cnf.ebpf.bpf_policy_info": {**ROUTER, "file": "customers.csv"}, "register": "found"},
        {
            "ansible.builtin.assert": {
                "that": ["found.in_sync", "found.drift.missing == []", "found.count == 2"]
            }
        },
    ]
    ansible.run(drift)
    assert recap(ansible.run([entries(entries=[], exclusive=True)]))["localhost"]["changed"] == 1
    assert info(box)["count"] == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "nowhere.csv",
            None,
            "file: nowhere.csv is not among the files of the role or the playbook",
        ),
        (
            "x.csv",
            "source,action\n10.0.0.1/8,drop\n",
            "file: x.csv line 2.source: 10.0.0.1/8 has host bits",
        ),
    ],
)
def test_a_wrong_file_is_found_on_the_controller(
    box: Sandbox, ansible: Ansible, tmp_path: Path, name: str, text: t.Optional[str], message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    process = ansible.start([entries(file=name)])
    said, _none = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in said
    assert info(box)["count"] == 0


def test_entries_come_and_go_and_the_what_if_is_a_gate(box: Sandbox, ansible: Ansible) -> None:
    packets = [
        {"source": w.VIP, "destination": "10.0.2.2", "expect": {"outcome": "redirect", "interface": "good"}}
    ]
    gate = {"cnf.ebpf.bpf_policy_test": {**ROUTER, "packets": packets}}
    process = ansible.start([gate])
    said, _none = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "packets[0] (192.168.100.5 -> 10.0.2.2 icmp): expected outcome redirect, got no_match" in said
    rows = [
        {"source": w.VIP, "interface": "good", "next_hop": "10.0.1.1"},
        {"protocol": "tcp", "destination_port": "8000-8099", "action": "drop", "family": "ipv4"},
        {"source": "10.9.0.0/16", "action": "exempt"},
    ]
    done = ansible.run([entries(entries=rows), gate, entries(entries=rows)])
    assert (recap(done)["localhost"]["ok"], recap(done)["localhost"]["changed"]) == (3, 1)
    gone = ansible.run(
        [entries(entries=[{"protocol": "tcp", "destination_port": "8000-8099"}], state="absent")], "--diff"
    )
    assert changed_lines(gone) == [
        "-policy edge/router: source 0.0.0.0/0 protocol tcp destination_port 8000-8099: drop"
    ]
    before = hits(box)
    ansible.run([gate])
    assert hits(box) == before
    assert info(box)["count"] == 2


def test_who_changed_which_entry_from_what_to_what(box: Sandbox, ansible: Ansible) -> None:
    """The log goes to /dev/log; the sandbox gets one of its own, on top of the machine's /dev."""
    box.sh(
        "cd /etc/sysctl.d && mkdir upper work && "
        "mount -t overlay overlay -o lowerdir=/dev,upperdir=upper,workdir=work /dev && rm -f /dev/log"
    )
    listen = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('/dev/log'); print('ready', flush=True)\n"
        "while True: print(s.recv(9000).decode().strip('\\0'), flush=True)"
    )
    listener = box.popen(box.python, "-c", listen)
    assert listener.stdout is not None and listener.stdout.readline() == "ready\n"
    rows = [{"source": "10.9.0.0/16", "action": "drop"}]
    ansible.run([entries(entries=rows)])
    ansible.run([entries(entries=[{**rows[0], "action": "pass"}])])
    ansible.run([entries(entries=[{"source": "10.8.0.0/16", "action": "drop"}], audit=False)])
    ansible.run([entries(source="10.9.0.0/16", state="absent")])
    ansible.run([entries(source="10.9.0.0/16", state="absent")])
    box.sh("python3 -c \"import syslog; syslog.syslog('the end')\"")
    lines = []
    while "the end" not in (line := listener.stdout.readline()):
        if " cnf-ebpf[" in line:
            lines.append(line.partition("]: ")[2].strip())
    listener.kill()
    listener.communicate()
    box.sh("umount -l /dev; rm -rf /etc/sysctl.d/upper /etc/sysctl.d/work")
    user = lines[0].split()[2]
    assert lines == [
        f"policy edge/router: {user} changed none -> source 10.9.0.0/16: drop",
        f"policy edge/router: {user} changed source 10.9.0.0/16: drop -> source 10.9.0.0/16: pass",
        f"policy edge/router: {user} changed source 10.9.0.0/16: pass -> none",
    ]


def test_a_file_in_a_topology_and_what_a_generation_remembers(
    box: Sandbox, ansible: Ansible, tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text(CSV)
    document = {"name": "edge", **w.with_router(entries=[])}
    document["bpf_policy_entry"] = [{"object": "router", "netns": "server", "file": str(tmp_path / "p.csv")}]
    ansible.run([{"cnf.ebpf.topology": document}])
    done = ansible.run(
        [
            {"cnf.ebpf.topology": document},
            {"cnf.ebpf.topology_info": {"name": "edge"}, "register": "found"},
            {"ansible.builtin.assert": {"that": ["found.topologies[0].in_sync"]}},
        ]
    )
    assert recap(done)["localhost"]["changed"] == 0
    assert info(box)["count"] == 2
    stored = box.sh("cd /var/lib/cnf-ebpf/edge/generations; cat $(ls | tail -1)")
    assert json.loads(stored)["document"]["bpf_policy_entry"][0]["content"]
