# SPDX-License-Identifier: GPL-3.0-or-later
"""The same play however Ansible carries tasks to a host, and whatever Python and pyroute2 the host has."""

from __future__ import annotations

import importlib.util
import subprocess
import typing as t
from pathlib import Path

import pytest
from bpf_steps import nothing_new
from sandbox import Sandbox
from steps import assert_same, store_files

from playbooks import Ansible, changed_lines, recap

ROOT = Path(__file__).resolve().parents[2]
PRINT_VERSIONS = (
    "import sys, importlib.metadata as m; print('%d.%d' % sys.version_info[:2], m.version('pyroute2'))"
)


def mitogen() -> t.Dict[str, str]:
    found = importlib.util.find_spec("ansible_mitogen")
    assert found is not None and found.submodule_search_locations
    plugins = Path(next(iter(found.submodule_search_locations))) / "plugins" / "strategy"
    return {"ANSIBLE_STRATEGY_PLUGINS": str(plugins), "ANSIBLE_STRATEGY": "mitogen_linear"}


WAYS = {
    "pipelining": {"ANSIBLE_PIPELINING": "true"},
    "files": {"ANSIBLE_PIPELINING": "false", "ANSIBLE_KEEP_REMOTE_FILES": "false"},
    "mitogen": mitogen(),
    "facts not injected": {"ANSIBLE_INJECT_FACT_VARS": "false"},
}
# Python and pyroute2 of: the oldest Python that modules run on, Debian 12, Debian 13, and who has the newest of both.
HOSTS = [("3.9", "0.7.2"), ("3.11", "0.7.2"), ("3.13", "0.7.7"), ("3.14", "newest")]
# One of everything that travels in its own way: plain options, a source with headers, a file of entries, a module of its own.
TASKS: t.List[t.Dict[str, t.Any]] = [
    {
        "cnf.ebpf.topology": {
            "name": "edge",
            "netns": [{"name": "a"}],
            "link": [
                {
                    "name": "v0",
                    "kind": "veth",
                    "addresses": ["10.0.0.1/24"],
                    "peer": {"name": "v1", "netns": "a"},
                }
            ],
            "bpf_object": [{"name": "router", "source": "policy_router.bpf.c"}],
            "tcx_attach": [{"object": "router", "program": "policy_router", "link": "v0", "hook": "egress"}],
            "bpf_policy_entry": [{"object": "router", "file": "entries.csv"}],
        }
    },
    {"cnf.ebpf.netns": {"name": "b"}},
]
QUESTION = {"source": "10.1.2.3", "destination": "192.0.2.1", "expect": {"outcome": "drop"}}


def python_of_host(version: str, pyroute2: str) -> str:
    """An interpreter that has nothing but that pyroute2; made on demand."""
    script = 'source tests/tools/lib.sh; target_venv "$@"'
    made = subprocess.run(
        ["bash", "-c", script, "bash", version, pyroute2],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode == 1 and not made.stderr:
        pytest.skip(f"Python {version} is not on this machine: make pythons")
    assert made.returncode == 0, made.stderr
    return f"{made.stdout.strip()}/bin/python"


@pytest.mark.parametrize("way", WAYS)
def test_a_play_does_the_same(box: Sandbox, ansible: Ansible, way: str) -> None:
    ansible.environment.update(WAYS[way])
    converge_and_undo(box, ansible)


@pytest.mark.parametrize(("version", "pyroute2"), HOSTS, ids=lambda part: part)
def test_a_host_with_its_own_python_and_pyroute2(
    box: Sandbox, ansible: Ansible, version: str, pyroute2: str
) -> None:
    ansible.interpreter = python_of_host(version, pyroute2)
    told = box.run(ansible.interpreter, "-c", PRINT_VERSIONS).stdout.split()
    assert told[0] == version
    assert pyroute2 in ("newest", told[1])
    converge_and_undo(box, ansible)


def test_a_host_where_the_user_becomes_root(box: Sandbox, ansible: Ansible) -> None:
    """By su, which needs no password of root's; over SSH and with sudo it is the fleet's second run."""
    converge_and_undo(box, ansible, "--become", "--become-method", "su")


def converge_and_undo(box: Sandbox, ansible: Ansible, *options: str) -> None:
    """Check and apply, twice, ask and undo; by the end nothing may be left."""
    (ansible.directory / "entries.csv").write_text("source,action\n10.0.0.0/8,drop\n")
    before, bpf = box.state(), box.bpf()
    checked = ansible.run(TASKS, "--check", "--diff", *options)
    assert_same(box.state(), before)
    done = ansible.run(TASKS, "--diff", *options)
    assert recap(checked)["localhost"]["changed"] == recap(done)["localhost"]["changed"] == 2
    assert changed_lines(checked) == changed_lines(done)
    assert recap(ansible.run(TASKS, *options))["localhost"]["changed"] == 0
    ask = {"cnf.ebpf.bpf_policy_test": {"topology": "edge", "object": "router", "packets": [QUESTION]}}
    read = {"cnf.ebpf.topology_info": {"name": "edge"}, "register": "found"}
    in_sync = {"ansible.builtin.assert": {"that": "found.topologies[0].in_sync"}}
    assert recap(ansible.run([ask, read, in_sync], *options))["localhost"]["changed"] == 0
    gone = [
        {"cnf.ebpf.topology": {"name": "edge", "state": "absent"}},
        {"cnf.ebpf.netns": {"name": "b", "state": "absent"}},
    ]
    assert recap(ansible.run(gone, *options))["localhost"]["changed"] == 2
    assert_same(box.state(), before)
    assert store_files(box) == []
    nothing_new(box, bpf)
