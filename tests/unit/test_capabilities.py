# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages bring what is missing, and which roles miss it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect_capabilities as c

ROLES = Path(__file__).resolve().parents[2] / "roles"
ALL = dict.fromkeys(
    (
        *c.LINK_KINDS,
        "tcx",
        "tun",
        "btf",
        "bpf",
        "libbpf",
        "bpffs",
        "clang",
        "bcc",
        "compiler",
        "bpftool",
        "pyroute2",
    ),
    True,
)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 13"\nID=debian\n', "debian"),
        ("ID=ubuntu\nID_LIKE=debian\n", "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "redhat"),
        ("ID=fedora\n", "redhat"),
        ("ID=arch\n", None),
        ("", None),
    ],
)
def test_families(text, family):
    assert c.family_of(text) == family


def test_packages_bring_what_is_missing_and_nothing_else():
    assert c.packages_for("debian", "clang", ALL) == []
    lacking = {**ALL, "pyroute2": False, "clang": False}
    assert c.packages_for("debian", "clang", lacking) == [
        "python3-pyroute2",
        "clang",
        "libbpf-dev",
        "linux-libc-dev",
    ]
    assert c.packages_for("debian", "bcc", lacking) == ["python3-pyroute2"]
    assert c.packages_for("redhat", "bcc", {**ALL, "bcc": False}) == ["python3-bcc", "kernel-headers"]
    assert c.packages_for(None, "clang", lacking) == []


def test_roles_say_what_they_lack():
    assert not any(c.missing_for_roles(ALL).values())
    found = c.missing_for_roles({**ALL, "compiler": False, "bridge": False})
    assert found["simple_cnf"] == ["compiler"]
    assert found["bridge_segment"] == ["bridge"]
    assert c.missing_for_roles({**ALL, "wireguard": False})["tunnel_endpoint"] == []
    without = c.missing_for_roles({**ALL, "wireguard": False, "tun": False})
    assert without["tunnel_endpoint"] == ["wireguard or tun"]


def test_every_role_is_known():
    there = {path.name for path in ROLES.iterdir() if path.is_dir()} - {"host_prerequisites"}
    assert there == set(c.ROLES)
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load((ROLES / "host_prerequisites" / "meta" / "argument_specs.yml").read_text())
    options = spec["argument_specs"]["main"]["options"]
    assert options["host_prerequisites_roles"]["choices"] == sorted(there)


def test_playbooks_ask_every_role():
    """What teardown and verify ask outranks the inventory, so no role may be forgotten."""
    yaml = pytest.importorskip("yaml")
    place = ROLES.parent / "playbooks" / "vars"
    names, absent, verified = (
        yaml.safe_load((place / f"{name}.yml").read_text()) for name in ("roles", "absent", "verified")
    )
    assert sorted(names["cnf_role_names"]) == sorted(c.ROLES)
    assert absent == {f"{role}_state": "absent" for role in (*c.ROLES, "host_prerequisites")}
    assert verified == {f"{role}_verify": True for role in c.ROLES}


def test_the_text_names_roles_and_packages():
    answer = {
        "kernel": "6.1.0",
        "family": "debian",
        "capabilities": {**ALL, "netkit": False},
        "packages": ["clang"],
        "missing": {"sidecar": ["compiler"]},
    }
    assert c.text_of(answer).splitlines() == [
        "Linux 6.1.0 (debian)",
        "has: " + ", ".join(name for name in ALL if name != "netkit"),
        "lacks: netkit",
        "without netkit, roles use veth pairs where fallback allows it",
        "role sidecar lacks: compiler",
        "packages that bring it: clang",
    ]
