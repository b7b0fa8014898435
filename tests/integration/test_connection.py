# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection plugin netns: modules that know nothing of namespaces, in a namespace."""

from __future__ import annotations

import typing as t

import pytest
from sandbox import Sandbox

from playbooks import Ansible

BLUE = {"ansible_connection": "cnf.ebpf.netns", "ansible_netns": "blue", "ansible_netns_transport": "local"}


@pytest.fixture(autouse=True)
def namespace(box: Sandbox) -> None:
    box.sh("ip netns add blue; ip -n blue link set lo up; ip -n blue link add d0 type veth peer name d1")


def addresses(box: Sandbox) -> t.List[str]:
    return [
        row["local"]
        for link in box.ip("address show dev d0", "blue")
        for row in link["addr_info"]
        if not row["local"].startswith("fe80")
    ]


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("become", [True, False])
def test_a_task_runs_in_the_namespace(box: Sandbox, ansible: Ansible, pipelining: bool, become: bool) -> None:
    ansible.environment["ANSIBLE_PIPELINING"] = str(pipelining)
    said = ansible.run(
        [
            {"ansible.builtin.command": "ip address add 10.1.2.3/24 dev d0"},
            {"ansible.builtin.shell": "ls /sys/class/net", "register": "devices"},
            {"ansible.builtin.assert": {"that": ["devices.stdout_lines | sort == ['d0', 'd1', 'lo']"]}},
            {"ansible.builtin.copy": {"content": "x", "dest": str(ansible.directory / "made")}},
        ],
        vars=BLUE,
        **({"become": True, "become_method": "ansible.builtin.su"} if become else {}),
    )
    assert addresses(box) == ["10.1.2.3"], said
    assert box.sh("ip address show to 10.1.2.3") == ""
    assert (ansible.directory / "made").read_text() == "x"


def test_facts_are_those_of_the_namespace(box: Sandbox, ansible: Ansible) -> None:
    box.sh("ip -n blue address add 10.9.9.9/24 dev d0; ip -n blue link set d0 up")
    ansible.run(
        [
            {"ansible.builtin.setup": {"gather_subset": ["!all", "network"]}},
            {"ansible.builtin.assert": {"that": ["ansible_facts.interfaces | sort == ['d0', 'd1', 'lo']"]}},
            {"ansible.builtin.assert": {"that": ["ansible_facts.d0.ipv4.address == '10.9.9.9'"]}},
        ],
        vars=BLUE,
    )


def test_pins_are_seen_where_sys_is_kept(box: Sandbox, ansible: Ansible) -> None:
    box.sh("mkdir /sys/fs/bpf/seen")
    for keep, seen in ((True, "true"), (False, "false")):
        ansible.run(
            [
                {"ansible.builtin.stat": {"path": "/sys/fs/bpf/seen"}, "register": "found"},
                {"ansible.builtin.shell": "ip -br link | wc -l", "register": "links"},
                {"ansible.builtin.assert": {"that": [f"found.stat.exists == {seen}", "links.stdout == '3'"]}},
            ],
            vars={**BLUE, "ansible_netns_keep_sys": keep},
        )


@pytest.mark.parametrize(
    ("netns", "message"),
    [
        ("green", "network namespace green does not exist on the machine; create it first"),
        ("../x", "'../x' is not the name of a network namespace"),
        ("-n", "'-n' is not the name of a network namespace"),
    ],
)
def test_what_is_no_namespace_is_said_in_a_line(ansible: Ansible, netns: str, message: str) -> None:
    for keep in (False, True):
        process = ansible.start(
            [{"ansible.builtin.command": "true"}],
            vars={**BLUE, "ansible_netns": netns, "ansible_netns_keep_sys": keep},
        )
        said, _none = process.communicate(timeout=60)
        assert process.returncode != 0
        assert message in said
        # A playbook can wait for one that is not there yet, with ignore_unreachable.
        assert ("UNREACHABLE!" in said) == (netns == "green")


STUB = """#!/bin/sh
for word; do
    if [ "$word" = -O ]; then echo "$@" >>%s; fi
    last=$word
done
exec sh -c "$last"
"""


@pytest.mark.parametrize("pipelining", [True, False])
def test_over_ssh_the_namespace_is_what_is_missing_and_not_the_host(
    ansible: Ansible, pipelining: bool
) -> None:
    """`ip netns exec` ends with 255 then, as ssh does when it reaches nobody. What stands in for ssh runs the command here."""
    ansible.environment["ANSIBLE_PIPELINING"] = str(pipelining)
    asked = ansible.directory / "asked"
    stub = ansible.directory / "ssh"
    stub.write_text(STUB % asked)
    stub.chmod(0o700)
    over = {**BLUE, "ansible_netns_transport": "ssh", "ansible_ssh_executable": str(stub)}
    over.update(ansible_ssh_retries=0, ansible_host="gw.example", ansible_ssh_transfer_method="piped")
    ansible.run(
        [
            {"ansible.builtin.shell": "ls /sys/class/net", "register": "devices"},
            {"ansible.builtin.assert": {"that": ["devices.stdout_lines | sort == ['d0', 'd1', 'lo']"]}},
            # What a task says of another namespace is no loss of this one.
            {
                "ansible.builtin.raw": "ip netns exec red true || exit 3",
                "register": "raw",
                "ignore_errors": True,
            },
            {"ansible.builtin.assert": {"that": ["raw is failed", "raw is not unreachable"]}},
            {"ansible.builtin.meta": "reset_connection"},
        ],
        vars={**over, "ansible_ssh_executable": str(stub)},
    )
    assert "gw.example" in asked.read_text() and "inventory_hostname" not in asked.read_text()
    process = ansible.start([{"ansible.builtin.command": "true"}], vars={**over, "ansible_netns": "green"})
    said, _none = process.communicate(timeout=60)
    assert "UNREACHABLE!" in said
    assert "network namespace green does not exist on the machine; create it first" in said
