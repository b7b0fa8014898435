# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of the integration tests, for tests that run inside the machines of scenarios."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT / ".cache" / "collections")]

import conftest  # noqa: E402

box, elsewhere = conftest.box, conftest.elsewhere
