# SPDX-License-Identifier: GPL-3.0-or-later
"""What CONTRIBUTING.md says of the tests is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(
    r"`((?:tests|extensions)/[\w/]+\.py)::(\w+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")
)


def test_complaints_are_listed():
    assert len(NAMED) == 20


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path, name):
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)
