# SPDX-License-Identifier: GPL-3.0-or-later
"""The report on a fleet, read from a real host, and as a browser shows it with few hosts and with many."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import browser
import policy_world as w
import pytest
from sandbox import Sandbox
from steps import converged

from playbooks import Ansible

ROOT = Path(__file__).resolve().parents[2]
needs_browser = pytest.mark.skipif(not browser.CHROMIUM, reason="chromium is not installed")


@pytest.fixture
def world(box: Sandbox) -> None:
    """A host with a router whose policy was hit three times, a stranger's device, and a topology that has drifted."""
    converged(box, w.with_router())
    w.addressed(box)
    assert w.answers(box, w.VIP) == 3
    lan = {
        "name": "lan",
        "netns": [{"name": "pod"}],
        "link": [
            {
                "name": "l0",
                "kind": "veth",
                "mtu": 1400,
                "addresses": ["10.7.0.1/24"],
                "peer": {"name": "eth0", "netns": "pod"},
            }
        ],
    }
    answer = box.topology(lan)
    assert "error" not in answer, answer
    box.sh("ip link set l0 mtu 1300; ip addr del 10.7.0.1/24 dev l0; ip link add stranger0 type bridge")


def reported(ansible: Ansible, *options: str, hosts: t.Sequence[str] = ("web1",)) -> t.Tuple[Path, str]:
    inventory = {
        "all": {
            "hosts": {
                **{name: {} for name in hosts},
                "gone1": {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "ansible_ssh_timeout": 1},
            }
        }
    }
    done = ansible.playbook("report", inventory, *options)
    assert done.returncode == 0, done.stdout
    return ansible.directory / "report.html", done.stdout


def test_it_tells_what_is_in_sync_what_drifted_and_what_could_not_be_read(
    box: Sandbox, ansible: Ansible, world: None
) -> None:
    before = box.state()
    page, _said = reported(ansible)
    assert box.state() == before
    assert page.stat().st_mode & 0o777 == 0o600
    told = page.read_text("utf-8")
    assert "<b>1</b>drifted" in told and "<b>1</b>not read" in told and "<b>0</b>in sync" in told
    # The drift of lan, as actions and in the drawing; what is not ours in grey.
    assert "create address l0 10.7.0.1/24" in told
    assert "veth mtu 1300 → 1400 up" in told
    assert ">+ 10.7.0.1/24<" in told
    assert ">stranger0<" in told
    assert re.findall(r">([+~-] [^<]*)</text>", told) == ["~ l0", "+ 10.7.0.1/24"]
    assert "edge&nbsp;#1" in told and "lan&nbsp;#1" in told and "2 to do" in told
    # The policy with its counters: three answers were led back.
    assert "<td>from 192.168.100.5/32</td><td>via 10.0.1.1 dev good</td>" in told
    row = told[told.index("from 192.168.100.5/32</td>") :].split("</tr>")[0]
    assert '<td class="number">3</td>' in row
    assert "connect to host 192.0.2.1 port 22" in told
    # A router that cannot be read takes nothing along: the drift and the drawing of its host stay.
    box.sh("rm /sys/fs/bpf/cnf/edge/router/maps/counters")
    page, _said = reported(ansible)
    told = page.read_text("utf-8")
    assert "<b>1</b>drifted" in told and "<b>1</b>not read" in told
    assert ">router not read<" in told and ">stranger0<" in told
    assert re.search("<h3>Policy of edge router</h3>\n<p>not read: [^<]*counters", told)


def test_a_host_that_is_lost_while_it_is_read_is_told_as_not_read(
    box: Sandbox, ansible: Ansible, world: None
) -> None:
    """After its topologies, or after its programs: half of a host would look like drift."""
    box.sh("ip netns attach here $$")
    common = {
        "ansible_connection": "cnf.ebpf.netns",
        "ansible_netns_transport": "local",
        "ansible_netns_keep_sys": True,
    }
    lost = {
        "after-topologies": "cnf_report_found | default({})",
        "after-programs": "cnf_report_bpf | default({})",
    }
    hosts = {
        name: {**common, "ansible_netns": "{{ 'away' if " + when + " else 'here' }}"}
        for name, when in lost.items()
    }
    done = ansible.playbook("report", {"all": {"hosts": {"web1": {}, **hosts}}})
    assert done.returncode == 0, done.stdout
    told = (ansible.directory / "report.html").read_text("utf-8")
    assert "<b>1</b>drifted" in told and "<b>2</b>not read" in told
    assert (
        told.count("network namespace away does not exist on the machine") == 4
    )  # in the table, and with each host


def test_graphviz_takes_what_is_drawn_for_it(box: Sandbox, ansible: Ansible, world: None) -> None:
    if not shutil.which("dot"):
        pytest.skip("graphviz is not installed")
    ansible.run(
        [
            {"cnf.ebpf.topology_info": {}, "register": "found"},
            {"cnf.ebpf.bpf_info": {}, "register": "bpf"},
            {
                "ansible.builtin.copy": {
                    "content": "{{ found.topologies | cnf.ebpf.to_graphviz(host=found.host, programs=bpf.devices) }}",
                    "dest": str(ansible.directory / "host.dot"),
                    "mode": "0600",
                }
            },
        ]
    )
    done = subprocess.run(
        ["dot", "-Tplain", str(ansible.directory / "host.dot")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    # edge and lan have three pairs and one.
    assert [line.split()[0] for line in done.stdout.splitlines()].count("edge") == 4


def test_what_cannot_be_drawn_is_said_in_one_line(box: Sandbox, ansible: Ansible) -> None:
    process = ansible.start([{"ansible.builtin.debug": {"msg": "{{ {'name': 'x'} | cnf.ebpf.to_svg }}"}}])
    text, _none = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        "this cannot be drawn: there is nothing to draw: a topology has sections such as netns, link and route"
        in text
    )


@needs_browser
def test_in_a_browser_three_hosts_are_shown_with_their_drawings(
    box: Sandbox, ansible: Ansible, world: None
) -> None:
    page, _said = reported(ansible, hosts=("web1", "web2"))
    seen = browser.looked_at(page)
    assert seen["outside"] == []
    assert (seen["rows"], seen["open"], seen["drawings"], seen["fetched"]) == (3, 3, 2, 0)
    assert seen["wider"] <= 0
    assert seen["smallest"] > 0.6  # still to be read


@needs_browser
def test_in_a_browser_a_hundred_hosts_are_an_overview(box: Sandbox, ansible: Ansible, world: None) -> None:
    """The page of one real host's answers, given to a hundred names: to ask a hundred hosts is not what is tried here."""
    answers: t.Dict[str, t.Any] = {"cnf_report_problem": ""}
    for variable, module in (("cnf_report_found", "topology_info"), ("cnf_report_bpf", "bpf_info")):
        path = ansible.directory / f"{variable}.json"
        ansible.run(
            [
                {f"cnf.ebpf.{module}": {}, "register": "found"},
                {
                    "ansible.builtin.copy": {
                        "content": "{{ found | to_json }}",
                        "dest": str(path),
                        "mode": "0600",
                    }
                },
            ]
        )
        answers[variable] = json.loads(path.read_text())
    in_sync = json.loads(json.dumps(answers))
    topologies = in_sync["cnf_report_found"]["topologies"]
    in_sync["cnf_report_found"]["topologies"] = [one for one in topologies if one["in_sync"]]
    hosts = {f"host{number:03}": answers if number % 50 == 7 else in_sync for number in range(100)}
    (ansible.directory / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    play = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.template": {
                    "src": str(ROOT / "playbooks/templates/report.html.j2"),
                    "dest": str(ansible.directory / "report.html"),
                    "mode": "0600",
                },
                "run_once": True,
            }
        ],
    }
    (ansible.directory / "play.yml").write_text(json.dumps([play]))
    places = [str(ansible.directory / name) for name in ("inventory.json", "play.yml")]
    words = ["ansible-playbook", "-c", "local", "-i", *places]
    done = subprocess.run(
        box.command(*words),
        env=ansible.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = ansible.directory / "report.html"
    seen = browser.looked_at(page)
    # All in the table, and only those that ask for attention opened.
    assert (seen["rows"], seen["open"], seen["drawings"], seen["all"]) == (100, 2, 2, 100)
    assert (seen["outside"], seen["fetched"]) == ([], 0)
    assert seen["wider"] <= 0
    assert page.stat().st_size < 5_000_000
