# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a host can do: asked of the kernel itself and never concluded from its version, and which packages would help."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import typing as t

from ._bpf import compile as build
from ._errors import CnfError
from ._kernel import bpffs, requirements
from ._kernel.host import Host

ARGUMENT_SPEC: t.Dict[str, t.Any] = {
    "compiler": {"type": "str", "choices": ["clang", "bcc"], "default": "clang"},
    "os_release": {"type": "path", "default": "/etc/os-release"},
}
LINK_KINDS = ("netkit", "veth", "bridge", "vlan", "vxlan", "vrf", "macvlan", "dummy", "wireguard")
PACKAGES = {
    "debian": {
        "pyroute2": ["python3-pyroute2"],
        "libbpf": ["libbpf1"],
        "clang": ["clang", "libbpf-dev", "linux-libc-dev"],
        "bcc": ["python3-bpfcc", "linux-libc-dev"],
        "bpftool": ["bpftool"],
    },
    "redhat": {
        "pyroute2": ["python3-pyroute2"],
        "libbpf": ["libbpf"],
        "clang": ["clang", "libbpf-devel", "kernel-headers"],
        "bcc": ["python3-bcc", "kernel-headers"],
        "bpftool": ["bpftool"],
    },
}
FAMILIES = {
    "debian": "debian",
    "ubuntu": "debian",
    "rhel": "redhat",
    "fedora": "redhat",
    "centos": "redhat",
}
# What each role cannot do without; netkit has a fallback, and tcx a legacy filter.
ROLES = {
    "bridge_segment": ("veth", "bridge"),
    "cnf_chain": ("bpf", "bpffs", "compiler"),
    "load_balancer": ("bpf", "bpffs", "compiler"),
    "multihoming": ("bpf", "bpffs", "compiler"),
    "sidecar": ("bpf", "bpffs", "compiler"),
    "simple_cnf": ("bpf", "bpffs", "compiler"),
    "source_router": ("bpf", "bpffs", "compiler"),
    "traffic_mirror": ("bpf", "bpffs", "compiler"),
    "tunnel_endpoint": ("bpf", "bpffs", "compiler", "wireguard or tun"),
    "xdp_gateway": ("bpf", "bpffs", "compiler"),
}
BTF = "/sys/kernel/btf/vmlinux"
LIBBPF = "libbpf.so.1"


def family_of(text: str) -> t.Optional[str]:
    """The family of a distribution, of the text of os-release(5); None for one that is not known."""
    fields = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = value.strip().strip("\"'")
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)


def packages_for(family: t.Optional[str], compiler: str, have: t.Mapping[str, bool]) -> t.List[str]:
    """The packages that bring what is not there."""
    known = PACKAGES.get(family or "", {})
    wanted = ["pyroute2", "libbpf", compiler, "bpftool"]
    return list(
        dict.fromkeys(package for name in wanted if not have[name] for package in known.get(name, ()))
    )


def missing_for_roles(have: t.Mapping[str, bool]) -> t.Dict[str, t.List[str]]:
    """What each role lacks on this host; roles that lack nothing have an empty list."""
    return {
        role: [need for need in ("pyroute2", *needs) if not any(have[name] for name in need.split(" or "))]
        for role, needs in sorted(ROLES.items())
    }


def read(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """What there is, and what is missing."""
    notes: t.List[str] = []
    with Host() as host:
        kinds = {kind: host.supports_link_kind(kind) for kind in LINK_KINDS}
        tcx = host.supports_tcx()
    mounted = False
    try:
        mounted = bpffs.MOUNT_POINT in bpffs.mounts()
    except CnfError as problem:
        notes.append(str(problem))
    why = {backend: build.missing(backend) for backend in ("clang", "bcc")}
    have = {
        **kinds,
        "tcx": tcx,
        "tun": os.path.exists("/dev/net/tun"),
        "btf": os.path.exists(BTF),
        "bpf": _has_libbpf(),
        "libbpf": _has_libbpf(),
        "bpffs": mounted,
        "clang": not why["clang"],
        "bcc": not why["bcc"],
        "compiler": not all(why.values()),
        "bpftool": shutil.which("bpftool") is not None,
        "pyroute2": _has_library(),
    }
    with open(params["os_release"], encoding="utf-8") as file:
        family = family_of(file.read())
    missing = missing_for_roles(have)
    answer = {
        "kernel": platform.release(),
        "family": family,
        "capabilities": have,
        "packages": packages_for(family, params["compiler"], have),
        "missing": missing,
        "notes": notes,
    }
    return {**answer, "text": text_of(answer)}


def _has_libbpf() -> bool:
    try:
        ctypes.CDLL(LIBBPF)
    except OSError:
        return False
    return True


def _has_library() -> bool:
    try:
        requirements.check_library()
    except (CnfError, requirements.LibraryMissing):
        return False
    return True


def text_of(answer: t.Mapping[str, t.Any]) -> str:
    """The answer for people."""
    have = answer["capabilities"]
    lines = [
        f"Linux {answer['kernel']} ({answer['family'] or 'a distribution that is not known'})",
        f"has: {', '.join(name for name, there in have.items() if there)}",
        f"lacks: {', '.join(name for name, there in have.items() if not there) or 'nothing'}",
    ]
    if not have["netkit"]:
        lines.append("without netkit, roles use veth pairs where fallback allows it")
    if not have["tcx"]:
        lines.append("without tcx, tcx_attach uses legacy filters")
    lines += [f"role {role} lacks: {', '.join(needs)}" for role, needs in answer["missing"].items() if needs]
    if answer["packages"]:
        lines.append(f"packages that bring it: {' '.join(answer['packages'])}")
    return "\n".join(lines)
