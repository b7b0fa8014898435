# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading systemd-networkd's configuration."""

from __future__ import annotations

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import networkd


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ([], ""),
        (["[Network]\n#ManageForeignRoutes=no\n"], ""),
        (["[Network]\nManageForeignRoutes = No\n"], "no"),
        (["[Network]\nManageForeignRoutes=no\n", "[Network]\nManageForeignRoutes=yes\n"], "yes"),
        (["[Network]\nManageForeignRoutingPolicyRules=no\n"], ""),
    ],
)
def test_the_last_setting_of_exactly_that_name_counts(texts, value):
    assert networkd.setting(texts, "ManageForeignRoutes") == value
