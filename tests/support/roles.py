# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles as users run them: check mode on an empty host, a run, the same again, the proof, and nothing left when absent."""

from __future__ import annotations

import re
import typing as t

from bpf_steps import nothing_new
from sandbox import Sandbox
from steps import assert_same, store_files

from playbooks import Ansible, changed_lines, recap

MOST_TASKS = 3


class Role:
    """A role of the collection with its variables, on one host."""

    def __init__(self, ansible: Ansible, name: str, **variables: t.Any) -> None:
        self.ansible = ansible
        self.name = name
        self.variables = {f"{name}_{key}": value for key, value in variables.items()}

    def run(self, *options: str, **variables: t.Any) -> str:
        more = {f"{self.name}_{key}": value for key, value in variables.items()}
        role = {"role": f"cnf.ebpf.{self.name}", "vars": {**self.variables, **more}}
        return self.ansible.run([], *options, roles=[role])

    def refused(self, **variables: t.Any) -> str:
        more = {f"{self.name}_{key}": value for key, value in variables.items()}
        role = {"role": f"cnf.ebpf.{self.name}", "vars": {**self.variables, **more}}
        process = self.ansible.start([], roles=[role])
        said, _none = process.communicate(timeout=60)
        assert process.returncode != 0
        return said

    def four_steps(self) -> None:
        """The promises that every role makes."""
        box = self.ansible.box
        before = box.state()
        predicted = self.run("--check", "--diff")
        assert recap(predicted)["localhost"]["changed"] == 1
        assert_same(box.state(), before)
        done = self.run("--diff")
        assert changed_lines(predicted) == changed_lines(done)
        assert recap(done)["localhost"]["changed"] == 1
        verified = self.run(verify=True)
        assert recap(verified)["localhost"]["changed"] == 0
        # With the task that validates the arguments, which runs on the controller.
        assert recap(verified)["localhost"]["ok"] <= MOST_TASKS + 1
        assert recap(self.run("--check"))["localhost"]["changed"] == 0

    def removed(self, before: t.Mapping[str, t.Any], bpf: t.Mapping[str, t.Any]) -> None:
        """Nothing is left."""
        box = self.ansible.box
        assert recap(self.run(state="absent"))["localhost"]["changed"] == 1
        assert recap(self.run(state="absent"))["localhost"]["changed"] == 0
        assert_same(box.state(), before)
        assert store_files(box) == []
        nothing_new(box, bpf)


def whole(box: Sandbox, role: Role, proof: t.Callable[[], None] = lambda: None) -> None:
    before, bpf = box.state(), box.bpf()
    role.four_steps()
    proof()
    role.removed(before, bpf)


def packets(box: Sandbox, topology: str, name: str) -> int:
    """What a program that counts has seen."""
    rows = box.run(
        "bpftool", "-j", "map", "dump", "pinned", f"/sys/fs/bpf/cnf/{topology}/{name}/maps/counters"
    ).stdout
    return sum(int(number) for number in re.findall(r'"packets":(\d+)', rows))
