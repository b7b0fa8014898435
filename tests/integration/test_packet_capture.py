# SPDX-License-Identifier: GPL-3.0-or-later
"""packet_capture on this kernel: exact packets in a namespace, files on the controller, and captures that end badly."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from sandbox import COLLECTIONS, Sandbox

MODULE = "ansible_collections.cnf.ebpf.plugins.modules.packet_capture"
# client [a0 10.0.0.2] -- [b0 10.0.0.1] host; nothing is sent unasked.
SETUP = """
ip netns add client
ip link add b0 type veth peer name a0 netns client
ip netns exec client sysctl -q -w net.ipv6.conf.all.disable_ipv6=1
sysctl -q -w net.ipv6.conf.all.disable_ipv6=1
ip address add 10.0.0.1/24 dev b0; ip link set b0 up
ip -n client address add 10.0.0.2/24 dev a0; ip -n client link set a0 up; ip -n client link set lo up
ip neigh add 10.0.0.2 lladdr $(ip netns exec client cat /sys/class/net/a0/address) dev b0
ip -n client neigh add 10.0.0.1 lladdr $(cat /sys/class/net/b0/address) dev a0
ip link add down0 type veth peer name down1
"""


@pytest.fixture(scope="module")
def box() -> t.Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.sh(SETUP)
        yield sandbox


def start(box: Sandbox, **options: t.Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        box.command(sys.executable, "-m", MODULE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=box.environment(),
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": options}))
    process.stdin.close()
    process.stdin = None
    return process


def answer_of(process: subprocess.Popen[str]) -> t.Dict[str, t.Any]:
    output, _errors = process.communicate(timeout=60)
    return json.loads(output)


def refused(box: Sandbox, **options: t.Any) -> str:
    answer = answer_of(start(box, **options))
    assert answer.get("failed") is True, answer
    message = str(answer["msg"])
    assert "\n" not in message
    return message


def captures(box: Sandbox) -> t.List[str]:
    """The tcpdump processes of the sandbox's mount namespace, whatever network namespace they are in."""
    mine = os.readlink(f"/proc/{box.process.pid}/ns/mnt")
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/mnt") == mine:
                if Path(f"/proc/{entry}/comm").read_text() == "tcpdump\n":
                    found.append(entry)
        except OSError:
            continue
    return found


def listening(box: Sandbox, netns: str = "") -> None:
    """Wait until a packet socket is there: in /proc/net/packet of the namespace."""
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    while len(box.run(*inside, "cat", "/proc/net/packet").stdout.splitlines()) < 2:
        time.sleep(0.02)


@contextlib.contextmanager
def pinging(box: Sandbox) -> t.Iterator[None]:
    """The host asks the client and is answered, all the while."""
    process = subprocess.Popen(box.command("ping", "-i", "0.02", "-q", "10.0.0.2"), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def caught(box: Sandbox, **options: t.Any) -> t.Dict[str, t.Any]:
    """What a capture has of pings from the host to the client."""
    with pinging(box):
        answer = answer_of(start(box, **options))
    assert "failed" not in answer, answer["msg"]
    return answer


def test_packets_of_a_namespace_are_told_exactly(box: Sandbox) -> None:
    found = caught(box, netns="client", link="a0", count=6, seconds=30, filter="icmp[0] = 8")
    texts = [packet["text"] for packet in found["packets"]]
    row = re.fullmatch(
        r"(IP 10\.0\.0\.1 > 10\.0\.0\.2: ICMP echo request, id \d+, seq )(\d+), length 64", texts[0]
    )
    assert row is not None
    assert texts == [f"{row[1]}{int(row[2]) + number}, length 64" for number in range(6)]
    assert (found["captured"], found["dropped"], found["ended"]) == (6, 0, "count")
    assert found["received_by_filter"] >= 6
    assert (found["changed"], found["truncated"]) == (False, False)
    assert found["bytes"] == 24 + 6 * (16 + 98)
    moments = [datetime.datetime.strptime(row["time"], "%Y-%m-%dT%H:%M:%S.%fZ") for row in found["packets"]]
    assert moments == sorted(moments)
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    assert now - datetime.timedelta(minutes=2) < moments[0] <= now
    assert "pcap" not in found
    assert captures(box) == []


REQUEST, REPLY = "10.0.0.1 > 10.0.0.2: ICMP echo request", "10.0.0.2 > 10.0.0.1: ICMP echo reply"


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"filter": ["icmp[icmptype]", "=", "icmp-echo"]}, {REQUEST}),
        ({"filter": "src host 10.0.0.2 and icmp"}, {REPLY}),
        ({"direction": "in"}, {REPLY}),
        ({"direction": "out"}, {REQUEST}),
        ({"direction": "inout"}, {REQUEST, REPLY}),
        ({"_ansible_check_mode": True}, {REQUEST, REPLY}),
        ({"filter": ""}, {REQUEST, REPLY}),
    ],
)
def test_filters_and_directions(box: Sandbox, options: t.Dict[str, t.Any], kinds: t.Set[str]) -> None:
    found = caught(box, link="b0", count=8, seconds=30, **options)
    assert (found["captured"], found["ended"]) == (8, "count")
    assert {row["text"][3:].split(",")[0] for row in found["packets"]} == kinds


def test_seconds_end_a_capture_of_nothing(box: Sandbox) -> None:
    found = caught(box, link="b0", seconds=0.3, filter=["host", "10.0.0.2", "and", "not", "icmp"])
    assert (found["captured"], found["packets"], found["ended"], found["bytes"]) == (0, [], "seconds", 24)
    assert captures(box) == []


def test_any_device_and_an_altname(box: Sandbox) -> None:
    found = caught(box, netns="client", link="any", count=2, filter="icmp")
    assert [row["text"].split()[0] for row in found["packets"]] == ["a0", "a0"]
    box.sh("ip link property add dev b0 altname up-to-the-client")
    assert caught(box, link="up-to-the-client", count=2)["captured"] == 2


def test_limit_and_snaplen(box: Sandbox) -> None:
    found = caught(box, link="b0", count=10, limit=3, snaplen=60)
    assert (len(found["packets"]), found["captured"], found["truncated"]) == (3, 10, True)
    # libpcap may leave out two bytes more (it aligns frames of its ring).
    assert 10 * 58 <= found["bytes"] - 24 - 10 * 16 <= 10 * 60
    none = caught(box, link="b0", count=2, limit=0)
    assert (none["packets"], none["captured"], none["truncated"]) == ([], 2, True)


def test_errors_are_one_line(box: Sandbox) -> None:
    assert refused(box, link="b9") == (
        "link: there is no device 'b9' in the host namespace; it has lo, b0, down1, down0"
    )
    assert refused(box, link="b0", netns="client") == (
        "link: there is no device 'b0' in client; it has lo, a0"
    )
    assert refused(box, link="-D").startswith("link: there is no device '-D'")
    assert refused(box, link="b0", netns="nowhere") == "netns: there is no network namespace 'nowhere'"
    assert refused(box, link="down0") == "link: down0 is down: no packet passes it; set it up first"
    assert refused(box, link="b0", filter="tcp prot 80") == (
        "filter: 'tcp prot 80': can't parse filter expression: syntax error"
    )
    assert refused(box, link="b0", filter="port nonsuch").startswith("filter: 'port nonsuch': ")
    dash = "begins with a dash; an expression such as tcp port 80 is needed"
    assert refused(box, link="b0", filter="-z reboot") == f"filter: '-z reboot' {dash}"
    assert refused(box, link="b0", filter=["-w", "/tmp/x"]) == f"filter: '-w /tmp/x' {dash}"
    assert refused(box, link="b0", filter={"tcp": 80}) == (
        "filter: is not an expression: give one text, or a list of words"
    )
    assert refused(box, link="b0", count=0) == "count: 0 is too small; give 1 or more"
    assert refused(box, link="b0", snaplen=1 << 20) == "snaplen: 1048576 is too large; give 262144 or less"
    assert refused(box, link="b0", seconds=0) == "seconds: 0.0 is not a time to wait for; give more than 0"
    assert captures(box) == []


def test_words_of_a_filter_reach_no_shell_and_no_option(box: Sandbox, tmp_path: Path) -> None:
    for text in (f"icmp; touch {tmp_path}/x", f"$(touch {tmp_path}/x)", f"icmp -w {tmp_path}/x"):
        assert refused(box, link="b0", filter=text).startswith(f"filter: {text!r}: ")
    assert list(tmp_path.iterdir()) == []


def test_without_tcpdump_the_package_is_named(box: Sandbox) -> None:
    path = box.sh("command -v tcpdump").strip()
    box.sh(f"mount --bind /dev/null {path}")
    try:
        line = refused(box, link="b0")
    finally:
        box.sh(f"umount {path}")
    assert line == "tcpdump is missing; install the package tcpdump (apt-get install tcpdump)"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_capture_leaves_no_process_and_no_file(box: Sandbox, number: int, tmp_path: Path) -> None:
    process = start(box, link="a0", netns="client", seconds=600, _ansible_remote_tmp=str(tmp_path))
    listening(box, "client")
    assert len(captures(box)) == 1
    process.send_signal(number)
    process.communicate(timeout=60)
    for _attempt in range(200):
        if not captures(box):
            break
        time.sleep(0.02)
    assert captures(box) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- by way of Ansible, for the file on the controller ----------------------------------------------------------------------


def play(
    box: Sandbox, directory: Path, tasks: t.List[t.Dict[str, t.Any]]
) -> subprocess.CompletedProcess[str]:
    path = directory / "play.yml"
    path.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_LOCAL_TEMP": str(directory / "local"),
        "ANSIBLE_ASYNC_DIR": str(directory / "async"),
        "ANSIBLE_REMOTE_TEMP": str(directory / "remote"),
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = ["ansible-playbook", "-i", "localhost,", "-c", "local"]
    words += ["-e", json.dumps({"ansible_python_interpreter": sys.executable}), str(path)]
    return subprocess.run(
        box.command(*words), env=environment, capture_output=True, text=True, check=False, cwd=directory
    )


def frames(path: Path) -> t.List[bytes]:
    """The packets in a file of pcap with microseconds, in host byte order."""
    raw = path.read_bytes()
    assert struct.unpack_from("=I", raw)[0] == 0xA1B2C3D4
    found, offset = [], 24
    while offset < len(raw):
        size = struct.unpack_from("=I", raw, offset + 8)[0]
        found.append(raw[offset + 16 : offset + 16 + size])
        offset += 16 + size
    return found


def test_a_capture_comes_to_the_controller(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "old.pcap").write_text("to be replaced")
    capture = {"netns": "client", "link": "a0", "count": 4, "seconds": 60, "filter": "icmp"}
    tasks: t.List[t.Dict[str, t.Any]] = [
        {"cnf.ebpf.packet_capture": {**capture, "dest": "old.pcap"}, "register": "found"},
        {
            "ansible.builtin.copy": {
                "content": "{{ found | to_json }}",
                "dest": str(tmp_path / "found.json"),
            }
        },
    ]
    with pinging(box):
        done = play(box, tmp_path, tasks)
    assert done.returncode == 0, done.stdout
    target = tmp_path / "old.pcap"
    assert target.stat().st_mode & 0o7777 == 0o600
    packets = frames(target)
    assert len(packets) == 4
    assert {packet[26:30] for packet in packets} == {
        socket.inet_aton("10.0.0.1"),
        socket.inet_aton("10.0.0.2"),
    }
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["dest"], found["captured"], found["changed"]) == (str(target), 4, False)
    assert "pcap" not in found and len(found["packets"]) == 4
    left = [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert left == []
    assert sorted(path.name for path in tmp_path.glob("*.pcap")) == ["old.pcap"]


def test_a_capture_in_the_background(box: Sandbox, tmp_path: Path) -> None:
    capture = {"netns": "client", "link": "a0", "count": 2, "seconds": 60, "filter": "icmp"}
    tasks: t.List[t.Dict[str, t.Any]] = [
        {"cnf.ebpf.packet_capture": capture, "async": 90, "poll": 0, "register": "running"},
        {
            "ansible.builtin.async_status": {"jid": "{{ running.ansible_job_id }}"},
            "register": "found",
            "until": "found.finished",
            "retries": 100,
            "delay": 1,
        },
        {"ansible.builtin.assert": {"that": ["found.captured == 2", "found.packets | length == 2"]}},
    ]
    with pinging(box):
        done = play(box, tmp_path, tasks)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"dest": "no/such/x.pcap"}, "dest: there is no directory "),
        ({"dest": "."}, "is a directory; give the path of a file"),
        ({"dest": "x.pcap", "link": "b9"}, "link: there is no device 'b9' in the host namespace"),
        ({"dest": "x.pcap", "filter": "tcp prot 80"}, "can't parse filter expression"),
    ],
)
def test_no_file_is_written_when_it_fails(
    box: Sandbox, tmp_path: Path, task: t.Dict[str, t.Any], said: str
) -> None:
    done = play(box, tmp_path, [{"cnf.ebpf.packet_capture": {"link": "b0", "seconds": 1, **task}}])
    assert done.returncode == 2
    assert said in done.stdout
    assert list(tmp_path.glob("*.pcap")) == []
    assert [path for path in (tmp_path / "remote").rglob("*") if path.is_file()] == []


def test_dest_and_async_exclude_each_other(box: Sandbox, tmp_path: Path) -> None:
    task = {"cnf.ebpf.packet_capture": {"link": "b0", "dest": "x.pcap"}, "async": 60, "poll": 0}
    done = play(box, tmp_path, [task])
    assert done.returncode == 2
    assert "dest: cannot be used with async" in done.stdout
