# SPDX-License-Identifier: GPL-3.0-or-later
"""The classic case of source-based routing, on veth or netkit pairs: replies of a virtual IP that would leave by the wrong gateway.

    client [eth0 10.0.2.2] == [c0] router [s0 10.0.1.1] == [good 10.0.1.2] server [bad 10.0.9.2] == [b0 10.0.9.1] hole

The server has 192.168.100.5 and fd64::5 on its loopback and its default route by `bad`, behind which nothing forwards.
"""

from __future__ import annotations

import typing as t

from sandbox import Sandbox

VIP, VIP6 = "192.168.100.5", "fd64::5"
NETNS = [{"name": name} for name in ("client", "router", "server", "hole")]
ROUTER = {"name": "router", "source": "policy_router.bpf.c"}
LOOSE = {"rp_filter": "off"}


def end(name: str, netns: str, number: str, host: int) -> t.Dict[str, t.Any]:
    return {
        "name": name,
        "netns": netns,
        "addresses": [f"10.0.{number}.{host}/24", f"fd00:{number}::{host}/64"],
    }


def pair(kind: str, one: t.Dict[str, t.Any], other: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    if kind == "veth":
        return {"kind": "veth", **one, "peer": other}
    return {"mode": kind.partition(" ")[2] or "l2", **one, "peer": other}


def asymmetric(kind: str = "veth", **more: t.Any) -> t.Dict[str, t.Any]:
    """The topology without a policy. ``kind``: veth, `netkit l2` or `netkit l3`."""
    pairs = [
        pair(kind, end("c0", "router", "2", 1), end("eth0", "client", "2", 2)),
        pair(kind, end("good", "server", "1", 2), end("s0", "router", "1", 1)),
        pair(kind, end("bad", "server", "9", 2), end("b0", "hole", "9", 1)),
    ]
    everywhere = [
        {"netns": "client", "destination": "default", "via": "10.0.2.1"},
        {"netns": "client", "destination": "default", "via": "fd00:2::1"},
        {"netns": "router", "destination": f"{VIP}/32", "via": "10.0.1.2"},
        {"netns": "router", "destination": f"{VIP6}/128", "via": "fd00:1::2"},
        {"netns": "server", "destination": "default", "via": "10.0.9.1"},
        {"netns": "server", "destination": "default", "via": "fd00:9::1"},
    ]
    section = "link" if kind == "veth" else "netkit_link"
    return {
        "netns": NETNS,
        section: pairs,
        "address": [
            {"netns": "server", "dev": "lo", "address": f"{VIP}/32"},
            {"netns": "server", "dev": "lo", "address": f"{VIP6}/128"},
        ],
        "route": everywhere,
        "sysctl_forwarding": [
            {"netns": "router", "ipv4": True, "ipv6": True},
            {"netns": "server", "ipv4": True, "ipv6": True, **LOOSE},
            {"netns": "server", "interface": "good", **LOOSE},
            {"netns": "server", "interface": "bad", **LOOSE},
        ],
        **more,
    }


def with_router(
    kind: str = "veth", entries: t.Optional[t.List[t.Dict[str, t.Any]]] = None, **more: t.Any
) -> t.Dict[str, t.Any]:
    """The same with the router at the egress of the wrong device, and a policy of one entry for each family."""
    return asymmetric(
        kind,
        bpf_object=[ROUTER],
        tcx_attach=[
            {
                "object": "router",
                "program": "policy_router",
                "link": "bad",
                "netns": "server",
                "hook": "egress",
            }
        ],
        bpf_policy_entry=[entry(**row) for row in (ENTRIES if entries is None else entries)],
        **more,
    )


ENTRIES: t.List[t.Dict[str, t.Any]] = [
    {"source": VIP, "interface": "good", "next_hop": "10.0.1.1"},
    {"source": VIP6, "interface": "good", "next_hop": "fd00:1::1"},
]


def entry(**fields: t.Any) -> t.Dict[str, t.Any]:
    return {"object": "router", "netns": "server", **fields}


def answers(box: Sandbox, address: str, netns: str = "client", count: int = 3) -> int:
    """How many of a few pings are answered."""
    done = box.run(
        "ip",
        "netns",
        "exec",
        netns,
        "ping",
        "-c",
        str(count),
        "-i",
        "0.05",
        "-W",
        "1",
        "-q",
        address,
        check=False,
    )
    return int(done.stdout.split(" received")[0].split()[-1])


def addressed(box: Sandbox) -> None:
    """Wait until every IPv6 address is known to be nobody else's."""
    box.sh(
        "for i in $(seq 50); do "
        "found=; for n in $(ls /run/netns); do ip -n $n -6 addr show tentative | grep -q inet6 && found=1; done; "
        "[ -z $found ] && exit 0; sleep 0.1; done; exit 1"
    )


def managed(box: Sandbox, netns: str = "server") -> t.List[t.List[str]]:
    """The neighbours that the kernel keeps resolved for a policy."""
    rows = box.sh(f"ip -n {netns} neigh; ip -n {netns} -6 neigh").splitlines()
    found = {(line.split()[0], line.split()[2]) for line in rows if "managed" in line and "proto 208" in line}
    return sorted([address, device] for address, device in found)
