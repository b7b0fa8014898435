# SPDX-License-Identifier: GPL-3.0-or-later
"""The tutorial, as a reader does it: every file is written, every command run, and what it is said to print is compared."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import typing as t
from pathlib import Path

import yaml
from bpf_steps import nothing_new
from sandbox import Sandbox
from steps import assert_same, store_files

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "docsite" / "rst"
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<kind>\w+)\n(?:   :caption: (?P<name>\S+)\n)?\n(?P<body>(?:   .*\n|\n)+)",
    re.MULTILINE,
)


class Block(t.NamedTuple):
    kind: str
    name: t.Optional[str]  # of a file to write
    body: str


def blocks(guide: str) -> t.List[Block]:
    text = (GUIDES / f"guide_{guide}.rst").read_text()
    return [
        Block(found["kind"], found["name"], textwrap.dedent(found["body"]).strip("\n") + "\n")
        for found in BLOCK.finditer(text)
    ]


def commands(body: str) -> t.List[t.Tuple[str, t.List[str]]]:
    """The commands of a console block, each with the lines that it is said to print."""
    found: t.List[t.Tuple[str, t.List[str]]] = []
    for line in body.splitlines():
        if line.startswith("# "):
            found.append((line[2:], []))
        elif line:
            found[-1][1].append(line)
    return found


def pattern(line: str) -> str:
    """A line of the guide as an expression: ``...`` is anything, and any room is as good as another."""
    return r"\s*" + re.sub(r"\\?\s+|\\ ", r"\\s*", re.escape(line).replace(r"\.\.\.", ".*"))


def test_every_command_of_the_tutorial_does_what_it_says(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "cnf.ebpf").symlink_to(ROOT)
    before, bpf = box.state(), box.bpf()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_PIPELINING": "true",
    }
    ran = 0
    for block in blocks("getting_started"):
        if block.name:
            text = block.body
            # Readers have pyroute2 from their distribution; tests have it in their virtual environment.
            (tmp_path / block.name).write_text(text.replace("/usr/bin/python3", sys.executable))
            continue
        for command, printed in commands(block.body):
            done = subprocess.run(
                box.command("/bin/bash", "-c", f"cd {tmp_path} && {command}"),
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            said = done.stdout + done.stderr
            assert done.returncode == 0, f"{command}\n{said}"
            for line in printed:
                assert re.search(pattern(line), said), f"{command}\nshould print: {line}\nprinted: {said}"
            ran += 1
    assert ran == 18
    assert_same(box.state(), before)
    assert store_files(box) == []
    nothing_new(box, bpf)


def test_the_tasks_of_the_other_guides_are_understood(box: Sandbox, tmp_path: Path) -> None:
    """Options that do not exist are refused by the modules' own check of arguments."""
    for guide in ("troubleshooting", "playbooks"):
        for block in blocks(guide):
            if block.kind != "yaml":
                continue
            found = yaml.safe_load(block.body)
            if isinstance(found, dict):  # variables of a playbook
                text = (ROOT / "playbooks" / "policy_rollout.yml").read_text()
                assert all(re.search(rf"\b{name}\b", text) for name in found)
                continue
            for task in found:
                (name,) = [key for key in task if "." in key]
                if name == "ansible.builtin.debug":
                    continue
                module = ROOT / "plugins" / "modules" / f"{name.rpartition('.')[2]}.py"
                documentation = re.search(
                    r'^DOCUMENTATION = r"""\n(.*?)"""', module.read_text(), re.MULTILINE | re.DOTALL
                )
                assert documentation is not None
                assert set(task[name] or {}) <= set(yaml.safe_load(documentation[1])["options"]), name
