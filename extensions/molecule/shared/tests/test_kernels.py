# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guide "Kernels" says of this kernel is what the collection can do on it. Runs inside of each machine.

Nothing is concluded from a version: every row is a document that is converged, and read in the kernel what came of it.
"""

from __future__ import annotations

import platform
import re
import typing as t
from pathlib import Path

from bpf_steps import COUNT, PAIR, PROGRAMS
from policy_cases import what_if
from sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[4]
GUIDE = ROOT / "docs" / "docsite" / "rst" / "guide_kernels.rst"
COLUMNS = ("6.1", "6.12", "newest")
Row = t.Dict[str, t.Any]


def netkit(mode: str = "l3", **more: t.Any) -> Row:
    peer = {"name": "eth0", "netns": "client", "addresses": ["10.0.0.2/24"]}
    pair = {"name": "nk0", "mode": mode, "addresses": ["10.0.0.1/24"], "peer": peer, **more}
    return {"netns": [{"name": "client"}], "netkit_link": [pair]}


def link(kind: str, **more: t.Any) -> Row:
    made = {"name": "l0", "kind": kind, **more}
    return {**PAIR, "link": [*PAIR["link"], made]} if "parent" in more else {"link": [made]}


def attach(section: str, **more: t.Any) -> Row:
    return {**PAIR, "bpf_object": [COUNT], section: [{"object": "count", "link": "b0", **more}]}


def router(**source: str) -> Row:
    return {
        **PAIR,
        "bpf_object": [{"name": "router", **source}],
        "bpf_policy_entry": [{"object": "router", "source": "10.9.0.0/16", "action": "drop"}],
        "tcx_attach": [{"object": "router", "program": "policy_router", "link": "b0", "hook": "egress"}],
    }


COMPILED = str(PROGRAMS / "policy_router.bpf.o")  # elsewhere, by clang
DOCUMENTS: t.Dict[str, Row] = {
    "netkit pair, L3": netkit(),
    "netkit pair, L2": netkit("l2"),
    "netkit pair with ``fallback: veth``": netkit(fallback="veth"),
    "programs at netkit's own hooks": {
        **netkit(),
        "bpf_object": [COUNT],
        "netkit_attach": [
            {"object": "count", "link": "nk0", "hook": hook, "mechanism": "netkit"}
            for hook in ("primary", "peer")
        ],
    },
    "``tcx_attach``": attach("tcx_attach", hook="ingress"),
    "``tcx_attach`` with ``mechanism: tcx``": attach("tcx_attach", hook="ingress", mechanism="tcx"),
    "``xdp_attach``, native, on veth": attach("xdp_attach", mode="native"),
    "``xdp_attach``, generic": attach("xdp_attach", mode="generic"),
    "link of kind bridge": link("bridge"),
    "link of kind dummy": link("dummy"),
    "link of kind macvlan": link("macvlan", parent="b0"),
    "link of kind tun": link("tun"),
    "link of kind vlan": link("vlan", parent="b0", vlan_id=5),
    "link of kind vrf": link("vrf", table=1005),
    "link of kind vxlan": link("vxlan", vni=5, remote="10.0.0.2"),
    "link of kind wireguard": link("wireguard"),
    "policy router, compiled on the host": router(source="policy_router.bpf.c"),
    "policy router, compiled elsewhere": router(object=COMPILED),
}
ASKED = "what-if (``bpf_policy_test``)"


def outcome(box: Sandbox, document: Row) -> str:
    """The guide's word for what a run of it did: yes, no, or what was made instead."""
    done = box.topology(document)
    if "error" in done:
        # In a line that tells what to do, not by falling over.
        assert done["type"] in ("UnsupportedError", "ConvergeError", "VerifierError", "InputError"), done
        return "no"
    assert not box.topology(document)["changed"]
    if "netkit_link" in document and '"veth"' in box.sh("ip -j -d link show nk0").replace(" ", ""):
        return "veth"
    hooks = " ".join(box.hooks())
    return "legacy filter" if "clsact" in hooks else "yes"


def found(box: Sandbox) -> t.Dict[str, str]:
    rows = {}
    for name, document in DOCUMENTS.items():
        rows[name] = outcome(box, document)
        if name == "policy router, compiled elsewhere":
            told = what_if(box, {"source": "10.9.1.1", "destination": "10.0.0.2", "device": "b0"})
            rows[ASKED] = "yes" if told[0]["outcome"] == "drop" else "no"
        gone = box.topology({"name": "edge"}, state="absent")
        assert "error" not in gone, gone
    return rows


def said(column: str) -> t.Dict[str, str]:
    """The rows of the guide's table in the column of a kernel."""
    text = GUIDE.read_text(encoding="utf-8")
    table = re.split(r"^=+ .*=$\n", text, flags=re.MULTILINE)[2]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.strip().splitlines()]
    return {row[0]: row[1 + COLUMNS.index(column)] for row in rows}


def test_the_guide_says_what_this_kernel_can_do(box: Sandbox) -> None:
    release = re.match(r"\d+\.\d+", platform.release())
    assert release is not None
    column = release[0] if release[0] in COLUMNS else "newest"
    assert found(box) == said(column)
