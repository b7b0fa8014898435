# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for variables that hold lists."""

from __future__ import annotations

import pytest

pytest.importorskip("ansible", reason="filters run on the controller")
from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.validation import check_type_list

from ansible_collections.cnf.ebpf.plugins.filter.lists import as_list, outside


@pytest.mark.parametrize("given", [["a", "b"], [], "eth0", "eth0,eth1", 7, 1.5])
def test_a_list_is_what_an_option_would_make_of_it(given):
    assert as_list(given) == list(check_type_list(given))


def test_blanks_and_empty_items_are_no_items():
    assert as_list(" eth0 , ,eth1,") == ["eth0", "eth1"]
    assert as_list("") == as_list(None) == []
    assert as_list(("a",)) == ["a"]


@pytest.mark.parametrize("given", [{"a": 1}, True])
def test_other_values_are_refused(given):
    with pytest.raises(AnsibleFilterError, match="is neither a list nor a text of items"):
        as_list(given)


def test_addresses_outside_of_prefixes_keep_their_order():
    addresses = ["192.0.2.1", "2001:db8::1", "198.51.100.1"]
    assert outside(addresses, []) == addresses
    assert outside(addresses, ["192.0.2.0/24", "2001:db8::/32"]) == ["198.51.100.1"]
    assert outside(addresses, ["192.0.2.1", "::/0"]) == ["198.51.100.1"]
    assert outside("192.0.2.1,10.0.0.1", "0.0.0.0/0") == []
    assert outside(["10.0.0.1"], ["10.0.0.2/8"]) == []  # bits of the host do not matter


def test_what_is_no_prefix_is_named():
    with pytest.raises(AnsibleFilterError, match="'ten' does not appear to be an IPv4 or IPv6 network"):
        outside(["10.0.0.1"], ["ten"])
