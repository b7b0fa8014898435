# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of M(cnf.ebpf.topology): find sources and files of entries, and send them along."""

from __future__ import annotations

import typing as t

from ..plugin_utils import policies
from ..plugin_utils.shipping import SECTION, ShippingAction, ship


class ActionModule(ShippingAction):
    def with_sources(self, args: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        shipped = dict(args)
        if isinstance(args.get(SECTION), list):
            shipped[SECTION], bundle = ship(args[SECTION], self.find)
            shipped["bundle"] = bundle or None
        if isinstance(args.get(policies.SECTION), list):
            items, tables = policies.ship_files(
                args[policies.SECTION], self.find_file, self.cache_directory, policies.SECTION
            )
            shipped.update({policies.SECTION: items, "tables": tables or None})
        return shipped
