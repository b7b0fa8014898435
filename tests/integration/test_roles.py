# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles, each in the steps of support/roles.py and with what it alone promises."""

from __future__ import annotations

from sandbox import Sandbox

from playbooks import Ansible, recap
from roles import Role, packets, whole


def test_simple_cnf(box: Sandbox, ansible: Ansible) -> None:
    def proof() -> None:
        assert packets(box, "simple-cnf", "cnf") > 0

    role = Role(ansible, "simple_cnf")
    whole(box, role, proof)
    said = role.refused(clients=[{"name": "ns1"}])
    assert "addresses" in said and "missing" in said


def test_host_prerequisites(box: Sandbox, ansible: Ansible) -> None:
    """On a host that has everything nothing changes, and the report says so."""
    role = {
        "role": "cnf.ebpf.host_prerequisites",
        "vars": {"host_prerequisites_roles": ["simple_cnf", "bridge_segment"]},
    }
    said = ansible.run([], roles=[role])
    assert recap(said)["localhost"]["changed"] == 0
    asked = [
        {"cnf.ebpf.capability_info": {}, "register": "host"},
        {
            "ansible.builtin.assert": {
                "that": [
                    "host.capabilities.veth and host.capabilities.bridge and host.capabilities.tcx",
                    "not host.capabilities.netkit",
                    "host.capabilities.clang and host.capabilities.bcc and host.capabilities.bpffs",
                    "host.family == 'debian' and host.packages == []",
                    "host.missing.simple_cnf == []",
                ]
            }
        },
    ]
    ansible.run(asked)
    box.sh("mount -t bpf bpf /sys/fs/bpf")
    process = ansible.start(asked[:1])
    said, _none = process.communicate(timeout=60)
    assert "/sys/fs/bpf" in said and "WARNING" in said
