# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook in a sandbox, and what it prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

from sandbox import COLLECTIONS, Sandbox


class Ansible:
    """ansible-playbook in a sandbox; plays and what they register lie in a directory of the test's own."""

    def __init__(self, box: Sandbox, directory: Path) -> None:
        self.box = box
        self.directory = directory
        self.interpreter = sys.executable
        self.environment = {
            **{key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_LOCAL_TEMP": str(directory / "local"),
            "ANSIBLE_REMOTE_TEMP": str(directory / "remote"),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(
        self,
        tasks: t.Sequence[t.Mapping[str, t.Any]],
        *options: str,
        hosts: str = "localhost",
        **keywords: t.Any,
    ) -> subprocess.Popen[str]:
        play = {"hosts": "all", "gather_facts": False, "tasks": list(tasks), **keywords}
        path = self.directory / "play.yml"
        path.write_text(json.dumps([play]), encoding="utf-8")  # JSON is YAML
        interpreter = json.dumps({"ansible_python_interpreter": self.interpreter})
        words = ["ansible-playbook", "-i", f"{hosts},", "-c", "local", *options, str(path)]
        words[1:1] = ["-e", interpreter] if "interpreter" not in keywords.get("vars", {}) else []
        return subprocess.Popen(
            self.box.command(*words),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_playbook(
        self, name: str, inventory: t.Mapping[str, t.Any], *options: str
    ) -> subprocess.Popen[str]:
        """One of the collection's playbooks, or the path of another, for hosts that are all this one."""
        path = self.directory / "inventory.json"
        path.write_text(json.dumps(inventory), encoding="utf-8")
        interpreter = json.dumps({"ansible_python_interpreter": self.interpreter, "cnf_become": False})
        words = [
            "ansible-playbook",
            "-i",
            str(path),
            "-c",
            "local",
            "-e",
            interpreter,
            *options,
            name if name.endswith(".yml") else f"cnf.ebpf.{name}",
        ]
        return subprocess.Popen(
            self.box.command(*words),
            env={**self.environment, "PWD": str(self.directory), "ANSIBLE_INJECT_FACT_VARS": "false"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def playbook(
        self, name: str, inventory: t.Mapping[str, t.Any], *options: str
    ) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        process = self.start_playbook(name, inventory, *options)
        try:
            text, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, text, errors)

    def run(self, tasks: t.Sequence[t.Mapping[str, t.Any]], *options: str, **keywords: t.Any) -> str:
        process = self.start(tasks, *options, **keywords)
        text, _none = process.communicate(timeout=60)
        assert process.returncode == 0, text
        return text


def recap(text: str) -> t.Dict[str, t.Dict[str, int]]:
    """The counters of each host."""
    rows = re.findall(r"^(\S+)\s+: (ok=.*)$", text, re.MULTILINE)
    return {
        host: {word.split("=")[0]: int(word.split("=")[1]) for word in words.split()} for host, words in rows
    }


def changed_lines(text: str) -> t.List[str]:
    """The lines that --diff marks."""
    return re.findall(r"^[+-](?![+-]).*", text, re.MULTILINE)
