# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of M(cnf.ebpf.bpf_policy_entry): read a file of entries and send it along."""

from __future__ import annotations

import typing as t

from ..plugin_utils.policies import ship_files
from ..plugin_utils.shipping import ShippingAction


class ActionModule(ShippingAction):
    def with_sources(self, args: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        (item,), tables = ship_files([args], self.find_file, self.cache_directory, "")
        if isinstance(args.get("entries"), list):
            item["entries"], more = ship_files(
                args["entries"], self.find_file, self.cache_directory, "entries"
            )
            tables.update(more)
        return {**item, "tables": tables} if tables else args
