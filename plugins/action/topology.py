# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of M(cnf.ebpf.topology): find the sources and send them along."""

from __future__ import annotations

import typing as t

from ..plugin_utils.shipping import SECTION, ShippingAction, ship


class ActionModule(ShippingAction):
    def with_sources(self, args: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        items = args.get(SECTION)
        if not isinstance(items, list):
            return args
        shipped, bundle = ship(items, self.find)
        return {**args, SECTION: shipped, "bundle": bundle or None}
