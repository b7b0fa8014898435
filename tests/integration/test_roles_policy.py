# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles that route by policy, each in the steps of support/roles.py on hosts that exist already, with real packets."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import policy_world as w
import pytest
from policy_cases import SERVICE, SERVICE6, Answering, info, ways, what_if
from sandbox import Sandbox
from steps import assert_same, converged

from playbooks import Ansible, recap
from roles import Role, packets, whole

ATTEMPTS = 60  # of half a second and more; the kernel finds out about neighbours in a few seconds


def built(box: Sandbox, document: t.Mapping[str, t.Any]) -> None:
    """The hosts around a role, without the files that their own topology leaves in the store."""
    converged(box, document)
    w.addressed(box)
    box.sh("find /var/lib/cnf-ebpf -type f -path '*/edge/*' ! -name lock -delete")


def surroundings(names: t.Sequence[str], sources: t.Sequence[str]) -> t.Dict[str, t.Any]:
    """The hosts of policy_cases.ways without a policy: client == router, and a way to each of the names."""
    document = ways("veth", names, sources)
    return {name: document[name] for name in ("netns", "link", "address", "route")}


def until(wanted: t.Any, ask: t.Callable[..., t.Any], *words: t.Any) -> None:
    """Traffic goes on until this is the answer."""
    for _attempt in range(ATTEMPTS):
        got = ask(*words)
        if got == wanted:
            return
    raise AssertionError(f"{got!r}, not {wanted!r}")


# --- source_router --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(box: Sandbox) -> None:
    """A virtual IP whose replies are lost, and a reverse path filter that would lose the requests."""
    document = w.asymmetric()
    document["sysctl_forwarding"] = [row for row in document["sysctl_forwarding"] if row["netns"] != "server"]
    built(box, document)
    box.sh("ip netns exec server sysctl -qw net.ipv4.conf.good.rp_filter=1 net.ipv4.conf.good.forwarding=0")
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (0, 0)


@pytest.mark.usefixtures("server")
def test_source_router(box: Sandbox, ansible: Ansible) -> None:
    def proof() -> None:
        assert (w.answers(box, w.VIP, count=5), w.answers(box, w.VIP6, count=5)) == (5, 5)
        said = role.refused(verify=True, packets=[{**reply, "expect": {"outcome": "no_match"}}])
        assert "expected outcome no_match, got redirect" in said

    reply = {"source": w.VIP, "destination": "10.0.2.2"}
    probes = [
        {"netns": "client", "destination": w.VIP},
        {"netns": "client", "destination": w.VIP6},
        {"netns": "server", "destination": "10.0.2.2", "expect": "unreachable"},
    ]
    entries = [
        *w.ENTRIES,
        {
            "source": "192.168.100.0/24",
            "next_hops": ["10.0.1.1%good", {"address": "10.0.9.1", "interface": "bad"}],
        },
        {"source": "192.168.0.0/16", "action": "exempt", "comment": "as always"},
        {"source": "192.168.0.0/18", "action": "drop"},
    ]
    role = Role(
        ansible, "source_router", netns="server", egress=["bad"], entries=entries, probes=probes, verify=True
    )
    whole(box, role, proof)
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (0, 0)


@pytest.mark.usefixtures("server")
def test_source_router_with_a_file(box: Sandbox, ansible: Ansible, tmp_path: Path) -> None:
    def proof() -> None:
        assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (3, 3)

    lines = ["source,interface,next_hop", f"{w.VIP},good,10.0.1.1", f"{w.VIP6},good,fd00:1::1"]
    (tmp_path / "sources.csv").write_text("\n".join(lines))
    whole(
        box,
        Role(
            ansible, "source_router", netns="server", egress=["bad"], file="sources.csv", interfaces=["good"]
        ),
        proof,
    )


def test_source_router_says_what_it_needs(ansible: Ansible) -> None:
    role = Role(ansible, "source_router", netns="server")
    assert "source_router_egress" in role.refused(entries=w.ENTRIES)
    assert "source_router_entries or source_router_file" in role.refused(egress=["bad"])


# --- multihoming ----------------------------------------------------------------------------------------------------------

CUSTOMERS = ("10.1.1.1", "10.2.1.1", "fd01:1::1", "fd01:2::1")
ISPS = [
    {"name": name, "interface": name, "ipv4": f"10.0.{number}.2", "ipv6": f"fd00:{number}::2"}
    for number, name in enumerate(("isp1", "isp2"), 11)
]


def test_multihoming(box: Sandbox, ansible: Ansible) -> None:
    """Each customer goes by its own provider, by the other one while that is dead, and back."""
    home = dict(zip(CUSTOMERS, ("isp1", "isp2", "isp1", "isp2")))
    around = surroundings(("isp1", "isp2"), CUSTOMERS)
    built(box, around)

    def proof() -> None:
        with Answering(box, ("isp1", "isp2"), (7000,)) as answering:
            assert {customer: answering.who(customer) for customer in CUSTOMERS} == home
            box.sh("ip -n isp2 link set r down")
            for customer in CUSTOMERS:
                until("isp1", answering.who, customer)
            built(box, around)
            for customer in CUSTOMERS:
                until(home[customer], answering.who, customer)

    prefixes = ("10.1.0.0/16", "10.2.0.0/16", "fd01:1::/32", "fd01:2::/32")
    ways_of = (["isp1", "isp2"], ["isp2", "isp1"], ["isp1", "isp2"], ["isp2", "isp1"])
    role = Role(
        ansible,
        "multihoming",
        netns="router",
        inside=["c0"],
        isps=ISPS,
        customers=[{"prefix": prefix, "isps": way} for prefix, way in zip(prefixes, ways_of)],
        exempt=["10.0.2.1", "fd00:2::1"],
        probes=[
            {"netns": "client", "source": "10.2.1.1", "destination": "10.0.2.1"},
            {"netns": "client", "source": "fd01:2::1", "destination": "fd00:2::1"},
            {"netns": "client", "source": "10.2.1.1", "destination": SERVICE},
        ],
    )
    whole(box, role, proof)


def test_multihoming_families_and_longest_prefixes(box: Sandbox, ansible: Ansible) -> None:
    """A provider without IPv6 carries none, and the verification knows which of two prefixes decides."""
    built(box, surroundings(("isp1", "isp2"), CUSTOMERS))
    isps = [ISPS[0], {name: value for name, value in ISPS[1].items() if name != "ipv6"}]
    customers = [
        {"prefix": "10.1.0.0/24", "isps": ["isp2", "isp1"], "comment": "customer 7", "strict": True},
        {"prefix": "10.1.0.0/16", "isps": ["isp1"]},
        {"prefix": "10.9.0.0/16", "isps": [], "action": "drop"},
        {"prefix": "fd01:1::/32", "isps": ["isp2", "isp1"]},
    ]
    role = Role(
        ansible, "multihoming", netns="router", inside=["c0"], isps=isps, customers=customers, verify=True
    )
    role.run()
    rows = {row["source"]: row for row in info(box, topology="multihoming")["entries"] if "source" in row}
    assert rows["10.1.0.0/24"]["next_hops"] == ["10.0.12.2%isp2", "10.0.11.2%isp1"]
    assert (rows["10.1.0.0/24"]["comment"], rows["10.1.0.0/24"]["strict"]) == ("customer 7", True)
    assert (rows["fd01:1::/32"]["interface"], rows["fd01:1::/32"]["next_hop"]) == ("isp1", "fd00:11::2")
    before = box.state()
    misspelt = [{"prefix": "10.3.0.0/16", "isps": ["isp1", "nowhere"]}]
    reason = "multihoming_customers: 10.3.0.0/16 goes by nowhere, which is none of multihoming_isps"
    assert reason in role.refused(customers=misspelt)
    fails = [{"prefix": "fd01:3::/32", "isps": ["isp2"]}]
    reason = "multihoming_customers: none of the providers of fd01:3::/32 has ipv6"
    assert reason in role.refused(customers=fails)
    assert "multihoming_isps: each name may be used once" in role.refused(isps=[*isps, isps[0]])
    assert_same(box.state(), before)
    # Who has all other addresses is nowhere in particular: the others' packets still go by their provider.
    everyone = {"prefix": "0.0.0.0/0", "isps": ["isp1"]}
    role.run(customers=[*customers, everyone])
    entries = info(box, topology="multihoming")["entries"]
    assert sorted(row["destination"] for row in entries if "destination" in row) == [
        "10.1.0.0/16",
        "10.1.0.0/24",
        "10.9.0.0/16",
        "fd01:1::/32",
    ]
    # What usually stands for the world may be exempt, or be a customer's; something else stands for it then.
    role.run(
        exempt=["192.0.2.0/24", "2001:db8::/48"],
        customers=[*customers, {**everyone, "prefix": "198.51.100.0/24"}],
    )
    assert "for the world of 10.1.0.0/24 is exempt; say what to ask in" in role.refused(exempt=["0.0.0.0/0"])
    said = role.refused(isps=[{"name": "isp1"}])
    assert "interface" in said and "missing" in said


# --- load_balancer --------------------------------------------------------------------------------------------------------

VIPS = (SERVICE, SERVICE6)
FLOWS = [
    {
        "source": source.format(number % 250 + 1),
        "destination": service,
        "protocol": "udp",
        "source_port": 1024 + 7 * number,
        "destination_port": 7000,
    }
    for source, service in (("10.1.1.{}", SERVICE), ("fd01:1::{:x}", SERVICE6))
    for number in range(1000)
]


def backends(**weights: int) -> t.List[t.Dict[str, t.Any]]:
    return [
        {"interface": name, "ipv4": f"10.0.{number}.2", "ipv6": f"fd00:{number}::2", "weight": weight}
        for number, (name, weight) in enumerate(weights.items(), 11)
    ]


def test_load_balancer(box: Sandbox, ansible: Ansible) -> None:
    """By weight, drained, and without the dead one; backends have the virtual IP and answer directly."""
    sources = ("10.1.1.1", "fd01:1::1")
    around = surroundings(("be1", "be2", "be3"), sources)
    built(box, around)

    def shares() -> t.List[t.Any]:
        return [row["interface"] for row in what_if(box, *FLOWS, topology="load-balancer")]

    def proof() -> None:
        first = shares()
        for name, weight in (("be1", 2), ("be2", 1), ("be3", 1)):
            assert abs(first.count(name) / len(FLOWS) - weight / 4) < 0.05, name
        with Answering(box, ("be1", "be2", "be3"), (7000,)) as answering:
            until(3, lambda: len({answering.who(source) for _number in range(10) for source in sources}))
            done = role.run(backends=backends(be1=2, be2=1, be3=0))
            assert recap(done)["localhost"]["changed"] == 1
            drained = shares()
            assert "be3" not in drained
            stayed = [(had, has) for had, has in zip(first, drained) if had != "be3"]
            assert sum(had != has for had, has in stayed) <= 0.02 * len(stayed)
            assert {answering.who(source) for _number in range(10) for source in sources} == {"be1", "be2"}
            box.sh("ip -n be2 link set r down")
            until({"be1"}, lambda: {answering.who(source) for _number in range(8) for source in sources})
            built(box, around)
            for source in sources:
                until("be2", answering.who, source)
            assert shares() == drained

    role = Role(
        ansible,
        "load_balancer",
        netns="router",
        clients=["c0"],
        vips=list(VIPS),
        backends=backends(be1=2, be2=1, be3=1),
        probes=[
            {"netns": "client", "source": source, "destination": vip} for source, vip in zip(sources, VIPS)
        ],
    )
    whole(box, role, proof)
    said = role.refused(backends=[{"ipv4": "10.0.11.2"}])
    assert "interface" in said and "missing" in said
    said = role.refused(backends=[{"interface": "be1", "ipv4": "10.0.11.2"}])
    assert "load_balancer_backends: none has ipv6, which load_balancer_vips asks for" in said
    assert "load_balancer_mode" in role.refused(mode="round-robin")


# --- sidecar --------------------------------------------------------------------------------------------------------------


def test_sidecar(box: Sandbox, ansible: Ansible) -> None:
    """All that the pod sends and receives is counted, and goes by the network that it is for."""

    def proof() -> None:
        hooks = box.hooks()
        at_pod = {name: programs for name, programs in hooks.items() if name.startswith("sidecar:pod ")}
        assert sorted(at_pod.values(), key=len) == [
            ["sidecar/cnf:count"],
            ["sidecar/cnf:count", "sidecar/router:policy_router"],
        ]
        at_host = {name: programs for name, programs in hooks.items() if name not in at_pod}
        assert sorted(at_host) == [
            "sidecar:management egress",
            "sidecar:management ingress",
            "sidecar:service egress",
            "sidecar:service ingress",
        ]
        assert list(at_host.values()) == [["sidecar/networks:count"]] * 4
        seen, sent = counted(), redirected()
        assert w.answers(box, "10.202.0.1", "pod", 5) == 5
        # Five there and five back, each in total and by its family, and whatever the kernel sends of its own.
        assert all(now - before >= 20 for now, before in zip(counted(), seen))
        assert redirected() - sent == 5
        box.sh("ip link set service down")
        assert w.answers(box, "10.202.0.1", "pod", 5) == 5
        assert recap(role.run(verify=True))["localhost"]["changed"] == 1  # sets it up again
        # What is for a dead network leaves by no other one.
        box.sh("ip link set management down")
        dropped, fell = chain("strict_drop"), chain("fallback")
        until(True, lambda: w.answers(box, "10.202.77.1", "pod", 5) == 0 and chain("strict_drop") > dropped)
        assert chain("fallback") == fell

    def counted() -> t.List[int]:
        return [packets(box, "sidecar", name) for name in ("cnf", "networks")]

    def chain(reason: str) -> int:
        return info(box, topology="sidecar")["chain"][reason]["packets"]

    def redirected() -> int:
        return chain("redirect")

    role = Role(ansible, "sidecar")
    whole(box, role, proof)
    said = role.refused(networks=[{"name": "service"}])
    assert "destinations" in said and "missing" in said


def test_sidecar_with_a_policy_of_its_own(box: Sandbox, ansible: Ansible) -> None:
    """One network in another namespace, and entries of all kinds beside the networks."""
    built(box, {"netns": [{"name": "fabric"}]})
    network = {
        "name": "up",
        "addresses": ["10.9.0.2/24", "fd00:9::2/64"],
        "gateways": ["10.9.0.1/24", "fd00:9::1/64"],
        "destinations": ["10.9.0.0/16", "fd00:9::/32"],
    }
    entries = [
        {"protocol": "tcp", "destination_port": 23, "action": "drop", "comment": "no telnet"},
        {"destination": "10.9.66.0/24", "action": "drop"},
    ]
    telnet = {"source": "10.200.0.2", "destination": "10.9.0.1", "protocol": "tcp", "destination_port": 23}
    packets_ = [
        {**telnet, "expect": {"outcome": "drop", "comment": "no telnet"}},
        {**telnet, "destination_port": 22, "expect": {"outcome": "redirect", "interface": "up"}},
        {"source": "10.200.0.2", "destination": "10.9.66.6", "expect": {"outcome": "drop"}},
        {"source": "10.200.0.2", "destination": "10.9.0.2", "expect": {"outcome": "exempt"}},
    ]
    probes = [{"netns": "pod", "destination": "10.9.0.2"}]
    role = Role(
        ansible,
        "sidecar",
        host="fabric",
        networks=[network],
        entries=entries,
        packets=packets_,
        probes=probes,
    )
    whole(box, role)


def test_sidecar_is_asked_about_its_destinations(box: Sandbox, ansible: Ansible) -> None:
    """Also where a network lies elsewhere, where the pod has one family, and where a prefix is an address of the sidecar."""
    networks = [
        {
            "name": "service",
            "addresses": ["10.201.0.2/24", "fd00:201::2/64"],
            "gateways": ["10.201.0.1/24", "fd00:201::1/64"],
            "destinations": ["198.51.100.0/24", "fd00:dead::/32"],
        },
        {
            "name": "other",
            "addresses": ["10.202.0.2/24"],
            "gateways": ["10.202.0.1/24"],
            "destinations": ["198.51.0.0/16", "198.51.100.0/28"],
        },
    ]
    role = Role(
        ansible,
        "sidecar",
        pod_addresses=["10.200.0.2/24"],
        pod_gateways=["10.200.0.1/24"],
        networks=networks,
        hooks=[],
    )

    def proof() -> None:
        text = role.run("-v", verify=True)
        said = text[text.index("Each network has its destinations") :]
        told = json.loads(said[said.index("{") :].split("\n\n")[0])["results"]
        # The longest of those that begin with the same address; of the pod's family only.
        assert [(row["entry"]["destination"], row["outcome"], row["interface"]) for row in told] == [
            ("198.51.0.0/16", "redirect", "other"),
            ("198.51.100.0/28", "redirect", "other"),
        ]

    whole(box, role, proof)
