# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes between three namespaces, client - router - server, made for the test and removed with it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils import _probe
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import namespaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

SERVER4, SERVER6 = "10.9.2.2", "fd09:2::2"
FILTERED_SOURCE = "10.9.1.3"  # the server has a blackhole route back to it
PORT = 7777

COMMANDS = """
-n {c} link set lo up
-n {s} link set lo up
-n {c} link add c0 type veth peer name r0 netns {r}
-n {r} link add r1 type veth peer name s0 netns {s}
-n {c} address add 10.9.1.2/24 dev c0
-n {c} address add 10.9.1.3/24 dev c0
-n {c} address add fd09:1::2/64 dev c0 nodad
-n {r} address add 10.9.1.1/24 dev r0
-n {r} address add fd09:1::1/64 dev r0 nodad
-n {r} address add 10.9.2.1/24 dev r1
-n {r} address add fd09:2::1/64 dev r1 nodad
-n {s} address add 10.9.2.2/24 dev s0
-n {s} address add fd09:2::2/64 dev s0 nodad
-n {c} link set c0 up
-n {r} link set r0 up
-n {r} link set r1 up
-n {s} link set s0 up
-n {c} route add default via 10.9.1.1
-n {c} -6 route add default via fd09:1::1
-n {s} route add default via 10.9.2.1
-n {s} -6 route add default via fd09:2::1
-n {s} route add blackhole 10.9.1.3
"""


def ip(command):
    subprocess.run(["ip", *shlex.split(command)], check=True, stdout=subprocess.DEVNULL)


class Net:
    """The three namespaces' names and servers in the last one."""

    def __init__(self):
        tag = secrets.token_hex(4)
        self.c, self.r, self.s = (f"rch-{tag}-{letter}" for letter in "crs")

    def ip(self, command):
        ip(command.format(c=self.c, r=self.r, s=self.s))

    def build(self):
        for name in (self.c, self.r, self.s):
            ip(f"netns add {name}")
        for command in COMMANDS.strip().splitlines():
            self.ip(command)
        with namespaces.entered(self.r):
            for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
                    file.write("1")

    def remove(self):
        for name in (self.c, self.r, self.s):
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)

    @contextlib.contextmanager
    def bound(self, kind, address=SERVER4):
        with namespaces.entered(self.s):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, PORT))
            yield sock

    @contextlib.contextmanager
    def udp_server(self, address=SERVER4, answer=lambda number, data: [data]):
        """Send to each datagram what ``answer`` makes of its number and its bytes."""
        with self.bound(socket.SOCK_DGRAM, address) as sock:
            thread = threading.Thread(target=self._serve, args=(sock, answer))
            thread.start()
            try:
                yield
            finally:
                self._stop(sock)
                thread.join()

    def _stop(self, sock):
        with namespaces.entered(self.s):
            with socket.socket(sock.family, socket.SOCK_DGRAM) as other:
                other.sendto(b"stop", sock.getsockname())

    @staticmethod
    def _serve(sock, answer):
        number = 0
        while True:
            data, peer = sock.recvfrom(65536)
            if data == b"stop":
                return
            for message in answer(number, data):
                sock.sendto(message, peer)
            number += 1


@contextlib.contextmanager
def built():
    net = Net()
    try:
        net.build()
        yield net
    finally:
        net.remove()


@pytest.fixture(scope="module")
def net():
    with built() as found:
        yield found


@pytest.fixture
def own_net():
    """For a test that breaks it."""
    with built() as found:
        yield found


def run(*probes, **task):
    entries = [{**dict.fromkeys(_probe.PROBE_SPEC), **item} for item in probes]
    return _probe.run(_probe.parse({**_probe.DEFAULTS, **task, "probes": entries}))


def verdict(**probe):
    (outcome,) = run(probe)
    return outcome.verdict


# --- ICMP


@pytest.mark.parametrize("size", [0, 3, 56, 4000])
@pytest.mark.parametrize("destination", [SERVER4, SERVER6])
def test_an_address_behind_a_router_answers(net, destination, size):
    found = verdict(netns=net.c, destination=destination, size=size, timeout=5.0)
    assert (found.sent, found.received, found.loss, found.reason) == (3, 3, 0.0, "")
    assert found.reachable and found.expected
    assert 0 < found.rtt_min <= found.rtt_avg <= found.rtt_max < 5000


@pytest.mark.parametrize("destination", ["127.0.0.1", "::1", "10.9.1.2"])
def test_the_own_address_answers(net, destination):
    assert verdict(netns=net.c, destination=destination, timeout=5.0).received == 3


@pytest.mark.parametrize(
    ("destination", "router"), [("10.99.0.1", "10.9.1.1"), ("fd99::1", "fd09:1::1")], ids=["IPv4", "IPv6"]
)
def test_an_error_of_a_router_is_loss_with_its_reason(own_net, destination, router):
    """Routers limit the rate of their errors, so each case has one of its own and asks once."""
    found = verdict(netns=own_net.c, destination=destination, count=1, expect="unreachable", timeout=5.0)
    assert (found.received, found.expected) == (0, True)
    assert found.reason == f"destination unreachable: no route (from {router})"


@pytest.mark.parametrize(
    ("destination", "router"), [(SERVER4, "10.9.1.1"), (SERVER6, "fd09:1::1")], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize("protocol", ["icmp", "udp", "tcp"])
def test_the_router_at_which_a_packet_expires_reports_it(own_net, destination, router, protocol):
    port = {} if protocol == "icmp" else {"port": PORT}
    asked = {
        "netns": own_net.c,
        "destination": destination,
        "protocol": protocol,
        "count": 1,
        "timeout": 5.0,
        **port,
    }
    found = verdict(**asked, ttl=1, expect="expired", reporter=router)
    assert (found.expected, found.reason) == (True, f"time exceeded (from {router})")
    assert not verdict(**asked, ttl=1, expect="expired", reporter=destination).expected
    if protocol == "icmp":
        assert verdict(**asked, ttl=2).expected
        assert not verdict(**asked, ttl=2, expect="expired").expected


@pytest.mark.parametrize("destination", ["10.99.0.1", "fd99::1"])
def test_a_namespace_without_a_route_is_unreachable_at_once(net, destination):
    found = verdict(netns=net.r, destination=destination, timeout=600.0, interval=0.0)
    assert (found.sent, found.received) == (3, 0)
    assert found.reason == "destination unreachable: no route (from this host)"


def test_an_answer_is_a_failure_when_none_is_expected(net):
    found = verdict(netns=net.c, destination=SERVER4, expect="unreachable", timeout=5.0)
    assert (found.reachable, found.expected) == (True, False)


@pytest.mark.parametrize("destination", [SERVER4, SERVER6])
def test_a_link_that_is_down_loses_all(own_net, destination):
    own_net.ip("-n {s} link set s0 down")
    found = verdict(netns=own_net.c, destination=destination, timeout=0.3)
    assert (found.sent, found.received, found.loss, found.reachable) == (3, 0, 100.0, False)
    assert found.rtt_avg is None


def test_a_link_that_goes_down_loses_a_part(own_net):
    timer = threading.Timer(0.5, own_net.ip, ["-n {s} link set s0 down"])
    target = {"netns": own_net.c, "destination": SERVER4}
    timer.start()
    (outcome,) = run({**target, "count": 20, "timeout": 0.3, "max_loss": 1.0})
    timer.join()
    found = outcome.verdict
    assert found.sent == 20
    assert 0 < found.received < 20
    assert found.loss == 100 - found.received * 5
    assert (found.reachable, found.expected) == (False, False)
    assert "partly reachable" in _probe.summary([outcome])


def test_a_link_local_address_by_scope_and_by_device(net):
    with namespaces.entered(net.r):
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
    (raw,) = [row[0] for row in rows if row[5] == "r0" and row[0].startswith("fe80")]
    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw))
    outcomes = run(
        {"netns": net.c, "destination": f"{address}%c0"},
        {"netns": net.c, "destination": address, "dev": "c0"},
        wait=10.0,
    )
    assert [outcome.verdict.received for outcome in outcomes] == [3, 3]


def test_an_address_in_duplicate_address_detection_is_waited_for(own_net):
    own_net.ip("-n {c} address add fd09:1::77/64 dev c0")
    (outcome,) = run({"netns": own_net.c, "destination": SERVER6, "source": "fd09:1::77", "wait": 15.0})
    assert outcome.verdict.reachable
    assert outcome.attempts > 1


def test_packets_leave_by_the_device_asked_for(net):
    assert verdict(netns=net.r, destination=SERVER4, dev="r1", timeout=5.0).received == 3
    assert verdict(netns=net.r, destination=SERVER4, dev="r0", timeout=0.2).received == 0


# --- TCP


@pytest.mark.parametrize("destination", [SERVER4, SERVER6])
def test_a_listening_port_is_reachable(net, destination):
    with net.bound(socket.SOCK_STREAM, destination) as sock:
        sock.listen(16)
        found = verdict(netns=net.c, destination=destination, protocol="tcp", port=PORT, timeout=5.0)
    assert (found.received, found.reachable) == (3, True)
    assert found.rtt_min > 0


@pytest.mark.parametrize("destination", [SERVER4, SERVER6])
def test_a_closed_port_refuses_at_once(net, destination):
    found = verdict(netns=net.c, destination=destination, protocol="tcp", port=PORT, timeout=600.0)
    assert (found.received, found.reachable, found.reason) == (0, False, "connection refused")


def test_a_filtered_port_gives_no_answer(net):
    with net.bound(socket.SOCK_STREAM) as sock:
        sock.listen(16)
        target = {"netns": net.c, "destination": SERVER4, "protocol": "tcp", "port": PORT, "timeout": 0.3}
        found = verdict(**target, source=FILTERED_SOURCE, expect="unreachable")
    assert (found.received, found.expected, found.reason) == (0, True, "no answer")


def test_a_blackhole_route_of_the_namespace_itself(own_net):
    own_net.ip("-n {c} route add blackhole 10.9.2.2")
    found = verdict(netns=own_net.c, destination=SERVER4, protocol="tcp", port=PORT, timeout=600.0)
    assert "blackhole" in found.reason


def test_the_error_of_a_router_ends_a_handshake(own_net):
    found = verdict(
        netns=own_net.c, destination="10.99.0.1", protocol="tcp", port=PORT, count=1, timeout=600.0
    )
    assert found.reason == "destination unreachable: no route (from 10.9.1.1)"


def test_a_port_that_starts_to_listen_is_waited_for(net):
    with net.bound(socket.SOCK_STREAM) as sock:
        timer = threading.Timer(1.0, sock.listen, [16])
        timer.start()
        target = {"netns": net.c, "destination": SERVER4, "protocol": "tcp", "port": PORT}
        (outcome,) = run({**target, "wait": 30.0})
        timer.join()
    assert outcome.verdict.reachable
    assert outcome.attempts > 1


def test_unreachable_is_waited_for_too(own_net):
    timer = threading.Timer(0.5, own_net.ip, ["-n {s} link set s0 down"])
    timer.start()
    target = {"netns": own_net.c, "destination": SERVER4, "timeout": 0.3, "expect": "unreachable"}
    (outcome,) = run({**target, "wait": 30.0})
    timer.join()
    assert outcome.verdict.expected
    assert outcome.attempts > 1


def test_nothing_answers_itself(net):
    """Connecting to an own port of the ephemeral range meets itself sooner or later."""
    with namespaces.entered(net.s):
        with open("/proc/sys/net/ipv4/ip_local_port_range", "r+", encoding="ascii") as file:
            file.write("40000 40001")
    try:
        target = {"netns": net.s, "destination": "127.0.0.1", "protocol": "tcp", "port": 40000}
        found = verdict(**target, count=40, interval=0.0, timeout=5.0)
    finally:
        with namespaces.entered(net.s):
            with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as file:
                file.write("32768 60999")
    assert found.received == 0


# --- UDP


@pytest.mark.parametrize("size", [0, 8, 56, 4000])
@pytest.mark.parametrize("destination", [SERVER4, SERVER6])
def test_an_echo_server_answers(net, destination, size):
    with net.udp_server(destination):
        found = verdict(
            netns=net.c, destination=destination, protocol="udp", port=PORT, size=size, timeout=5.0
        )
    assert (found.received, found.reachable) == (3, True)


def test_any_answer_of_the_server_counts(net):
    with net.udp_server(answer=lambda number, data: [b"hello"]):
        assert verdict(netns=net.c, destination=SERVER4, protocol="udp", port=PORT, timeout=5.0).received == 3


def test_answers_are_matched_to_what_they_answer(net):
    """The second datagram is answered, and that twice; the others are not."""
    with net.udp_server(answer=lambda number, data: [data, data] if number == 1 else []):
        found = verdict(netns=net.c, destination=SERVER4, protocol="udp", port=PORT, timeout=0.5)
    assert (found.sent, found.received, found.reason) == (3, 1, "no answer")


@pytest.mark.parametrize("destination", [SERVER4, SERVER6])
@pytest.mark.parametrize("size", [0, 56])
def test_a_closed_udp_port_is_told(net, destination, size):
    found = verdict(netns=net.c, destination=destination, protocol="udp", port=PORT, size=size, timeout=5.0)
    assert (found.received, found.reason) == (0, "port unreachable")


def test_a_silent_udp_port_gives_no_answer(net):
    with net.udp_server(answer=lambda number, data: []):
        found = verdict(netns=net.c, destination=SERVER4, protocol="udp", port=PORT, timeout=0.3)
    assert (found.received, found.reason) == (0, "no answer")


# --- many


def test_probes_run_at_the_same_time_and_come_back_in_order(net):
    silent = {"netns": net.c, "source": FILTERED_SOURCE, "count": 2, "timeout": 1.0, "expect": "unreachable"}
    kinds = [{"protocol": "icmp"}, {"protocol": "tcp", "port": PORT}]
    outcomes = run(*({**silent, **kinds[number % 2], "destination": SERVER4} for number in range(20)))
    assert [(outcome.probe.protocol, outcome.verdict.sent) for outcome in outcomes] == [
        ("icmp", 2),
        ("tcp", 2),
    ] * 10
    assert all(outcome.verdict.expected for outcome in outcomes)
    assert max(outcome.started for outcome in outcomes) < min(outcome.finished for outcome in outcomes)


def test_probes_of_several_namespaces_keep_apart(net):
    outcomes = run(
        *({"netns": name, "destination": SERVER4} for name in (net.c, net.r, net.s)),
        {"netns": net.c, "destination": "10.9.1.1"},
        {"netns": net.s, "destination": "10.99.0.1", "expect": "unreachable", "timeout": 0.3},
        timeout=5.0,
    )
    assert [outcome.verdict.received for outcome in outcomes] == [3, 3, 3, 3, 0]


def test_more_probes_than_sockets_all_get_their_turn(net, monkeypatch):
    monkeypatch.setattr(_probe, "MAX_SOCKETS", 3)
    with net.bound(socket.SOCK_STREAM) as sock:
        sock.listen(128)
        kinds = [{"protocol": "icmp"}, {"protocol": "tcp", "port": PORT}]
        probes = [{"netns": net.c, "destination": SERVER4, **kinds[number % 2]} for number in range(12)]
        outcomes = run(*probes, interval=0.01, timeout=5.0)
    assert [outcome.verdict.received for outcome in outcomes] == [3] * 12


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_do_not_grow(net):
    probes = [
        {"netns": net.c, "destination": SERVER4},
        {"netns": net.c, "destination": SERVER6},
        {"netns": net.c, "destination": SERVER4, "protocol": "tcp", "port": PORT},
        {"netns": net.c, "destination": SERVER4, "protocol": "udp", "port": PORT},
        {"netns": net.c, "destination": SERVER4, "source": FILTERED_SOURCE, "protocol": "tcp", "port": PORT},
        {"netns": net.r, "destination": "10.99.0.1"},
    ]
    broken = {"netns": net.c, "destination": SERVER4, "dev": "nowhere"}
    before, threads = descriptors(), threading.active_count()
    for _number in range(50):
        run(*probes, count=2, interval=0.0, timeout=0.02)
        with pytest.raises(SpecError):
            run(*probes, broken, count=2, interval=0.0, timeout=0.02)
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_the_process_is_back_in_its_namespace(net):
    before = os.stat("/proc/self/ns/net").st_ino
    run({"netns": net.c, "destination": SERVER4}, {"netns": net.s, "destination": "10.9.2.1"})
    assert os.stat("/proc/self/ns/net").st_ino == before


# --- mistakes: errors whatever is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"netns": "rch-none"}, "probes[1].netns: there is no network namespace 'rch-none'"),
        ({"dev": "nowhere"}, "probes[1].dev: there is no device 'nowhere' in netns {c}"),
        ({"source": "10.9.1.99"}, "probes[1].source: 10.9.1.99 is no usable address of netns {c}"),
        (
            {"destination": "fe80::1%nowhere"},
            "probes[1].destination: there is no device 'nowhere' in netns {c}",
        ),
    ],
)
def test_a_mistake_is_no_unreachability(net, options, message):
    first = {"netns": net.c, "destination": SERVER4}
    with pytest.raises(SpecError) as caught:
        run(first, {**first, **options}, expect="unreachable")
    assert str(caught.value) == message.format(c=net.c)
    assert not namespaces.has_file("rch-none")


# --- through Ansible


def ansible(arguments, *words):
    pytest.importorskip("ansible")
    command = [sys.executable, *shlex.split("-m ansible adhoc localhost -c local -m cnf.ebpf.reachability")]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(arguments), *words]
    environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "1"}
    environment["ANSIBLE_INVENTORY_UNPARSED_WARNING"] = "false"
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "=> {" in done.stdout, done.stdout + done.stderr
    outcome, _arrow, result = done.stdout.partition(" => ")
    return outcome.endswith("FAILED!"), json.loads(result)


@pytest.mark.parametrize("words", [(), ("--check",)], ids=["run", "check"])
def test_module_returns_what_it_measured_in_check_mode_too(net, words):
    failed, result = ansible({"netns": net.c, "destination": SERVER4, "timeout": 5}, *words)
    assert not failed
    assert result["changed"] is False
    assert (result["sent"], result["received"], result["reachable"], result["port"]) == (3, 3, True, None)
    (only,) = result["results"]
    assert only == {name: result[name] for name in only}


def test_module_fails_with_a_line_for_each_probe_and_the_results(net):
    closed = {"destination": SERVER4, "protocol": "tcp", "port": PORT}
    probes = [{"destination": SERVER4}, closed, {**closed, "expect": "unreachable"}]
    failed, result = ansible({"netns": net.c, "probes": probes})
    assert failed
    assert result["changed"] is False
    assert result["msg"] == (
        f"1 of 3 probes were not as expected: netns {net.c} -> {SERVER4} tcp port {PORT}: "
        "unreachable, 0 of 3 answered (connection refused); expected reachable"
    )
    assert [item["expected"] for item in result["results"]] == [True, False, True]
    assert "reachable" not in result


def test_module_names_the_place_of_a_mistake():
    loopback = {"destination": "127.0.0.1"}
    failed, result = ansible({"probes": [loopback, {**loopback, "protocol": "tcp"}]})
    assert failed
    assert result["msg"] == "probes[1].port: missing; tcp needs one"
