# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the helpers beside this file importable: in importlib mode pytest adds nothing to sys.path."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
