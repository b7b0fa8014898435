# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet: site.yml on ten and on fifty simulated hosts, with Ansible's own strategy and with Mitogen's; and a chain of sixteen.

A simulated host is a sandbox with its own network namespaces, BPF file system and state directory, and an interpreter that enters
it; nothing is shared but the kernel and the processor. Mitogen is left out where it does not know the ansible-core at hand.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, at_most_times

PROGRAMS = _hosts.ROOT / "files" / "bpf"
STAGES = 16
POLICIES = 100

# What loads and attaches a compiled object at a device of its own each, and nothing else.
LOADER = """
import socket, sys, time
from ansible_collections.cnf.ebpf.plugins.module_utils._bpf import libbpf
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import bpf
with libbpf.load(sys.argv[1]):
    pass  # the library is there now
started, kept = time.perf_counter(), []
for number in range(int(sys.argv[2])):
    loaded = libbpf.load(sys.argv[1], programs=("count",))
    kept += [loaded, bpf.link_create(loaded.programs["count"], socket.if_nametoindex(f"w{number}"), bpf.TCX_INGRESS)]
print(time.perf_counter() - started)
"""


def fleet(directory: Path, quick: bool) -> t.List[Row]:
    few, many = (3, 9) if quick else (10, 50)
    mitogen = _mitogen(directory)
    rows = []
    plain: t.Dict[t.Tuple[str, int], Samples] = {}
    for strategy, settings in (("Ansible's strategy", {}), ("Mitogen's", mitogen)):
        if settings is None:
            continue
        for count in (few, many):
            with contextlib.ExitStack() as stack:
                hosts = [stack.enter_context(_hosts.Sandbox()) for _number in range(count)]
                play = _Site(directory, hosts, t.cast(t.Dict[str, str], settings))
                plain[f"{strategy}: first run", count] = Samples([play.seconds(2) / count])
                plain[f"{strategy}: unchanged", count] = Samples([play.seconds(0) / count])
    for name in dict.fromkeys(key[0] for key in plain):
        beside = f"for each of {few}"
        rows.append(
            Row(
                f"{name}, for each of {many} hosts",
                plain[name, many],
                beside,
                plain[name, few],
                at_most_times(1.2),
            )
        )
    return rows


class _Site:
    """simple_cnf and a router with a hundred policies on each of these hosts."""

    def __init__(
        self, directory: Path, hosts: t.Sequence[_hosts.Sandbox], settings: t.Mapping[str, str]
    ) -> None:
        self._directory, self._settings = directory, settings
        self._inventory = directory / f"inventory-{len(hosts)}.json"
        rows = {}
        for number, box in enumerate(hosts):
            python = directory / f"python-{box.process.pid}"
            python.write_text(
                f'#!/bin/sh\nexec {" ".join(box.command(sys.executable))} "$@"\n', encoding="ascii"
            )
            python.chmod(0o755)
            rows[f"host{number}"] = {
                "ansible_python_interpreter": str(python),
                "ansible_connection": "local",
            }
        variables = {"cnf_become": False, "cnf_topologies": [policies()]}
        content = {
            "all": {"hosts": rows, "vars": variables},
            "simple_cnf": {"hosts": dict.fromkeys(rows)},
        }
        self._inventory.write_text(json.dumps(content), encoding="ascii")

    def seconds(self, changed: int) -> float:
        """Of one run; another number of changed tasks on any host is an error."""
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(_settings_file(self._directory)),
            "ANSIBLE_COLLECTIONS_PATH": str(_hosts.COLLECTIONS),
            "ANSIBLE_HOME": str(self._directory / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self._directory / "ansible" / "remote"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self._settings,
        }
        words = [
            sys.executable,
            "-m",
            "ansible",
            "playbook",
            "-f",
            "10",
            "-i",
            str(self._inventory),
            "cnf.ebpf.site",
        ]
        started = time.perf_counter()
        done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - started
        found = set(re.findall(r"\bchanged=(\d+)", done.stdout))
        if done.returncode or found != {str(changed)}:
            raise RuntimeError(
                f"site: not {changed} changed tasks\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
            )
        return seconds


def _settings_file(directory: Path) -> Path:
    """Not the one of this machine."""
    path = directory / "ansible.cfg"
    path.write_text("", encoding="ascii")
    return path


def policies() -> _hosts.Document:
    entries = [
        {"object": "router", "source": f"10.{number}.0.0/16", "action": "drop"} for number in range(POLICIES)
    ]
    return {
        "name": "policies",
        "link": [{"name": "v0", "kind": "veth", "peer": {"name": "v1"}}],
        "bpf_object": [{"name": "router", "source": "policy_router.bpf.c"}],
        "bpf_policy_entry": entries,
        "tcx_attach": [{"object": "router", "program": "policy_router", "link": "v0", "hook": "egress"}],
    }


def _mitogen(directory: Path) -> t.Optional[t.Dict[str, str]]:
    """The settings that make Ansible use it; None where it does not know this ansible-core."""
    found = importlib.util.find_spec("ansible_mitogen")
    if found is None or not found.submodule_search_locations:
        return None
    plugins = Path(next(iter(found.submodule_search_locations))) / "plugins" / "strategy"
    settings = {"ANSIBLE_STRATEGY_PLUGINS": str(plugins), "ANSIBLE_STRATEGY": "mitogen_linear"}
    trial = [sys.executable, "-m", "ansible", "adhoc", "-i", "localhost,", "-c", "local", "all", "-m", "ping"]
    trial += ["-e", f"ansible_python_interpreter={sys.executable}"]
    environment = {**os.environ, "ANSIBLE_HOME": str(directory / "ansible"), **settings}
    done = subprocess.run(trial, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"fleet: {(done.stdout + done.stderr).strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return settings


def chain(directory: Path, quick: bool) -> t.List[Row]:
    """The role's own document, beside iproute2 for the network, the compiler once, and sixteen loads and attachments."""
    document = _chain_document(directory)
    ours, floor = Samples(), Samples()
    for _round in range(2 if quick else 5):
        with _hosts.host() as box:
            box.topology({"name": "warm", **_hosts.WARM})
            # Refused, but the libraries for BPF are there now.
            box.topology(
                {"name": "warm", "tcx_attach": [{"object": "none", "link": "lo", "hook": "ingress"}]}
            )
            answer = box.topology(document)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            ours.append(float(answer["work"]))
        with _hosts.host() as box:
            seconds = sum(_hosts.commands(box, phase, directory) for phase in _batches(answer["commands"]))
            floor.append(seconds + _bpf(box, directory))
    return [
        Row(f"chain of {STAGES}: work", ours, "ip -batch, clang, loads and links", floor, at_most_times(1.5))
    ]


def _chain_document(directory: Path) -> _hosts.Document:
    """What the role makes of sixteen stages."""
    stages = [{"name": f"cnf{number}", "id": number} for number in range(1, STAGES + 1)]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "roles": [{"role": "cnf.ebpf.cnf_chain", "cnf_chain_stages": stages}],
        "post_tasks": [
            {"cnf.ebpf.topology_info": {"name": "cnf-chain"}, "register": "found"},
            {
                "ansible.builtin.copy": {
                    "content": "{{ found.topologies[0].document | to_json }}",
                    "dest": str(directory / "chain.json"),
                    "mode": "0600",
                }
            },
        ],
    }
    (directory / "chain.yml").write_text(json.dumps([play]), encoding="ascii")
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(_settings_file(directory)),
        "ANSIBLE_COLLECTIONS_PATH": str(_hosts.COLLECTIONS),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }
    words = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(directory / "chain.yml")]
    words += ["-e", f"ansible_python_interpreter={sys.executable}"]
    with _hosts.Sandbox() as box:
        done = box.run(*words, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(done.stdout[-6000:] + done.stderr[-1000:])
    return t.cast(_hosts.Document, json.loads((directory / "chain.json").read_text("utf-8")))


def _batches(commands: t.Sequence[str]) -> t.List[_hosts.Batches]:
    """The lines of the plan that iproute2 takes, by namespace: first the namespaces, then the pairs between them, then the rest."""
    phases: t.List[_hosts.Batches] = [{}, {}, {}]
    for line in commands:
        words = line.split()
        if words[0] != "ip" or "exec" in words:  # bpftool in a namespace
            continue
        words = [word for word in words[1:] if word not in ("-6", "-4")]
        space = ""
        if words[0] == "-n":
            space, words = words[1], words[2:]
        if words[0] == "address" and "proto" in words:  # iproute2 of Debian 12 does not know it there
            place = words.index("proto")
            del words[place : place + 2]
        phase = 0 if words[0] == "netns" else 1 if words[:2] == ["link", "add"] else 2
        phases[phase].setdefault(space, []).append(" ".join(words))
    return phases


def _bpf(box: _hosts.Sandbox, directory: Path) -> float:
    target = directory / "count.o"
    words = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I{PROGRAMS / 'lib'}"]
    words += [f"-idirafter{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
    started = time.perf_counter()
    subprocess.run([*words, "-c", str(PROGRAMS / "count.bpf.c"), "-o", str(target)], check=True)
    compiled = time.perf_counter() - started
    for number in range(STAGES):
        box.sh(f"ip link add w{number} type veth peer name x{number}")
    environment = {**os.environ, "PYTHONPATH": str(_hosts.COLLECTIONS), "PYTHONDONTWRITEBYTECODE": "1"}
    done = box.run(box.python, "-c", LOADER, str(target), str(STAGES), env=environment)
    return compiled + float(done.stdout)
