# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as people meet them: tasks of plays that ansible-playbook runs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from sandbox import Sandbox
from steps import assert_same

from playbooks import Ansible, changed_lines, recap

NIC = """
ip link add nic0 type veth peer name far0
ip link set nic0 up; ip link set far0 up
ip address add 192.0.2.1/24 dev nic0
ip address add 2001:db8::1/64 dev nic0 nodad
"""

# One task of each module; none needs what another makes, so that check mode can foretell them all.
TASKS: t.List[t.Tuple[str, t.Dict[str, t.Any]]] = [
    ("netns", {"name": "red"}),
    (
        "netkit_link",
        {
            "name": "nk0",
            "fallback": "veth",
            "addresses": ["10.0.0.1/24"],
            "peer": {"name": "nk1", "mtu": 1400},
        },
    ),
    ("link", {"name": "br0", "kind": "bridge", "ports": ["far0"]}),
    (
        "address",
        {"entries": [{"dev": "nic0", "address": "10.1.0.1/24"}, {"dev": "nic0", "address": "FD01:0::1/64"}]},
    ),
    (
        "route",
        {
            "entries": [
                {"destination": "default", "via": "192.0.2.9"},
                {"destination": "::/0", "via": "2001:db8::9"},
            ]
        },
    ),
    ("rule", {"priority": 9, "source": "10.1.0.0/16", "table": 9}),
    ("neighbor", {"dev": "nic0", "address": "192.0.2.9", "mac": "02-00-00-00-00-09"}),
    ("sysctl_forwarding", {"interface": "nic0", "ipv4": True, "rp_filter": "loose"}),
]
# What removal needs to know: the identity.
NAMES = {
    "netkit_link": {"name": "nk0"},
    "link": {"name": "br0"},
    "rule": TASKS[5][1],
    "neighbor": {"dev": "nic0", "address": "192.0.2.9"},
    "sysctl_forwarding": {"interface": "nic0"},
}
DIFF_LINES = [
    "+netns red: lo_up=true",
    "+link nk0: kind=veth up=true peer.name=nk1 peer.up=true peer.mtu=1400",
    "+link br0: kind=bridge up=true",
    "+port far0: master=br0",
    "+address nk0 10.0.0.1/24",
    "+address nic0 10.1.0.1/24",
    "+address nic0 fd01::1",
    "+route 0.0.0.0/0 table main metric 0",
    "+route ::/0 table main metric 1024",
    "+rule inet 9 from 10.1.0.0/16 lookup 9",
    "+neighbor nic0 192.0.2.9",
    "-sysctl net/ipv4/conf/nic0/forwarding: value=0",
    "+sysctl net/ipv4/conf/nic0/forwarding: value=1",
    "-sysctl net/ipv4/conf/nic0/rp_filter: value=0",
    "+sysctl net/ipv4/conf/nic0/rp_filter: value=2",
]


@pytest.fixture
def ansible(box: Sandbox, tmp_path: Path) -> Ansible:
    return Ansible(box, tmp_path)


def test_each_module_as_a_task(box: Sandbox, ansible: Ansible) -> None:
    box.sh(NIC)
    before = box.state()
    tasks = [{f"cnf.ebpf.{module}": arguments} for module, arguments in TASKS]
    defaults = {"module_defaults": {"group/cnf.ebpf.ebpf": {"state_dir": "/var/lib/cnf-ebpf/elsewhere"}}}

    foretold = ansible.run(tasks, "--check", "--diff", **defaults)
    counts = recap(foretold)["localhost"]
    assert (counts["ok"], counts["changed"], counts["failed"]) == (8, 8, 0)
    for line in DIFF_LINES:
        assert re.search(f"^{re.escape(line)}", foretold, re.MULTILINE), (line, foretold)
    assert_same(box.state(), before)
    assert box.sh("ls -A /var/lib/cnf-ebpf") == ""

    done = ansible.run([*tasks, *tasks], "--diff", **defaults)
    counts = recap(done)["localhost"]
    assert (counts["ok"], counts["changed"], counts["failed"]) == (
        16,
        8,
        0,
    )  # the second time there is nothing to do
    assert changed_lines(foretold) == changed_lines(done)
    assert box.sh("ls -A /var/lib/cnf-ebpf; ls -A /var/lib/cnf-ebpf/elsewhere").split() == [
        "elsewhere",
        "lock",
        "tasks",
    ]

    gone = [
        {f"cnf.ebpf.{module}": {**NAMES.get(module, arguments), "state": "absent"}}
        for module, arguments in reversed(TASKS)
    ]
    counts = recap(ansible.run(gone, **defaults))["localhost"]
    assert (counts["ok"], counts["changed"], counts["failed"]) == (8, 8, 0)
    assert_same(box.state(), before)


def test_namespaces_are_read_with_all_that_is_in_them(box: Sandbox, ansible: Ansible) -> None:
    box.sh("ip netns add foreign; ip -n foreign link set lo up")
    tasks: t.List[t.Dict[str, t.Any]] = [
        {
            "cnf.ebpf.topology": {
                "name": "edge",
                "netns": [{"name": "red"}],
                "link": [
                    {
                        "name": "v0",
                        "kind": "veth",
                        "peer": {
                            "name": "v1",
                            "netns": "red",
                            "mtu": 1400,
                            "mac": "02:00:00:00:00:01",
                            "addresses": ["10.0.0.2/24", "fd00::2/64"],
                        },
                    }
                ],
                "route": [{"netns": "red", "destination": "default", "via": "10.0.0.1"}],
            }
        },
        {"cnf.ebpf.netns_info": {}, "register": "found"},
        {"cnf.ebpf.netns_info": {"name": "red"}, "register": "red"},
        {"cnf.ebpf.netns_info": {"name": "re"}, "register": "like"},
        {
            "ansible.builtin.copy": {
                "content": "{{ [found, red, like] | map(attribute='namespaces') | to_json }}",
                "dest": str(ansible.directory / "found.json"),
            }
        },
    ]
    assert recap(ansible.run(tasks))["localhost"]["failed"] == 0
    both, red, none = json.loads((ansible.directory / "found.json").read_text())
    assert ([space["name"] for space in both], none) == (["foreign", "red"], [])
    assert both[1]["name"] == red[0]["name"]
    foreign = both[0]
    assert (foreign["lo_up"], foreign["topology"]) == (True, None)
    assert foreign["state"] == {"sysctl_forwarding": [{"netns": "foreign", "ipv4": False, "ipv6": False}]}
    assert (red[0]["lo_up"], red[0]["topology"]) == (True, "edge")
    (found,) = [one for one in red[0]["links"] if one["name"] == "v1"]
    addresses = found.pop("addresses")
    assert addresses[:1] == ["10.0.0.2/24"] and "fd00::2/64" in addresses
    assert {key: found[key] for key in ("kind", "topology", "up", "mtu", "mac", "master", "peer")} == {
        "kind": "veth",
        "topology": "edge",
        "up": True,
        "mtu": 1400,
        "mac": "02:00:00:00:00:01",
        "master": "",
        "peer": {"name": "v0", "netns": ""},
    }
    state = red[0]["state"]
    assert [row["destination"] for row in state["route"]] == ["0.0.0.0/0"]
    assert "netns" not in state


def wrapper(path: Path, *words: str) -> str:
    """An interpreter that is another program with these words before the arguments."""
    path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_what_a_target_lacks_is_one_clear_line(box: Sandbox, ansible: Ansible, tmp_path: Path) -> None:
    before = box.state()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    old = tmp_path / "old"
    (old / "pyroute2").mkdir(parents=True)
    (old / "pyroute2" / "__init__.py").touch()
    (old / "pyroute2-0.5.0.dist-info").mkdir()
    # May read what root may, because the interpreter can lie below a home directory.
    reader = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    nobody = wrapper(
        tmp_path / "nobody",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        *reader,
        sys.executable,
    )
    powerless = wrapper(
        tmp_path / "powerless",
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        sys.executable,
    )
    box.sh("touch /var/lib/cnf-ebpf/lock")
    targets: t.Dict[str, t.Dict[str, t.Any]] = {
        "missing": {"vars": {"ansible_python_interpreter": str(tmp_path / "bare" / "bin" / "python")}},
        "old": {"environment": {"PYTHONPATH": str(old)}},
        "nobody": {"vars": {"ansible_python_interpreter": nobody, "ansible_remote_tmp": "/tmp"}},
        "powerless": {"vars": {"ansible_python_interpreter": powerless}},
        "locked": {"module_defaults": {"cnf.ebpf.netns": {"lock_timeout": 0}}},
    }
    tasks: t.List[t.Dict[str, t.Any]] = [
        {"cnf.ebpf.netns": {"name": "red"}, "register": name, "ignore_errors": True, **keywords}
        for name, keywords in targets.items()
    ]
    answers = tmp_path / "answers.json"
    content = "{{ {" + ", ".join(f"'{name}': {name}" for name in targets) + "} | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": content, "dest": str(answers)}})
    path = f"/proc/{box.process.pid}/root/var/lib/cnf-ebpf/lock"
    with open(path, "r+", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        # Not with -e: it would outrank the tasks' interpreters.
        ansible.run(tasks, vars={"interpreter": "", "ansible_python_interpreter": sys.executable})
    lines = {name: answer["msg"] for name, answer in json.loads(answers.read_text(encoding="utf-8")).items()}
    expected = {
        "missing": r"^Failed to import the required Python library \(pyroute2\) on .*apt install python3-pyroute2",
        "old": r"^pyroute2 0\.5\.0 is too old: 0\.7\.2 or newer is needed \(apt install python3-pyroute2\)$",
        "nobody": r"^permission missing: CAP_NET_ADMIN and CAP_SYS_ADMIN; run as root \(become: true\)$",
        "powerless": r"^permission missing: CAP_NET_ADMIN; run as root \(become: true\)$",
        "locked": rf"^/var/lib/cnf-ebpf/lock: process {os.getpid()} has been converging .*lock_timeout; nothing was changed$",
    }
    for name, pattern in expected.items():
        assert re.match(pattern, lines[name]), (name, lines[name])
        assert "\n" not in lines[name]
    assert_same(box.state(), before)
    assert box.sh("ls -A /var/lib/cnf-ebpf").split() == ["lock"]


def test_of_two_runs_at_once_one_waits_and_finds_the_work_done(box: Sandbox, ansible: Ansible) -> None:
    document = {
        "name": "edge",
        "netns": [{"name": f"ns{n}"} for n in range(20)],
        "link": [
            {
                "name": f"v{n}",
                "kind": "veth",
                "peer": {"name": "eth0", "netns": f"ns{n}", "addresses": [f"10.0.{n}.2/24"]},
            }
            for n in range(20)
        ],
    }
    counts = recap(ansible.run([{"cnf.ebpf.topology": document}], hosts="one,two"))
    assert [counts[host]["failed"] for host in ("one", "two")] == [0, 0]
    assert sorted(counts[host]["changed"] for host in ("one", "two")) == [0, 1]
    assert len(box.namespaces()) == 20
    assert "error" not in box.topology({}, state="absent")


def test_a_terminated_run_puts_everything_back(box: Sandbox, ansible: Ansible) -> None:
    box.sh(NIC)
    before = box.state()
    document = {
        "name": "edge",
        "netns": [{"name": "red"}],
        "link": [
            {
                "name": "v0",
                "kind": "veth",
                "peer": {"name": "eth0", "netns": "red", "addresses": ["10.0.0.2/24"]},
            }
        ],
        "address": [{"dev": "nic0", "address": "10.1.0.1/24"}],
        "sysctl_forwarding": [{"ipv4": True, "persist": True}],
        # Enough to be at work on when the signal comes: routes are made after the switch that is watched.
        "route": [
            {"destination": f"10.64.{number >> 8}.{number & 255}/32", "type": "blackhole"}
            for number in range(6000)
        ],
    }
    process = ansible.start([{"cnf.ebpf.topology": document}])
    while process.poll() is None and box.sysctls()["ipv4/conf/all/forwarding"] == "0":
        pass
    holder = int(box.sh("cat /var/lib/cnf-ebpf/lock"))
    os.kill(holder, 15)
    text, _none = process.communicate(timeout=30)
    assert process.returncode == 2, text
    assert "interrupted by SIGTERM; everything was put back as before" in re.sub(r"\s+", " ", text), text
    assert_same(box.state(), before)
    assert box.sh("ls -A /var/lib/cnf-ebpf").split() == ["lock"]
