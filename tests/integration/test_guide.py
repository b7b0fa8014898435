# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guide on policy routing shows does what it says: its playbook, on the hosts that it draws."""

from __future__ import annotations

import re
import textwrap
import typing as t
from pathlib import Path

import policy_world as w
import yaml
from sandbox import Sandbox
from steps import converged

from playbooks import Ansible, recap

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "docsite" / "rst" / "guide_policy_routing.rst"


def blocks() -> t.List[t.Any]:
    """The guide's YAML."""
    found = re.findall(r"\.\. code-block:: yaml\n\n((?:   .*\n|\n)+)", GUIDE.read_text())
    return [yaml.safe_load(textwrap.dedent(text)) for text in found]


def world() -> t.Dict[str, t.Any]:
    """The drawn hosts: the server is the host itself, its neighbours are namespaces."""
    document = w.asymmetric()
    document["netns"] = [row for row in document["netns"] if row["name"] != "server"]
    for section in ("link", "address", "route"):
        for row in document[section]:
            if row.get("netns") == "server":
                del row["netns"]
    document["sysctl_forwarding"] = [
        row for row in document["sysctl_forwarding"] if row.get("netns") != "server"
    ]
    return document


def test_the_playbook_of_the_asymmetric_case(box: Sandbox, tmp_path: Path) -> None:
    converged(box, {"name": "world", **world()})
    w.addressed(box)
    assert w.answers(box, w.VIP) == 0
    (play,) = blocks()[0]
    ansible = Ansible(box, tmp_path)
    assert recap(ansible.run(play["tasks"]))["localhost"]["changed"] == 1
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (3, 3)
    assert recap(ansible.run(play["tasks"]))["localhost"]["changed"] == 0
    task = {"cnf.ebpf.topology": {"name": "vip", "state": "absent"}}
    ansible.run([task])
    assert w.answers(box, w.VIP) == 0


def test_all_other_tasks_are_understood(box: Sandbox, tmp_path: Path) -> None:
    """Options that do not exist would be refused before anything is looked up."""
    tasks = [task for block in blocks()[1:] for task in block]
    assert len(tasks) == 2
    (tmp_path / "customers.csv").write_text(
        "source,interface,next_hop,comment\n10.1.0.0/16,isp1,198.51.100.1,north\n"
    )
    for task, message in zip(
        tasks, ("link fw0 is neither declared nor present", "bpf_object tasks/router is neither declared")
    ):
        process = Ansible(box, tmp_path).start([task], "--check")
        said, _none = process.communicate(timeout=60)
        assert message in said, said
