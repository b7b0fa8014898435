# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the integration tests."""

from __future__ import annotations

import json
import os
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from sandbox import Sandbox

from playbooks import Ansible


def pytest_collection_modifyitems(items: t.List[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))


@pytest.fixture
def box() -> t.Iterator[Sandbox]:
    """An isolated host."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def ansible(box: Sandbox, tmp_path: Path) -> Ansible:
    """ansible-playbook in the isolated host."""
    return Ansible(box, tmp_path)


@pytest.fixture
def elsewhere(box: Sandbox, tmp_path: Path) -> t.Callable[..., t.List[int]]:
    """``elsewhere(name, device, hook, **options)``: attach programs of others (support/foreign.py) and return their ids."""
    script = Path(__file__).resolve().parent.parent / "support" / "foreign.py"

    def attach(
        name: str, device: str = "b0", hook: str = "ingress", netns: str = "", **options: t.Any
    ) -> t.List[int]:
        words = ("ip", "netns", "exec", netns) if netns else ()
        told = box.run(
            *words,
            box.python,
            str(script),
            name,
            device,
            hook,
            json.dumps(options),
            str(tmp_path),
            env=box.environment(),
        )
        return [int(word) for word in told.stdout.split()]

    return attach
