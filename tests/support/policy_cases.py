# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy router does with real packets, on pairs of a `kind` that the importing module's fixture names.

On this machine that is veth; inside virtual machines whose kernel has netkit, the same tests run on netkit in both modes.
"""

from __future__ import annotations

import json
import random
import sys
import time
import typing as t
from pathlib import Path

import policy_world as w
import pytest
from bpf_steps import nothing_new
from sandbox import Sandbox
from steps import converged, four_steps, removed, settled
from traffic import Stream

TCP = """
import hashlib, socket, sys
family, address = int(sys.argv[1]), sys.argv[2]
data = bytes(range(256)) * 4096
if sys.argv[3] == "serve":
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 5201)); s.listen(); print("ready", flush=True)
    c, _ = s.accept(); c.sendall(data); c.close()
else:
    s = socket.create_connection((address, 5201), timeout=5); got = b""
    while True:
        part = s.recv(1 << 16)
        if not part: break
        got += part
    print(len(got), hashlib.sha256(got).hexdigest() == hashlib.sha256(data).hexdigest())
"""
ANSWERER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2]))); print("ready", flush=True)
while True:
    _data, sender = s.recvfrom(100); s.sendto(sys.argv[3].encode(), sender)
"""
ASKER = """
import socket, sys
source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5); s.bind((source, 0))
for _ in range(4):
    s.sendto(b"who", (destination, port))
    try:
        print(s.recv(100).decode()); break
    except OSError:
        pass
else:
    print("nobody")
"""
SERVICE, SERVICE6 = "192.0.2.9", "2001:db8::9"


def info(box: Sandbox, **params: t.Any) -> t.Dict[str, t.Any]:
    """What bpf_policy_info reads."""
    return _inspect(box, "read", {"sample": 0.0, "limit": 1000, "entries": None, "content": None, **params})


def what_if(box: Sandbox, *packets: t.Dict[str, t.Any], **params: t.Any) -> t.List[t.Dict[str, t.Any]]:
    """What bpf_policy_test answers for each packet."""
    return _inspect(box, "test", {"packets": list(packets), **params})["results"]


def _inspect(box: Sandbox, function: str, params: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    code = (
        "import json, sys\n"
        "from ansible_collections.cnf.ebpf.plugins.module_utils import _inspect_policy as i\n"
        f"print(json.dumps(i.{function}(json.load(sys.stdin))))"
    )
    params = {"topology": "edge", "object": "router", **params}
    done = box.run(box.python, "-c", code, input=json.dumps(params), env=box.environment(), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def hits(box: Sandbox) -> t.Dict[str, int]:
    """Packets by outcome, for those that are any."""
    return {name: row["packets"] for name, row in info(box)["chain"].items() if row["packets"]}


def fetch(box: Sandbox, address: str) -> str:
    """A mebibyte by TCP from the server's virtual IP: its size, and whether it is intact."""
    family = "10" if ":" in address else "2"
    inside = ("ip", "netns", "exec")
    with box.popen(*inside, "server", sys.executable, "-c", TCP, family, address, "serve") as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        done = box.run(*inside, "client", sys.executable, "-c", TCP, family, address, "fetch", check=False)
        server.kill()
    return done.stdout.strip()


# --- the asymmetric case --------------------------------------------------------------------------------------------------


def test_replies_of_a_virtual_ip_go_back_the_way_that_clients_came(box: Sandbox, kind: str) -> None:
    before = box.bpf()
    converged(box, w.asymmetric(kind))
    w.addressed(box)
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (0, 0)
    converged(box, w.with_router(kind))
    assert (w.answers(box, w.VIP, count=5), w.answers(box, w.VIP6, count=5)) == (5, 5)
    assert (fetch(box, w.VIP), fetch(box, w.VIP6)) == ("1048576 True", "1048576 True")
    rows = {row["source"]: row for row in info(box)["entries"]}
    assert rows[f"{w.VIP}/32"]["packets"] > 5 and rows[f"{w.VIP}/32"]["fallbacks"] == 0
    converged(box, w.with_router(kind, entries=[]))
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (0, 0)
    removed(box)
    nothing_new(box, before)


def test_every_packet_is_counted_once(box: Sandbox, kind: str) -> None:
    converged(box, w.with_router(kind))
    w.addressed(box)
    assert w.answers(box, w.VIP, count=3) == 3
    start = hits(box)
    assert w.answers(box, w.VIP, count=7) == 7
    now = hits(box)
    assert {name: now[name] - start[name] for name in ("redirect", "source")} == {"redirect": 7, "source": 7}
    rows = info(box)["entries"]
    assert [row["packets"] for row in rows if row["source"] == f"{w.VIP}/32"] == [10]
    assert rows[0]["bytes"] == 10 * 98 and rows[0]["last_hit"].startswith("20")


def test_the_four_steps(box: Sandbox, kind: str) -> None:
    done = four_steps(box, w.with_router(kind))
    assert "create bpf_policy_entry edge/router (missing)" in done["actions"]
    assert done["after"]["bpf_policy_entry"] == [
        {
            "object": "router",
            "count": 2,
            "netns": "server",
            "entries": [
                {"source": f"{w.VIP}/32", "interface": "good", "next_hop": "10.0.1.1"},
                {"source": f"{w.VIP6}/128", "interface": "good", "next_hop": "fd00:1::1"},
            ],
        }
    ]
    changed = w.with_router(
        kind, entries=[{**w.ENTRIES[0], "strict": True, "comment": "ticket 7"}, w.ENTRIES[1]]
    )
    predicted = converged(box, changed, check=True)
    done = converged(box, changed)
    assert predicted["diff"] == done["diff"]
    assert done["actions"] == ["change bpf_policy_entry edge/router (changed source 192.168.100.5/32)"]
    assert done["diff"]["before"] == "policy edge/router: source 192.168.100.5/32: next_hops 10.0.1.1%good\n"
    assert done["diff"]["after"] == (
        "policy edge/router: source 192.168.100.5/32: next_hops 10.0.1.1%good strict # ticket 7\n"
    )
    settled(box, changed)
    removed(box)


def test_an_ipv4_packet_takes_an_ipv6_next_hop(box: Sandbox, kind: str) -> None:
    converged(box, w.with_router(kind, entries=[{**w.ENTRIES[0], "next_hop": "fd00:1::1"}]))
    w.addressed(box)
    assert w.answers(box, w.VIP) == 3
    assert fetch(box, w.VIP) == "1048576 True"


def test_a_next_hop_that_dies_and_comes_back_needs_nobody(box: Sandbox, kind: str) -> None:
    """Alive, far end down, back, admin down, back: the program finds out by itself and falls back to the kernel."""
    converged(box, w.with_router(kind))
    w.addressed(box)
    box.sh("ip netns exec server sysctl -qw net.ipv4.conf.good.ignore_routes_with_linkdown=1")
    assert _told(box) == ("redirect", 0)
    box.sh("ip -n router link set s0 down")
    _until(box, "fallback")
    assert what_if(box, VIP_REPLY)[0]["reason"] == "dead"
    box.sh("ip -n router link set s0 up; ip -n router route replace 192.168.100.5/32 via 10.0.1.2")
    _until(box, "redirect")
    box.sh("ip -n server link set good down")
    _until(box, "fallback")
    box.sh("ip -n server link set good up")
    _until(box, "redirect")
    assert w.answers(box, w.VIP) == 3


VIP_REPLY = {"source": w.VIP, "destination": "10.0.2.2"}


def _told(box: Sandbox) -> t.Tuple[str, int]:
    """What becomes of ten packets of the server's, and how many of them fell back."""
    start = hits(box)
    box.sh(f"ip netns exec server ping -I {w.VIP} -c 10 -i 0.02 -W 0.1 -q 10.0.2.2 || true")
    now = hits(box)
    fell = now.get("fallback", 0) - start.get("fallback", 0)
    return what_if(box, VIP_REPLY)[0]["outcome"], fell


def _until(box: Sandbox, outcome: str) -> None:
    """Traffic goes on until the router does this with it; the kernel resolves neighbours in seconds."""
    for _attempt in range(60):
        if _told(box)[0] == outcome:
            return
    raise AssertionError(what_if(box, VIP_REPLY))


# --- several ways ---------------------------------------------------------------------------------------------------------


def ways(kind: str, names: t.Sequence[str], sources: t.Sequence[str], **more: t.Any) -> t.Dict[str, t.Any]:
    """client [eth0] == [c0] router [<name>] == [r] <name>, each of which answers for SERVICE; the default goes by the first."""
    pairs = [w.pair(kind, w.end("c0", "router", "2", 1), w.end("eth0", "client", "2", 2))]
    routes = [
        {"netns": "client", "destination": "default", "via": "10.0.2.1"},
        {"netns": "client", "destination": "default", "via": "fd00:2::1"},
        {"netns": "router", "destination": "default", "via": "10.0.11.2"},
        {"netns": "router", "destination": "default", "via": "fd00:11::2"},
    ]
    addresses = [
        {"netns": "client", "dev": "lo", "address": f"{source}/{128 if ':' in source else 32}"}
        for source in sources
    ]
    for number, name in enumerate(names, 11):
        pairs.append(w.pair(kind, w.end(name, "router", str(number), 1), w.end("r", name, str(number), 2)))
        routes += [
            {"netns": name, "destination": "default", "via": f"10.0.{number}.1"},
            {"netns": name, "destination": "default", "via": f"fd00:{number}::1"},
        ]
        addresses += [
            {"netns": name, "dev": "lo", "address": f"{SERVICE}/32"},
            {"netns": name, "dev": "lo", "address": f"{SERVICE6}/128"},
        ]
    routes += [
        {"netns": "router", "destination": f"{source}/{128 if ':' in source else 32}", "via": via}
        for source in sources
        for via in ["fd00:2::2" if ":" in source else "10.0.2.2"]
    ]
    return {
        "netns": [{"name": name} for name in ("client", "router", *names)],
        ("link" if kind == "veth" else "netkit_link"): pairs,
        "address": addresses,
        "route": routes,
        "sysctl_forwarding": [
            {"netns": "router", "ipv4": True, "ipv6": True, "rp_filter": "off"},
            *({"netns": "router", "interface": name, "rp_filter": "off"} for name in ("c0", *names)),
        ],
        "bpf_object": [{**w.ROUTER, "constants": {"decrement_ttl": 1}}],
        "tcx_attach": [{"object": "router", "program": "policy_router", "link": "c0", "netns": "router"}],
        **more,
    }


def via(name: str, number: int, **match: t.Any) -> t.Dict[str, t.Any]:
    """An entry that leads to one of the ways."""
    address = (
        f"fd00:{number}::2"
        if ":" in str(match.get("source", match.get("destination", "")))
        else f"10.0.{number}.2"
    )
    return {"object": "router", "netns": "router", "interface": name, "next_hop": address, **match}


class Answering:
    """In each way, somebody who says its name to whoever asks at a port."""

    def __init__(self, box: Sandbox, names: t.Sequence[str], ports: t.Sequence[int]) -> None:
        self.box = box
        self.processes = []
        for name in names:
            for address in (SERVICE, SERVICE6):
                for port in ports:
                    process = box.popen(
                        "ip", "netns", "exec", name, sys.executable, "-c", ANSWERER, address, str(port), name
                    )
                    assert process.stdout is not None and process.stdout.readline() == "ready\n"
                    self.processes.append(process)

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def who(self, source: str, port: int = 7000) -> str:
        destination = SERVICE6 if ":" in source else SERVICE
        words = ("ip", "netns", "exec", "client", sys.executable, "-c", ASKER, source, destination, str(port))
        return self.box.run(*words).stdout.strip()


def test_two_providers_by_customer_the_longest_prefix_wins(box: Sandbox, kind: str) -> None:
    sources = ("10.1.1.1", "10.1.2.1", "10.1.2.3", "10.7.0.1", "172.16.0.1", "fd01:1::1", "fd01:2::1")
    entries = [
        via("isp2", 12, source="10.0.0.0/8"),
        via("isp1", 11, source="10.1.0.0/16"),
        via("isp2", 12, source="10.1.2.0/24"),
        via("isp1", 11, source="10.1.2.3"),
        via("isp2", 12, source="fd01::/16"),
        via("isp1", 11, source="fd01:2::/32"),
    ]
    converged(box, ways(kind, ("isp1", "isp2"), sources, bpf_policy_entry=entries))
    w.addressed(box)
    with Answering(box, ("isp1", "isp2"), (7000,)) as answering:
        assert {source: answering.who(source) for source in sources} == {
            "10.1.1.1": "isp1",
            "10.1.2.1": "isp2",
            "10.1.2.3": "isp1",
            "10.7.0.1": "isp2",
            "172.16.0.1": "isp1",  # no entry: the kernel's default route
            "fd01:1::1": "isp2",
            "fd01:2::1": "isp1",
        }
        told = what_if(
            box, *({"source": source, "destination": SERVICE} for source in sources if ":" not in source)
        )
        assert [row["interface"] for row in told] == ["isp1", "isp2", "isp1", "isp2", None]
        assert [(row["entry"] or {}).get("source") for row in told] == [
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.3/32",
            "10.0.0.0/8",
            None,
        ]
        exempted = [*entries[1:], via("isp2", 12, source="10.0.0.0/8")]
        exempted[1] = {"object": "router", "netns": "router", "source": "10.1.2.0/24", "action": "exempt"}
        done = converged(box, ways(kind, ("isp1", "isp2"), sources, bpf_policy_entry=exempted))
        assert done["actions"] == ["change bpf_policy_entry edge/router (changed source 10.1.2.0/24)"]
        assert answering.who("10.1.2.1") == "isp1"


def test_conditions_go_before_sources_and_fall_through(box: Sandbox, kind: str) -> None:
    sources = ("10.1.1.1", "10.2.1.1", "fd01:1::1")
    entries = [
        via("isp2", 12, protocol="udp", destination_port="7001-7002", source="10.1.0.0/16"),
        via("isp2", 12, protocol="udp", destination_port=7002),
        via("isp3", 13, protocol="udp", destination_port=7003, priority=-1, comment="goes first"),
        via("isp2", 12, protocol="udp", destination_port="7003-7004", source="10.1.1.1"),
        via("isp3", 13, source="10.1.1.1"),
    ]
    converged(box, ways(kind, ("isp1", "isp2", "isp3"), sources, bpf_policy_entry=entries))
    w.addressed(box)
    with Answering(box, ("isp1", "isp2", "isp3"), (7000, 7001, 7002, 7003, 7004)) as answering:
        got = {
            (source, port): answering.who(source, port)
            for source in sources[:2]
            for port in range(7000, 7005)
        }
        assert got == {
            ("10.1.1.1", 7000): "isp3",
            ("10.1.1.1", 7001): "isp2",
            ("10.1.1.1", 7002): "isp2",
            ("10.1.1.1", 7003): "isp3",
            ("10.1.1.1", 7004): "isp2",
            ("10.2.1.1", 7000): "isp1",
            ("10.2.1.1", 7001): "isp1",
            ("10.2.1.1", 7002): "isp2",
            ("10.2.1.1", 7003): "isp3",
            ("10.2.1.1", 7004): "isp1",
        }
        for (source, port), name in got.items():
            packet = {"source": source, "destination": SERVICE, "protocol": "udp", "destination_port": port}
            told = what_if(box, packet)[0]
            assert (told["interface"] or "isp1") == name
            if port == 7003:
                assert told["entry"]["comment"] == "goes first"


def test_service_and_management_networks_by_destination(box: Sandbox, kind: str) -> None:
    sources = ("10.1.1.1", "fd01:1::1")
    entries = [
        via("service", 11, destination="192.0.2.0/24"),
        via("manage", 12, destination="198.51.100.0/24"),
        via("manage", 12, destination="2001:db8::/32"),
        {"object": "router", "netns": "router", "destination": "192.0.2.77", "action": "drop"},
    ]
    document = ways(kind, ("service", "manage"), sources, bpf_policy_entry=entries)
    document["address"] += [{"netns": "manage", "dev": "lo", "address": "198.51.100.7/32"}]
    converged(box, document)
    w.addressed(box)
    with Answering(box, ("service", "manage"), (7000,)) as answering:
        assert (answering.who("10.1.1.1"), answering.who("fd01:1::1")) == ("service", "manage")
    assert w.answers(box, "198.51.100.7") == 3
    assert w.answers(box, "192.0.2.77") == 0
    assert hits(box)["drop"] == 3


def test_a_pool_shares_flows_by_weight_and_no_flow_moves(box: Sandbox, kind: str) -> None:
    names = ("fw1", "fw2", "fw3", "fw4")
    weights = (4, 3, 2, 1)

    def document(*given: int) -> t.Dict[str, t.Any]:
        members = [
            {"interface": name, "address": f"10.0.{number}.2", "weight": weight}
            for number, (name, weight) in enumerate(zip(names, given), 11)
        ]
        pool = {"object": "router", "netns": "router", "name": "walls", "members": members}
        entry = {"object": "router", "netns": "router", "source": "10.0.0.0/8", "pool": "walls"}
        return ways(kind, names, ("10.1.1.1",), bpf_pool=[pool], bpf_policy_entry=[entry])

    four_steps(box, document(*weights))
    chance = random.Random(7)
    flows = [
        {
            "source": f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}",
            "destination": SERVICE,
            "protocol": "tcp",
            "source_port": chance.randrange(1024, 65536),
            "destination_port": 443,
        }
        for _number in range(4000)
    ]
    first = [row["interface"] for row in what_if(box, *flows)]
    for name, weight in zip(names, weights):
        assert abs(first.count(name) / len(flows) - weight / 10) < 0.02, name
    assert [row["interface"] for row in what_if(box, *flows)] == first
    done = converged(box, document(4, 3, 2, 0))
    assert done["actions"] == ["change bpf_pool edge/router:walls (weight of 10.0.14.2%fw4 1 -> 0)"]
    drained = [row["interface"] for row in what_if(box, *flows)]
    assert drained.count("fw4") == 0
    stayed = [(had, has) for had, has in zip(first, drained) if had != "fw4"]
    assert sum(had != has for had, has in stayed) <= 0.02 * len(stayed)
    converged(box, document(4, 3, 2, 1))
    pool = info(box)["pools"][0]
    assert [round(10 * member["slots"] / pool["slots"]) for member in pool["members"]] == [4, 3, 2, 1]
    w.addressed(box)
    with Answering(box, names, (7000,)) as answering:
        assert answering.who("10.1.1.1") in names
    refused = converged(box, document(1, 1, 1, 1))
    assert "weight of 10.0.11.2%fw1 4 -> 1" in refused["actions"][0]
    removed(box)


def test_no_packet_is_lost_while_a_hundred_thousand_entries_are_exchanged(
    box: Sandbox, kind: str, tmp_path: Path
) -> None:
    """The stream's source is among both hundred thousand, by another way in each."""
    sources = ("10.1.1.1",)
    from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import policy_input

    def document(number: int, name: str, start: int) -> t.Dict[str, t.Any]:
        rows = [f"11.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(start, start + 99_999)]
        path = tmp_path / f"{name}.csv"
        lines = [f"{source},{name},10.0.{number}.2" for source in (*rows, sources[0])]
        path.write_text("\n".join(["source,interface,next_hop", *lines]))
        content = policy_input.read_file(str(path), path.name).to_text()
        entry = {"object": "router", "netns": "router", "content": content, "file": path.name}
        base = ways(kind, ("isp1", "isp2"), sources, bpf_policy_entry=[entry])
        # Both ways lead on to the same service, so that the stream has one receiver.
        base["address"] = [
            row for row in base["address"] if row["address"] not in (f"{SERVICE}/32", f"{SERVICE6}/128")
        ]
        return base

    def joined(base: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        base["netns"].append({"name": "service"})
        section = base["link" if kind == "veth" else "netkit_link"]
        for number, name in ((21, "isp1"), (22, "isp2")):
            section.append(
                w.pair(kind, w.end("s", name, str(number), 1), w.end(f"e{number}", "service", str(number), 2))
            )
            base["route"].append({"netns": name, "destination": f"{SERVICE}/32", "via": f"10.0.{number}.2"})
            base["sysctl_forwarding"].append({"netns": name, "ipv4": True})
        base["address"].append({"netns": "service", "dev": "lo", "address": f"{SERVICE}/32"})
        base["route"].append({"netns": "service", "destination": "default", "via": "10.0.21.1"})
        return base

    one, two = joined(document(11, "isp1", 0)), joined(document(12, "isp2", 200_000))
    converged(box, one)
    w.addressed(box)
    box.sh("ip -n client route replace default via 10.0.2.1 src 10.1.1.1")
    with Stream(box, "client", "service", SERVICE, gap=0.0005) as stream:
        for document_ in (two, one, two):
            done = converged(box, document_)
            assert done["actions"] == [
                "change bpf_policy_entry edge/router (99999 added, 99999 removed, 1 changed)"
            ]
            time.sleep(0.1)
    assert stream.sent > 2000
    assert (stream.received, stream.copies) == (stream.sent, 0)
    told = hits(box)
    assert told["redirect"] >= stream.sent
    assert "fallback" not in told and "bad_action" not in told


# --- bad days -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True])
def test_killed_after_every_operation_the_next_run_converges(box: Sandbox, kind: str, before: bool) -> None:
    one = w.with_router(kind)
    two = w.with_router(
        kind, entries=[{**w.ENTRIES[0], "strict": True}, {"source": "10.9.0.0/16", "action": "drop"}]
    )
    converged(box, one)
    wanted = [entry for entry in info(box)["entries"] if entry.pop("counted")]
    changes = {"kill_before" if before else "kill_after": 0}
    assert box.topology(two, **changes) == {"killed": True}
    assert len(converged(box, two)["actions"]) == (1 if before else 0)
    settled(box, two)
    assert box.topology(one, **changes) == {"killed": True}
    converged(box, one)
    settled(box, one)
    assert [row["source"] for row in info(box)["entries"]] == [row["source"] for row in wanted]


def test_failed_after_the_policy_everything_is_as_before(box: Sandbox, kind: str) -> None:
    one = w.with_router(kind)
    two = w.with_router(
        kind, entries=[{**w.ENTRIES[0], "strict": True}, {"source": "10.9.0.0/16", "action": "drop"}]
    )
    converged(box, one)
    digest, neighbors = info(box)["digest"], w.managed(box)
    answer = box.topology(two, fail_after=0)
    assert answer["undone"] == ["change bpf_policy_entry edge/router (undo: 1 added, 1 removed, 1 changed)"]
    assert (info(box)["digest"], w.managed(box)) == (digest, neighbors)
    settled(box, one)
    assert box.topology(two, fail_at=0)["error"].endswith("everything was put back as before")
    assert (info(box)["digest"], w.managed(box)) == (digest, neighbors)


def test_a_device_made_anew_is_found_by_the_next_run(box: Sandbox, kind: str) -> None:
    document = w.with_router(kind)
    converged(box, document)
    box.sh("ip -n server link del good")
    done = converged(box, document)
    assert [line for line in done["actions"] if "bpf_policy_entry" in line] == [
        "change bpf_policy_entry edge/router (2 changed)"
    ]
    w.addressed(box)
    assert (w.answers(box, w.VIP), w.answers(box, w.VIP6)) == (3, 3)
    settled(box, document)


def test_neighbours_come_and_go_with_next_hops(box: Sandbox, kind: str) -> None:
    converged(box, w.with_router(kind))
    has_arp = kind != "netkit l3"
    assert w.managed(box) == ([["10.0.1.1", "good"], ["fd00:1::1", "good"]] if has_arp else [])
    if has_arp:
        box.sh("ip -n server neigh del 10.0.1.1 dev good")
        done = converged(box, w.with_router(kind))
        assert done["actions"] == [
            "change bpf_policy_entry edge/router (neighbors missing for 10.0.1.1%good -> ok)"
        ]
    converged(box, w.with_router(kind, entries=[w.ENTRIES[1]]))
    assert w.managed(box) == ([["fd00:1::1", "good"]] if has_arp else [])
    converged(box, w.with_router(kind, entries=[]))
    assert w.managed(box) == []
