# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the helpers beside this file importable: in importlib mode pytest adds nothing to sys.path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
