# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles for paths: chains, mirrors, tunnels, XDP and bridges, each in the steps of support/roles.py and with what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t

from bpf_steps import counters
from sandbox import Sandbox

from playbooks import Ansible, changed_lines, recap
from roles import Role, whole

CHAIN = "cnf-chain"
DESTINATION = ("10.209.0.2", "fd00:209::2")
COUNT_IPV4 = 1


def near(number: int) -> t.Tuple[str, str]:
    """The addresses of a stage towards the source."""
    return f"10.210.{number * 4 // 256}.{number * 4 % 256 + 2}", f"fd00:210:0:{number:x}::2"


def hop(box: Sandbox, family: int, ttl: int) -> str:
    """Who answers a packet that may make so many hops."""
    words = f"ip netns exec source ping -n -c 1 -W 5 -t {ttl} {DESTINATION[family]}"
    said = box.run(*words.split(), check=False).stdout
    found = re.search(r"From (\S+) icmp_seq=1 Time (?:to live )?exceeded|from (\S+): icmp_seq=1 ttl", said)
    assert found, said
    return found.group(1) or found.group(2)


def hops_in_order(box: Sandbox, stages: t.Mapping[str, int]) -> None:
    """Packets that live for n hops end at the n-th stage, and every stage has seen as many as got to it."""
    before = {name: counters(box, name, CHAIN).get(COUNT_IPV4, 0) for name in stages}
    for family in (0, 1):
        expected = [near(number)[family] for number in stages.values()] + [DESTINATION[family]]
        assert [hop(box, family, ttl) for ttl in range(1, len(expected) + 1)] == expected
    for position, name in enumerate(stages):
        assert counters(box, name, CHAIN)[COUNT_IPV4] - before[name] == len(stages) + 1 - position


def test_cnf_chain(box: Sandbox, ansible: Ansible) -> None:
    whole(box, Role(ansible, "cnf_chain"), lambda: hops_in_order(box, {"cnf1": 1, "cnf2": 2}))


def test_a_chain_that_is_left_out_or_passed_in_another_order_is_found(box: Sandbox, ansible: Ansible) -> None:
    role = Role(ansible, "cnf_chain")
    role.run(verify=True)
    # Past the first stage, by a pair that leads to the second: everything still answers.
    box.sh("""
        ip -n source link add past type veth peer name past netns cnf2
        ip -n source address add 10.1.1.1/24 dev past; ip -n cnf2 address add 10.1.1.2/24 dev past
        ip -n source link set past up; ip -n cnf2 link set past up
        ip -n source route add 10.209.0.2/32 via 10.1.1.2 src 10.209.0.1 metric 0 tos 0 table 77
        ip -n source rule add to 10.209.0.2 lookup 77
        ip -n cnf2 route add 10.209.0.1/32 via 10.1.1.1 table 77
        ip -n cnf2 rule add to 10.209.0.1 lookup 77
    """)
    ping(box, "source", "10.209.0.2")
    error = role.refused(verify=True)
    assert (
        "netns source -> 10.209.0.2 icmp ttl 1: unreachable, 0 of 1 answered (time exceeded (from 10.1.1.2)); "
        f"expected expired at {near(1)[0]}" in error
    )
    assert "netns destination -> 10.209.0.1 icmp ttl 2: reachable, 1 of 1 answered; expected expired" in error
    assert "3 of 12 probes were not as expected" in error  # the other family goes as it should
    box.sh("ip -n source rule del to 10.209.0.2 lookup 77; ip -n cnf2 rule del to 10.209.0.1 lookup 77")
    role.run(verify=True)
    ends = {"source": {"name": "source", "addresses": ["10.209.0.1/32"]}}
    ends["destination"] = {"name": "destination", "addresses": ["fd00:209::2/128"]}
    assert "have no family in common" in role.refused(**ends, verify=True)


def stage(name: str, number: int, **more: t.Any) -> t.Dict[str, t.Any]:
    return {"name": name, "id": number, **more}


ONE, TWO, EXTRA = stage("cnf1", 1), stage("cnf2", 2), stage("extra", 300)


def program(box: Sandbox, name: str) -> t.Any:
    """The number of a stage's program in the kernel, another one whenever it is loaded."""
    pin = f"/sys/fs/bpf/cnf/{CHAIN}/{name}/programs/count"
    return json.loads(box.run("bpftool", "-j", "prog", "show", "pinned", pin).stdout)["id"]


def test_stages_of_a_live_chain_keep_their_programs_and_counts(box: Sandbox, ansible: Ansible) -> None:
    """Put in, moved, and taken out, first, last and in between."""
    role = Role(ansible, "cnf_chain")
    before: t.List[t.Dict[str, t.Any]] = [ONE, TWO]
    role.run(stages=before, verify=True)
    hops_in_order(box, {"cnf1": 1, "cnf2": 2})
    for after in ([ONE, EXTRA, TWO], [EXTRA, TWO, ONE], [TWO, ONE], [TWO, ONE, EXTRA], [TWO, EXTRA]):
        stay = [item["name"] for item in before if item in after]
        hooks = box.bpf()["hooks"]
        kept = {name: (program(box, name), hooks[f"{name}:front ingress"]) for name in stay}
        counted = {name: counters(box, name, CHAIN)[COUNT_IPV4] for name in stay}
        predicted = role.run("--check", "--diff", stages=after)
        done = role.run("--diff", stages=after)
        lines = changed_lines(done)
        assert changed_lines(predicted) == lines
        # Nothing of theirs was loaded or attached anew: the same programs, and hooks that have not changed (revision).
        come_or_gone = {item["name"] for item in (*before, *after)} - set(stay)
        for line in lines:
            if re.search("bpf_object|_attach", line):
                assert any(name in line for name in come_or_gone), line
        hooks = box.bpf()["hooks"]
        for name, found in kept.items():
            assert (program(box, name), hooks[f"{name}:front ingress"]) == found
            assert counters(box, name, CHAIN)[COUNT_IPV4] == counted[name]
        assert recap(role.run(stages=after, verify=True))["localhost"]["changed"] == 0
        hops_in_order(box, {item["name"]: item["id"] for item in after})
        before = after


def test_a_chain_of_16_and_not_of_17(box: Sandbox, ansible: Ansible) -> None:
    both = {"hooks": ["peer", "primary"], "program": "filter", "object": {"source": "filter.bpf.c"}}
    stages = [stage(f"s{number}", number * 1000) for number in range(16, 1, -1)]
    named = [*stages, {"name": "last", **both}]
    role = Role(ansible, "cnf_chain")
    said = role.run("--check", "--diff", stages=named)
    (own,) = re.findall(r"front 10\.210\.([0-9]+)\.([0-9]+)/30 in netns last", said)
    number = (int(own[0]) * 256 + int(own[1]) - 2) // 4
    assert 256 <= number < 16384
    role.run(stages=named, verify=True)
    assert box.hooks()["last:front ingress"] == box.hooks()["last:front egress"] == [f"{CHAIN}/last:filter"]
    role.run(stages=[*stages, stage("last", number)], verify=True)
    hops_in_order(box, {**{item["name"]: item["id"] for item in stages}, "last": number})
    for wrong in (
        [],
        [*named, ONE],
        [ONE, stage("cnf2", 1)],
        [ONE, stage("cnf1", 2)],
        [stage("front", 1)],
        [stage("cnf1", 16384)],
    ):
        assert "cnf_chain needs 1 to 16 stages" in role.refused(stages=wrong)


MIRROR = (
    "SEEN",
    "COPIED",
    "SAMPLED_OUT",
    "NO_TARGET",
    "LOOP",
    "FAILED",
    "SNAPPED",
    "SNAP_SHORT",
    "SNAP_FAILED",
)


def mirrored(box: Sandbox) -> t.List[t.Dict[str, int]]:
    """What the mirror has counted, for each CPU, at a moment when nothing passes."""
    pin = "/sys/fs/bpf/cnf/traffic-mirror/mirror/maps/counters"
    text = ""
    while text != (text := box.run("bpftool", "-j", "map", "dump", "pinned", pin).stdout):
        pass
    found: t.Dict[int, t.Dict[str, int]] = {}
    for name, row in zip(MIRROR, json.loads(text)):
        for cpu in row["formatted"]["values"]:
            found.setdefault(cpu["cpu"], {})[name] = cpu["value"]["packets"]
    return list(found.values())


def total(box: Sandbox, name: str) -> int:
    return sum(cpu[name] for cpu in mirrored(box))


def ping(box: Sandbox, netns: str, *addresses: str, count: int = 3) -> None:
    for address in addresses:
        box.sh(f"ip netns exec {netns} ping -q -i 0.05 -W 5 -c {count} {address}")


def test_traffic_mirror(box: Sandbox, ansible: Ansible) -> None:
    def proof() -> None:
        copies = int(box.sh("ip netns exec monitor cat /sys/class/net/mon0/statistics/rx_packets"))
        before = total(box, "COPIED")
        ping(box, "ns1", "10.0.2.2", "fd00:2::2")
        assert total(box, "COPIED") - before >= 12  # requests and replies
        assert [total(box, name) for name in ("SAMPLED_OUT", "NO_TARGET", "LOOP", "FAILED")] == [0] * 4
        # Copies are there, beside what the kernel itself sends there.
        now = int(box.sh("ip netns exec monitor cat /sys/class/net/mon0/statistics/rx_packets"))
        assert now - copies >= 12

    whole(box, Role(ansible, "traffic_mirror"), proof)


def test_a_monitor_that_fails_does_no_harm(box: Sandbox, ansible: Ansible) -> None:
    role = Role(ansible, "traffic_mirror")
    role.run(verify=True)
    assert total(box, "FAILED") == 0
    for damage in (
        "ip -n monitor link set mon0 down",
        "ip -n cnf link set monitor down",
        "ip -n monitor link del mon0",
    ):
        failed = total(box, "FAILED")
        box.sh(damage)
        ping(box, "ns1", "10.0.2.2", "fd00:2::2")
        assert total(box, "FAILED") - failed >= 12, damage
    assert recap(role.run(verify=True))["localhost"]["changed"] == 1
    failed = total(box, "FAILED")
    ping(box, "ns1", "10.0.2.2", "fd00:2::2")
    assert total(box, "FAILED") == failed


def test_a_sample_is_every_nth_packet_and_may_be_cut(box: Sandbox, ansible: Ansible) -> None:
    role = Role(ansible, "traffic_mirror", sample_every=4, snap_bytes=96)
    assert "traffic_mirror_sample_every: 0 is no number of packets" in role.refused(sample_every=0)
    # Cut within their headers copies are lost, which only the proof tells: what they are copies of goes on.
    error = role.refused(snap_bytes=20, verify=True)
    assert re.search(
        "traffic-mirror/mirror: map counters, key 8: [0-9]+ before and [0-9]+ after; expected to stay", error
    )
    role.run(state="absent")
    role.run(verify=True)
    ping(box, "ns1", "10.0.2.2", "fd00:2::2", count=20)
    rows = mirrored(box)
    assert sum(row["SEEN"] for row in rows) >= 80
    for row in rows:
        assert row["COPIED"] == -(-row["SEEN"] // 4)
        assert row["SAMPLED_OUT"] == row["SEEN"] - row["COPIED"]
    assert total(box, "SNAPPED") > 0
    assert total(box, "SNAP_FAILED") == 0


def test_bridge_segment(box: Sandbox, ansible: Ansible) -> None:
    def proof() -> None:
        ports = {link["ifname"]: link.get("master") for link in box.ip("link")}
        assert ports == {"lo": None, "br-segment": None, "h1": "br-segment", "h2": "br-segment"}
        ping(box, "h1", "10.0.3.12", "fd00:3::1")
        learned = {row["ifname"] for row in json.loads(box.run("bridge", "-j", "fdb", "show").stdout)}
        assert {"h1", "h2"} <= learned

    whole(box, Role(ansible, "bridge_segment"), proof)


def test_bridge_segment_with_a_port_that_was_there(box: Sandbox, ansible: Ansible) -> None:
    box.sh("""
        ip netns add outside
        ip link add wire type veth peer name far netns outside
        ip -n outside link set far up
        ip -n outside address add 10.0.3.99/24 dev far
    """)
    role = Role(ansible, "bridge_segment", ports=["wire"], netns="lan", options={"ageing_time": 10})
    role.variables["bridge_segment_hosts"] = [{"name": "h1", "addresses": ["10.0.3.11/24"]}]
    whole(box, role, lambda: ping(box, "h1", "10.0.3.99"))


# The far end of a tunnel: answers every echo request, and prints source and time to live of each.
TUNNEL = """
import fcntl, os, select, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", b"tunnel0", 0x1001))
print("ready", flush=True)
while select.select([fd, sys.stdin], [], [])[0] != [sys.stdin]:
    data = bytearray(os.read(fd, 2000))
    is_ipv4 = data[0] >> 4 == 4
    size, protocol, life, source, target = (20, data[9], data[8], slice(12, 16), slice(16, 20)) if is_ipv4 else (
        40, data[6], data[7], slice(8, 24), slice(24, 40))
    if protocol not in (1, 58) or data[size] not in (8, 128):
        continue
    print(data[source].hex(), life, flush=True)
    old = data[size]
    data[size] = 0 if old == 8 else 129
    total = (data[size + 2] << 8 | data[size + 3]) + ((old - data[size]) << 8)
    total = (total & 0xFFFF) + (total >> 16)
    data[size + 2], data[size + 3] = (total >> 8) & 0xFF, total & 0xFF
    data[source], data[target] = data[target], data[source]
    os.write(fd, data)
"""


def test_tunnel_endpoint(box: Sandbox, ansible: Ansible) -> None:
    def proof() -> None:
        inside = ("ip", "netns", "exec", "endpoint", sys.executable, "-c", TUNNEL)
        tunnel = subprocess.Popen(
            box.command(*inside), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert tunnel.stdout is not None and tunnel.stdout.readline() == "ready\n"
        try:
            ping(box, "client", "192.0.2.9", "2001:db8::9")
            ping(box, "client", "10.0.5.1", "fd00:5::1")  # exempt: the endpoint itself answers
        finally:
            said = tunnel.communicate("\n", timeout=20)[0].splitlines()
        assert said == ["0a000502 63"] * 3 + ["fd000005000000000000000000000002 63"] * 3

    whole(box, Role(ansible, "tunnel_endpoint"), proof)


REDIRECT, EXEMPT, STRICT_DROP = 5, 8, 10


def test_tunnel_endpoint_with_devices_that_were_there(box: Sandbox, ansible: Ansible) -> None:
    """On the host; a device without carrier is refused where that is asked for, and nothing goes past a tunnel that is gone."""
    box.sh("""
        ip netns add site
        ip link add wire type veth peer name eth0 netns site
        ip address add 10.1.0.1/24 dev wire
        ip tuntap add dev wg9 mode tun
        ip link set wire up; ip link set wg9 up; ip -n site link set eth0 up
        ip -n site address add 10.1.0.2/24 dev eth0
        ip -n site route add default via 10.1.0.1
    """)
    role = Role(
        ansible,
        "tunnel_endpoint",
        netns="",
        device="wg9",
        make_device=False,
        clients=[],
        ingress=["wire"],
        sources=["10.1.0.0/16"],
        exempt=["10.1.0.1"],
    )
    assert "no carrier" in role.refused(validate="strict")

    def proof() -> None:
        ping(box, "site", "10.1.0.1")
        box.sh("! ip netns exec site ping -c 2 -i 0.05 -W 0.1 -q 192.0.2.9")
        seen = counters(box, "router", "tunnel-endpoint")
        assert (seen[REDIRECT], seen[EXEMPT], seen.get(STRICT_DROP, 0)) == (2, 3, 0)

    whole(box, role, proof)
    role.run()
    box.sh("ip link del wg9; ! ip netns exec site ping -c 2 -i 0.05 -W 0.1 -q 192.0.2.9")
    assert counters(box, "router", "tunnel-endpoint")[STRICT_DROP] == 2


SENT, MISSED = 0, 1


def redirected(box: Sandbox) -> t.Dict[int, int]:
    return counters(box, "gateway", "xdp-gateway")


def test_xdp_gateway(box: Sandbox, ansible: Ansible) -> None:
    def proof() -> None:
        before = redirected(box)[SENT]
        ping(box, "ns1", "10.0.4.2", "fd00:4::2")
        assert redirected(box)[SENT] - before >= 12
        assert redirected(box).get(MISSED, 0) == 0

    def more_indexes() -> None:
        """The devices that programs send to are in a namespace, where the map of another size gets them from as well."""
        before = box.bpf()
        for options in ("--check",), ():
            assert recap(role.run(*options, indexes=32))["localhost"]["changed"] == 1
        assert box.bpf() != before
        proof()
        assert recap(role.run(indexes=32, verify=True))["localhost"]["changed"] == 0
        role.run()

    role = Role(ansible, "xdp_gateway")
    whole(box, role, lambda: (proof(), more_indexes()))
    assert "needs two devices" in role.refused(ports=[{"device": "eth1"}])
    assert "needs two devices" in role.refused(ports=[{"device": "eth1"}, {"device": "eth1"}])


def test_xdp_gateway_in_generic_mode_between_devices_that_were_there(box: Sandbox, ansible: Ansible) -> None:
    for name, address in (("one", "10.0.4.1"), ("two", "10.0.4.2")):
        box.sh(f"""
            ip netns add {name}
            ip link add {name} type veth peer name eth0 netns {name}
            ip link set {name} up
            ip -n {name} link set eth0 up
            ip -n {name} address add {address}/24 dev eth0
        """)
    ports = [{"device": "one"}, {"device": "two"}]
    role = Role(ansible, "xdp_gateway", netns="", ports=ports, mode="generic")
    role.run()
    assert "give what to ask in xdp_gateway_probes" in role.refused(verify=True)
    role.run(state="absent")
    role.variables["xdp_gateway_probes"] = [{"netns": "one", "destination": "10.0.4.2"}]
    whole(box, role, lambda: ping(box, "one", "10.0.4.2"))
    assert {"one", "two"} <= {link["ifname"] for link in box.ip("link")}
