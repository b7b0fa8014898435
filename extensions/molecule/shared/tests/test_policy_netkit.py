# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy router on real netkit: the cases of tests/support/policy_cases.py, and what only netkit has, the hook of the peer."""

from __future__ import annotations

import typing as t

import policy_cases
import policy_world as w
import pytest
from policy_cases import hits, what_if
from sandbox import Sandbox
from steps import converged, removed, settled

# Each case is a test here too, with the kind of this module.
globals().update({name: case for name, case in vars(policy_cases).items() if name.startswith("test_")})

# Where the frame's header matters; elsewhere both modes are the same to the router.
IN_BOTH_MODES = ("go_back", "counted_once", "ipv6_next_hop", "peer")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        both = any(part in metafunc.function.__name__ for part in IN_BOTH_MODES)
        metafunc.parametrize("kind", ["netkit l2", "netkit l3"] if both else ["netkit l2"])


def container(kind: str, **more: t.Any) -> t.Dict[str, t.Any]:
    """pod [eth0 10.0.5.2] == [nk0] host [up] == [r] upstream; the host's default leads nowhere."""
    pairs = [
        w.pair(kind, w.end("nk0", "host", "5", 1), w.end("eth0", "pod", "5", 2)),
        w.pair(kind, w.end("up", "host", "6", 1), w.end("r", "upstream", "6", 2)),
    ]
    return {
        "netns": [{"name": name} for name in ("pod", "host", "upstream")],
        "netkit_link": pairs,
        "address": [
            {"netns": "upstream", "dev": "lo", "address": "192.0.2.9/32"},
            {"netns": "upstream", "dev": "lo", "address": "2001:db8::9/128"},
        ],
        "route": [
            {"netns": "pod", "destination": "default", "via": "10.0.5.1"},
            {"netns": "pod", "destination": "default", "via": "fd00:5::1"},
            {"netns": "upstream", "destination": "10.0.5.0/24", "via": "10.0.6.1"},
            {"netns": "upstream", "destination": "fd00:5::/64", "via": "fd00:6::1"},
        ],
        "sysctl_forwarding": [
            {"netns": "host", "ipv4": True, "ipv6": True, "rp_filter": "off"},
            {"netns": "host", "interface": "nk0", "rp_filter": "off"},
            {"netns": "host", "interface": "up", "rp_filter": "off"},
        ],
        **more,
    }


def test_at_the_peer_hook_what_a_container_sends_is_routed_in_the_hosts_namespace(
    box: Sandbox, kind: str
) -> None:
    entry = {"object": "router", "netns": "host", "interface": "up"}
    policy = {
        "bpf_object": [{**w.ROUTER, "constants": {"decrement_ttl": 1}}],
        "netkit_attach": [
            {"object": "router", "program": "policy_router", "link": "nk0", "netns": "host", "hook": "peer"}
        ],
        "bpf_policy_entry": [
            {**entry, "source": "10.0.5.2", "next_hop": "10.0.6.2"},
            {**entry, "source": "fd00:5::2", "next_hop": "fd00:6::2"},
        ],
    }
    converged(box, container(kind))
    w.addressed(box)
    assert w.answers(box, "192.0.2.9", "pod") == 0
    document = container(kind, **policy)
    converged(box, document)
    assert (w.answers(box, "192.0.2.9", "pod"), w.answers(box, "2001:db8::9", "pod")) == (3, 3)
    assert hits(box)["redirect"] >= 6
    told = what_if(
        box,
        {"source": "10.0.5.2", "destination": "192.0.2.9"},
        {"source": "10.0.5.3", "destination": "192.0.2.9"},
    )
    assert [(row["outcome"], row["interface"]) for row in told] == [("redirect", "up"), ("no_match", None)]
    settled(box, document)
    removed(box)
