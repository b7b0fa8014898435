# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole plays: one topology task against one trivial task, and a task for each resource against it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import _hosts
from _table import Row, Samples, at_least_times, at_most_times
from bench_work import FORTY

TRIVIAL = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
AnsibleModule(argument_spec={}).exit_json(changed=False)
"""
SYSTEM_PYTHON = "/usr/bin/python3"

Tasks = t.List[t.Dict[str, t.Any]]


class Plays:
    """Playbooks of the benchmark, run inside a sandbox with one target interpreter."""

    def __init__(self, directory: Path, python: str) -> None:
        self.directory = directory
        self.python = python
        library = directory / "library"
        library.mkdir(exist_ok=True)
        (library / "trivial.py").write_text(TRIVIAL, encoding="ascii")
        (directory / "ansible.cfg").write_text("", encoding="ascii")  # not the one of this machine
        self.trivial = self._write("trivial", [{"trivial": {}}])
        self.whole = self._write("whole", [{"cnf.ebpf.topology": {"name": "edge", **FORTY}}])
        self.tasks = self._write("tasks", separate_tasks())

    def _write(self, name: str, tasks: Tasks) -> Path:
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        path = self.directory / f"{name}.yml"
        path.write_text(json.dumps([play]), encoding="ascii")
        return path

    def time(self, box: _hosts.Sandbox, playbook: Path, changed: int) -> float:
        """Seconds of ansible-playbook from start to end; another number of changed tasks is an error."""
        words = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(playbook)]
        words += ["-e", f"ansible_python_interpreter={self.python}"]
        started = time.perf_counter()
        done = box.run(*words, check=False, env=self._environment())
        seconds = time.perf_counter() - started
        if done.returncode or not re.search(rf"\bchanged={changed}\b", done.stdout):
            raise RuntimeError(f"{playbook.name}: not {changed} changed tasks\n{done.stdout}{done.stderr}")
        return seconds

    def _environment(self) -> t.Dict[str, str]:
        own = {
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(_hosts.COLLECTIONS),
            "ANSIBLE_LIBRARY": str(self.directory / "library"),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self.directory / "ansible" / "remote"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
        }
        return {**os.environ, **own}


def separate_tasks() -> Tasks:
    """The 40 resources with one task for each; both addresses of a pair are one of them."""
    bare = ("name", "netns", "fallback")
    tasks: Tasks = [{"cnf.ebpf.netns": item} for item in FORTY["netns"]]
    for pair in FORTY["netkit_link"]:
        ends = {name: value for name, value in pair.items() if name in bare}
        ends["peer"] = {name: value for name, value in pair["peer"].items() if name in bare}
        tasks.append({"cnf.ebpf.netkit_link": ends})
    for pair in FORTY["netkit_link"]:
        near = {"dev": pair["name"], "address": pair["addresses"][0]}
        far = {
            "dev": pair["peer"]["name"],
            "netns": pair["peer"]["netns"],
            "address": pair["peer"]["addresses"][0],
        }
        tasks.append({"cnf.ebpf.address": {"entries": [near, far]}})
    tasks += [{"cnf.ebpf.route": item} for item in FORTY["route"]]
    return tasks


def targets() -> t.Dict[str, str]:
    """The interpreters that can run the modules, by the words for them."""
    found = {"": sys.executable}
    if (
        subprocess.run([SYSTEM_PYTHON, "-c", "import pyroute2"], check=False, capture_output=True).returncode
        == 0
    ):
        found[", system python"] = SYSTEM_PYTHON
    return found


def play(directory: Path, quick: bool) -> t.List[Row]:
    """One topology task of 40 resources in a play, against a play with one trivial task."""
    rows = []
    for words, python in targets().items():
        plays = Plays(directory, python)
        trivial, cold, same = Samples(), Samples(), Samples()
        for number in range(3 if quick else 8):
            with _hosts.host() as box:
                figures = [
                    plays.time(box, plays.trivial, 0),
                    plays.time(box, plays.whole, 1),
                    plays.time(box, plays.whole, 0),
                ]
            if number:  # the first play warms the caches of Python and the disk
                for samples, seconds in zip((trivial, cold, same), figures):
                    samples.append(seconds)
        wanted = at_most_times(1.6)
        rows.append(
            Row(
                f"play, 40 resources in one task, cold{words}",
                cold,
                "play, one trivial task",
                trivial,
                wanted,
            )
        )
        rows.append(
            Row(
                f"play, 40 resources in one task, unchanged{words}",
                same,
                "play, one trivial task",
                trivial,
                wanted,
            )
        )
    return rows


def tasks(directory: Path, quick: bool) -> t.List[Row]:
    """The same 40 resources as 40 tasks, against one topology task."""
    rows = []
    for words, python in targets().items():
        plays = Plays(directory, python)
        each = {"cold": (40, 1, Samples(), Samples()), "unchanged": (0, 0, Samples(), Samples())}
        for _number in range(1 if quick else 2):
            with _hosts.host() as separate, _hosts.host() as whole:
                for changed_tasks, changed_whole, many, one in each.values():
                    one.append(plays.time(whole, plays.whole, changed_whole))
                    many.append(plays.time(separate, plays.tasks, changed_tasks))
        for name, (_tasks, _whole, many, one) in each.items():
            rows.append(
                Row(f"play, 40 tasks, {name}{words}", many, "play, one topology task", one, at_least_times(8))
            )
    return rows
