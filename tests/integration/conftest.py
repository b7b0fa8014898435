# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from sandbox import Sandbox


def pytest_collection_modifyitems(items: t.List[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))


@pytest.fixture
def box() -> t.Iterator[Sandbox]:
    """An isolated host."""
    with Sandbox() as sandbox:
        yield sandbox
