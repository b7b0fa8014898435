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


def test_flags_as_texts_and_lists_without_anything(box: Sandbox, ansible: Ansible) -> None:
    """What comes from -e key=value or an INI inventory is text, and a section without an item is none."""
    role = Role(ansible, "bridge_segment", hosts=[], default_route="no", verify="no")
    whole(box, role)
    host = {"name": "h1", "addresses": ["10.0.3.11/24"]}

    def proof() -> None:
        assert box.run("ip", "-n", "h1", "route", "show", "default").stdout == ""

    role = Role(ansible, "bridge_segment", hosts=[host], default_route="no", verify="no")
    whole(box, role, proof)


def test_lists_as_texts(box: Sandbox, ansible: Ansible) -> None:
    """They are the lists that the same options of modules would make of them."""
    for name, given in (
        ("bridge_segment", {"addresses": "10.0.3.1/24, fd00:3::1/64"}),
        ("simple_cnf", {"hooks": "primary,peer"}),
        ("tunnel_endpoint", {"sources": "10.0.5.0/24,fd00:5::/64", "exempt": "10.0.5.0/24,fd00:5::/64"}),
    ):
        role = Role(ansible, name)
        role.run()
        assert recap(role.run(**given, verify=True))["localhost"]["changed"] == 0
    # Within other variables as well.
    role = Role(ansible, "simple_cnf")
    client = {"addresses": "10.0.1.2/24, fd00:1::2/64", "gateways": "10.0.1.1/24,fd00:1::1/64"}
    other = {
        "name": "ns2",
        "addresses": ["10.0.2.2/24", "fd00:2::2/64"],
        "gateways": ["10.0.2.1/24", "fd00:2::1/64"],
    }
    assert (
        recap(role.run(clients=[{"name": "ns1", **client}, other], verify=True))["localhost"]["changed"] == 0
    )


def test_clients_with_one_family_are_asked_in_that_one(box: Sandbox, ansible: Ansible) -> None:
    clients = [
        {"name": "ns1", "addresses": ["10.0.1.2/24"], "gateways": ["10.0.1.1/24"]},
        {
            "name": "ns2",
            "addresses": ["10.0.2.2/24", "fd00:2::2/64"],
            "gateways": ["10.0.2.1/24", "fd00:2::1/64"],
        },
    ]
    whole(box, Role(ansible, "simple_cnf", clients=clients, hooks=[]))


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
    absent = {**role, "vars": {"host_prerequisites_state": "absent"}}
    assert (
        recap(ansible.run([], roles=[absent]))["localhost"]["changed"] == 0
    )  # no unit, no matter whose mount
    box.sh("mountpoint -q /sys/fs/bpf && mount -t bpf bpf /sys/fs/bpf")
    process = ansible.start(asked[:1])
    said, _none = process.communicate(timeout=60)
    assert "/sys/fs/bpf" in said and "WARNING" in said
    # Without a BPF file system: the unit and its start are foretold, where nothing but the report is wanted nothing is.
    box.sh("umount /sys/fs/bpf; umount /sys/fs/bpf")
    told = ansible.run([], "--check", roles=[{"role": "cnf.ebpf.host_prerequisites"}])
    assert recap(told)["localhost"]["changed"] == 2
    report = {"role": "cnf.ebpf.host_prerequisites", "vars": {"host_prerequisites_mount": "false"}}
    assert recap(ansible.run([], roles=[report]))["localhost"]["changed"] == 0
