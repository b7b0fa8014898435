# SPDX-License-Identifier: GPL-3.0-or-later
"""How many examples property tests try: EXAMPLES is the share of them that is enough, such as 0.2. What is wrong with a decision shows
on any Python, so the others than that of the environment need no more than to run it.
"""

from __future__ import annotations

import os

from hypothesis import settings

SHARE = float(os.environ.get("EXAMPLES", "1"))


def examples(count, **options):
    return settings(max_examples=max(5, int(count * SHARE)), **options)
