# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Colours of statuses, the same in every drawing. Chosen to be told apart also by those who see no red and green."""

from __future__ import annotations

import typing as t

from .scene import ADDED, CHANGED, FOREIGN, REMOVED, SAME


class Colour(t.NamedTuple):
    line: str
    fill: str
    text: str
    sign: str  # in front of texts, for those who see no colours


COLOURS: t.Mapping[str, Colour] = {
    SAME: Colour("#57606a", "#ffffff", "#1f2328", ""),
    ADDED: Colour("#1a7f37", "#dafbe1", "#0f5323", "+ "),
    REMOVED: Colour("#cf222e", "#ffebe9", "#a40e26", "- "),
    CHANGED: Colour("#bf8700", "#fff8c5", "#6f4e00", "~ "),
    FOREIGN: Colour("#afb8c1", "#f6f8fa", "#6e7781", ""),
}


def signed(text: str, status: str) -> str:
    """The text with the sign of its status."""
    return COLOURS[status].sign + text
