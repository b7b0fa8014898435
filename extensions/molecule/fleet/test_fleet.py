# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's playbooks and roles on three machines with one LAN, over SSH: the tests build upon each other, in this order.

FLEET_INVENTORY names the inventories, the one that reaches the machines first, separated by colons.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
CLIENT, ROUTER, SERVER = HOSTS = ("fleet-client", "fleet-router", "fleet-server")
INVENTORIES = os.environ["FLEET_INVENTORY"].split(":")
REACH = yaml.safe_load((Path(INVENTORIES[0]) / "machines.yml").read_text())["all"]["hosts"]
VIP, VIP6, BALANCED = "192.168.100.5", "fd64::5", "192.0.2.9"
# Runs are read, so they are not coloured, whatever Molecule asks of its own.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "ANSIBLE_FORCE_COLOR"}
ENVIRONMENT["ANSIBLE_NOCOLOR"] = "1"
# Ansible's ten seconds are too few for a login, and with Mitogen a Python, on an emulated machine that shares its processors.
ENVIRONMENT["ANSIBLE_TIMEOUT"] = "120"
# On an emulated machine Python takes seconds to start, for every task; with this strategy it starts once.
MITOGEN = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(
        Path(importlib.util.find_spec("ansible_mitogen").origin).parent / "plugins/strategy"
    ),
}
# What the site declares, by host: roles, and what is left of topologies once the network is there.
CHANGES = {CLIENT: 6, ROUTER: 3, SERVER: 4}
NOTHING = dict.fromkeys(HOSTS, 0)

LOOK = """
echo links; ip -j link | jq -r '.[] | [.ifname, .mtu, .master // "", (.altnames // [] | join(" "))] | @tsv' | sort
echo namespaces; ls /run/netns 2>/dev/null
echo addresses; ip -j address | jq -r '.[] | .ifname as $i | .addr_info[] | select(.scope != "link") | [$i, .local] | @tsv' | sort
echo routes; { ip route show table all; ip -6 route show table all; } | grep -v ' proto kernel\\| fe80::\\|^multicast\\|^local\\|^broadcast\\|^anycast' | sort
echo rules; ip rule; ip -6 rule
echo neighbors; ip neigh show nud permanent
echo programs; bpftool -j prog | jq -r '.[] | select(.type | test("sched|xdp")) | .name'
echo pins; ls -A /sys/fs/bpf
echo store; ls -A /var/lib/cnf-ebpf 2>/dev/null | grep -v '^lock$'
echo sysctls; sysctl -a 2>/dev/null | grep -E '^net.ipv[46].conf.(all|default|eth0|eth1|lo).(forwarding|rp_filter|accept_ra|proxy_arp) '
ls -A /etc/sysctl.d
"""


class Run(t.NamedTuple):
    """A run of ansible-playbook: its exit code, what it printed, the counters of each host."""

    code: int
    text: str
    counts: t.Dict[str, t.Dict[str, int]]

    @property
    def changes(self) -> t.Dict[str, int]:
        return {host: row["changed"] for host, row in self.counts.items()}


def ansible(playbook: str, *options: str, mitogen: bool = True, **variables: t.Any) -> Run:
    words = [str(Path(sys.executable).with_name("ansible-playbook"))]
    for place in INVENTORIES:
        words += ["-i", place]
    words += ["-e", json.dumps({"cnf_become": False, **variables}), *options, playbook]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env={**ENVIRONMENT, **(MITOGEN if mitogen else {})},
    )
    rows = re.findall(r"^(\S+)\s+: (ok=.*)$", done.stdout, re.MULTILINE)
    counts = {
        host: {word.split("=")[0]: int(word.split("=")[1]) for word in words.split()} for host, words in rows
    }
    return Run(done.returncode, done.stdout + done.stderr, counts)


def well(playbook: str, *options: str, **keywords: t.Any) -> Run:
    run = ansible(playbook, *options, **keywords)
    assert run.code == 0, run.text[-4000:]
    return run


def play(directory: Path, *tasks: t.Mapping[str, t.Any], **keywords: t.Any) -> Run:
    path = directory / "play.yml"
    path.write_text(json.dumps([{"hosts": "machines", "gather_facts": False, "tasks": tasks, **keywords}]))
    return well(str(path), mitogen=False)


def sh(host: str, script: str, check: bool = True) -> str:
    """What a script prints on a machine."""
    reach = REACH[host]
    words = [
        "ssh",
        *shlex.split(reach["ansible_ssh_common_args"]),
        "-i",
        reach["ansible_ssh_private_key_file"],
    ]
    words += ["-p", str(reach["ansible_port"]), f"root@{reach['ansible_host']}", "bash -s"]
    done = subprocess.run(words, input=script, capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def looks() -> t.Dict[str, str]:
    return {host: sh(host, LOOK, check=False) for host in HOSTS}


def diff_lines(text: str) -> t.List[str]:
    """The lines that --diff marks; hosts answer in any order."""
    return sorted(re.findall(r"^[+-](?![+-]).*", text, re.MULTILINE))


def answers(host: str, destination: str, prefix: str = "") -> int:
    """How many of three pings are answered, after one that finds the neighbours."""
    said = sh(
        host,
        f"{prefix} ping -c 1 -W 5 {destination} >/dev/null; {prefix} ping -q -c 3 -i 0.2 -W 5 {destination}",
        check=False,
    )
    return int(re.findall(r"(\d+) received", said)[0])


def tasks_of_roles(text: str) -> t.Counter[str]:
    """How many tasks each role ran on its hosts."""
    blocks = re.findall(
        r"^TASK \[cnf\.ebpf\.(\w+) : (?!Validating)[^\n]*\n(.*?)(?=^TASK|^PLAY)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    return collections.Counter(
        role for role, block in blocks if re.search(r"^(ok|changed|included):", block, re.MULTILINE)
    )


@pytest.fixture(scope="module")
def pristine() -> t.Dict[str, str]:
    return looks()


def test_check_mode_tells_what_the_first_run_does(pristine: t.Dict[str, str]) -> None:
    """The network first, which the roles find; then the whole site."""
    assert well(str(HERE / "network.yml")).changes == dict.fromkeys(HOSTS, 1)
    before = looks()
    told = well("cnf.ebpf.site", "--check", "--diff")
    assert looks() == before
    done = well("cnf.ebpf.site", "--diff")
    assert told.changes == done.changes == CHANGES
    assert diff_lines(told.text) == diff_lines(done.text)
    assert len(diff_lines(done.text)) > 200
    # A role costs three tasks at most beside the check of its arguments, which is the controller's, and asks for no facts.
    assert "Gathering Facts" not in done.text
    assert max(tasks_of_roles(done.text).values()) <= 3
    assert sh(CLIENT, "command -v clang || echo none").strip() == "none"
    assert "compiler=bcc" in told.text and "compiler=clang" in told.text
    kinds = sh(
        CLIENT,
        "ip -j -d link show type netkit | jq length; ip -j -d link show tunnel0 | jq -r .[0].linkinfo.info_kind",
    )
    assert kinds.split() == ["1", "wireguard"]


def test_the_second_run_as_another_user_with_ansibles_own_strategy_changes_nothing() -> None:
    run = well("cnf.ebpf.site", mitogen=False, ansible_user="ops", cnf_become=True)
    assert run.changes == NOTHING


def test_verify_proves_every_role() -> None:
    run = well("cnf.ebpf.verify")
    assert run.changes == NOTHING
    assert all(row["failed"] == 0 for row in run.counts.values())


def test_replies_go_back_by_the_router_that_clients_come_by(tmp_path: Path) -> None:
    """Client, router and server on three machines: it works, fails without the role, and works again."""
    assert (answers(CLIENT, VIP), answers(CLIENT, VIP6), answers(CLIENT, BALANCED)) == (3, 3, 3)
    role = {"roles": [{"role": "cnf.ebpf.source_router"}], "hosts": SERVER}
    play(tmp_path, vars={"source_router_state": "absent"}, **role)
    assert (answers(CLIENT, VIP), answers(CLIENT, VIP6), answers(CLIENT, BALANCED)) == (0, 0, 0)
    play(tmp_path, **role)
    assert (answers(CLIENT, VIP), answers(CLIENT, VIP6)) == (3, 3)
    # A megabyte in the direction that the router decides about.
    sh(
        SERVER,
        "head -c 1048576 /dev/urandom >/tmp/data; cd /tmp; nohup python3 -m http.server -b 192.168.100.5 8080 >/dev/null 2>&1 & echo $! >/tmp/pid",
    )
    try:
        got = sh(
            CLIENT,
            'for i in $(seq 20); do python3 -c "import urllib.request as u; '
            f"open('/tmp/data', 'wb').write(u.urlopen('http://{VIP}:8080/data', timeout=20).read())\" 2>/dev/null && break; sleep 1; done; "
            "sha256sum </tmp/data; rm /tmp/data",
        )
        assert got == sh(SERVER, "sha256sum </tmp/data")
    finally:
        sh(SERVER, "kill $(cat /tmp/pid); rm -f /tmp/data /tmp/pid")


def test_sources_go_into_a_wireguard_tunnel_between_machines() -> None:
    """The role made the device; keys and peers come from those who hold them."""
    keys = {
        host: sh(host, "umask 077; wg genkey | tee /tmp/key | wg pubkey").strip() for host in (CLIENT, ROUTER)
    }
    sh(
        CLIENT,
        f"wg set tunnel0 private-key /tmp/key listen-port 51820 peer {keys[ROUTER]} endpoint 10.20.1.1:51820 allowed-ips 0.0.0.0/0,::/0",
    )
    sh(
        ROUTER,
        f"""set -e
        ip link add wgt type wireguard
        wg set wgt private-key /tmp/key listen-port 51820 peer {keys[CLIENT]} allowed-ips 10.0.5.0/24,10.99.0.1/32,fd00:5::/64
        ip address add 10.88.0.1/32 dev wgt; ip address add fd88::1/128 dev wgt; ip link set wgt up
        ip route add 10.0.5.0/24 dev wgt; ip route add fd00:5::/64 dev wgt""",
    )
    try:
        inside = "ip netns exec far"
        assert (answers(CLIENT, "10.88.0.1", inside), answers(CLIENT, "fd88::1", inside)) == (3, 3)
        # Into the tunnel, and not past it: the router saw these packets encrypted only.
        received = int(sh(ROUTER, "wg show wgt transfer").split()[1])
        assert received > 8 * 84
    finally:
        sh(ROUTER, "ip link del wgt; rm -f /tmp/key")
        sh(CLIENT, f"wg set tunnel0 peer {keys[ROUTER]} remove; rm -f /tmp/key")


def test_any_task_runs_inside_a_namespace_over_ssh(tmp_path: Path) -> None:
    run = play(
        tmp_path,
        {"ansible.builtin.command": "ip -br address show eth0", "register": "seen", "changed_when": False},
        {"ansible.builtin.debug": {"msg": "{{ inventory_hostname }}: {{ seen.stdout }}"}},
        hosts=SERVER,
        connection="cnf.ebpf.netns",
        vars={"ansible_netns": "m1"},
    )
    assert re.search(r"fleet-server: eth0.*10\.2\.1\.2/24", run.text)


def policies(*entries: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    packet = {"source": "10.66.0.1", "destination": "10.20.1.2"}
    return {
        "cnf_policy": {"topology": "policies", "object": "router", "entries": list(entries)},
        "cnf_policy_after": [{**packet, "expect": {"outcome": "drop"}}],
        "cnf_policy_waves": [1, "100%"],
    }


def counted(host: str) -> int:
    told = json.loads(sh(host, "bpftool -j map dump pinned /sys/fs/bpf/cnf/policies/router/maps/sources4"))
    return len(told)


def test_a_good_policy_reaches_all_and_a_bad_one_stops_at_the_canary() -> None:
    good = well("cnf.ebpf.policy_rollout", **policies({"source": "10.66.0.0/16", "action": "drop"}))
    assert good.changes == dict.fromkeys(HOSTS, 1)
    assert [counted(host) for host in HOSTS] == [1, 1, 1]
    told = re.findall(r"(fleet-\w+): ([0-9a-f]{12}) \(1 entries\)", good.text)
    assert {host for host, _digest in told} == set(HOSTS) and len({digest for _host, digest in told}) == 1
    bad = ansible(
        "cnf.ebpf.policy_rollout",
        **policies(
            {"source": "10.66.0.0/16", "action": "pass"}, {"source": "10.67.0.0/16", "action": "pass"}
        ),
    )
    assert bad.code != 0
    # The canary has its old policy back, and nobody else was asked.
    assert [counted(host) for host in HOSTS] == [1, 1, 1]
    again = well("cnf.ebpf.policy_rollout", **policies({"source": "10.66.0.0/16", "action": "drop"}))
    assert again.changes == NOTHING


def test_the_report_shows_the_fleet_as_it_is(tmp_path: Path) -> None:
    sh(ROUTER, "ip route del 192.168.100.5")
    well("cnf.ebpf.report", cnf_report_to=str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<b>2</b>in sync" in page and "<b>1</b>drifted" in page
    assert ">+ 192.168.100.5/32 via 10.20.2.2" in page
    assert "netkit l3" in page and ">tunnel0<" in page
    assert page.count("<svg ") == 3


def test_teardown_leaves_nothing(pristine: t.Dict[str, str]) -> None:
    assert well("cnf.ebpf.teardown").counts.keys() == set(HOSTS)
    after = looks()
    for host in HOSTS:
        assert after[host].splitlines() == pristine[host].splitlines()


def test_the_bpf_file_system_is_mounted_where_nobody_else_does_and_given_back(
    tmp_path: Path, pristine: t.Dict[str, str]
) -> None:
    """On the machine without pins of anybody; and with one that is not ours, the mount stays and the unit goes."""
    unit = "/etc/systemd/system/cnf-ebpf-bpffs.service"
    state = f"grep -c '^bpf /sys/fs/bpf ' /proc/mounts; test -e {unit} && systemctl is-enabled cnf-ebpf-bpffs.service"
    was = sh(SERVER, f"{state}; umount /sys/fs/bpf", check=False).split()
    assert was == ["1"]
    role = {"roles": [{"role": "cnf.ebpf.host_prerequisites"}], "hosts": SERVER}
    absent = {**role, "vars": {"host_prerequisites_state": "absent"}}
    try:
        path = tmp_path / "play.yml"
        path.write_text(json.dumps([{"gather_facts": False, **role}]))
        told = well(str(path), "--check", mitogen=False)
        assert sh(SERVER, state, check=False).split() == ["0"]
        done = play(tmp_path, **role)
        assert told.changes == done.changes == {SERVER: 2}
        assert sh(SERVER, state, check=False).split() == ["1", "enabled"]
        assert play(tmp_path, **role).changes == {SERVER: 0}
        sh(SERVER, "mkdir /sys/fs/bpf/stranger")
        assert play(tmp_path, **absent).changes == {SERVER: 2}
        assert sh(SERVER, f"{state}; ls /sys/fs/bpf", check=False).split() == ["1", "stranger"]
        assert play(tmp_path, **absent).changes == {SERVER: 0}
        # And without: mounted by the role, unmounted by it.
        sh(SERVER, "rmdir /sys/fs/bpf/stranger; umount /sys/fs/bpf")
        assert play(tmp_path, **role).changes == {SERVER: 2}
        assert play(tmp_path, **absent).changes == {SERVER: 2}
        assert sh(SERVER, state, check=False).split() == ["0"]
    finally:
        sh(SERVER, "mountpoint -q /sys/fs/bpf || mount -t bpf -o mode=700 bpf /sys/fs/bpf")
    assert looks()[SERVER].splitlines() == pristine[SERVER].splitlines()
