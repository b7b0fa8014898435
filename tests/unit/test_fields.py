# SPDX-License-Identifier: GPL-3.0-or-later
"""Single fields: what is accepted, its canonical form, and the exact words of a refusal."""

from __future__ import annotations

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import Key
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import SpecError
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import _fields, route, rule


@pytest.mark.parametrize(
    ("parse", "given", "canonical"),
    [
        (_fields.ifname, "eth0.7", "eth0.7"),
        (_fields.ifname, "a" * 15, "a" * 15),
        (_fields.ifname, 7, "7"),
        (_fields.netns, None, ""),
        (_fields.netns, "red", "red"),
        (_fields.netns, "n" * 255, "n" * 255),
        (_fields.mtu, None, None),
        (_fields.mtu, 68, 68),
        (_fields.mtu, 65535, 65535),
        (_fields.mac, None, None),
        (_fields.mac, "02-00-00-00-00-AB", "02:00:00:00:00:ab"),
        (_fields.topology_name, "Edge_1.lab-2", "Edge_1.lab-2"),
        (_fields.topology_name, "a" * 63, "a" * 63),
        (route.table_of, "main", 254),
        (route.table_of, "local", 255),
        (route.table_of, "4294967295", (1 << 32) - 1),
        (rule._ports, "443", "443"),
        (rule._ports, "443-443", "443"),
        (rule._ports, "1000-2000", "1000-2000"),
        (rule._ports, None, ""),
        (rule._fwmark, "16", "0x10"),
        (rule._fwmark, "0x10/0xffffffff", "0x10"),
        (rule._fwmark, "0x10/255", "0x10/0xff"),
        (rule._fwmark, None, ""),
    ],
)
def test_accepted(parse, given, canonical):
    assert parse(given, "here") == canonical


@pytest.mark.parametrize(
    ("parse", "given", "problem"),
    [
        (_fields.ifname, "", "'' has 0 bytes; a device name has 1 to 15, shorten it"),
        (_fields.ifname, "a" * 16, f"'{'a' * 16}' has 16 bytes; a device name has 1 to 15, shorten it"),
        (_fields.ifname, "ü" * 8, f"'{'ü' * 8}' has 16 bytes; a device name has 1 to 15, shorten it"),
        (
            _fields.ifname,
            "a b",
            "'a b' is not a device name: printable ASCII without '/', ':', '%' and spaces is needed",
        ),
        (
            _fields.ifname,
            "eth%d",
            "'eth%d' is not a device name: printable ASCII without '/', ':', '%' and spaces is needed",
        ),
        (
            _fields.ifname,
            "eth0:1",
            "'eth0:1' is not a device name: printable ASCII without '/', ':', '%' and spaces is needed",
        ),
        (
            _fields.ifname,
            "..",
            "'..' is not a device name: printable ASCII without '/', ':', '%' and spaces is needed",
        ),
        (
            _fields.netns,
            "a/b",
            "'a/b' is not a namespace name: a file name of up to 255 printable ASCII signs is needed",
        ),
        (
            _fields.netns,
            ".",
            "'.' is not a namespace name: a file name of up to 255 printable ASCII signs is needed",
        ),
        (
            _fields.netns,
            "n" * 256,
            f"'{'n' * 256}' is not a namespace name: a file name of up to 255 printable ASCII signs is needed",
        ),
        (_fields.mtu, 67, "67 is out of range; give 68 to 65535 bytes"),
        (_fields.mtu, 65536, "65536 is out of range; give 68 to 65535 bytes"),
        (_fields.mac, "02:00", "'02:00' is not a hardware address such as 02:00:00:00:00:01"),
        (
            _fields.mac,
            "01:00:00:00:00:00",
            "'01:00:00:00:00:00' is a group or zero address; a device needs a unicast one, such as 02:00:00:00:00:01",
        ),
        (
            _fields.mac,
            "00:00:00:00:00:00",
            "'00:00:00:00:00:00' is a group or zero address; a device needs a unicast one, such as 02:00:00:00:00:01",
        ),
        (
            _fields.topology_name,
            "-a",
            "'-a' is not a topology name: up to 63 of A-Z a-z 0-9 _ . - and no sign first",
        ),
        (
            _fields.topology_name,
            "a" * 64,
            f"'{'a' * 64}' is not a topology name: up to 63 of A-Z a-z 0-9 _ . - and no sign first",
        ),
        (
            _fields.topology_name,
            "a/b",
            "'a/b' is not a topology name: up to 63 of A-Z a-z 0-9 _ . - and no sign first",
        ),
        (
            _fields.interface,
            "10.0.0.1/33",
            "'10.0.0.1/33' is not an address with prefix length, such as 10.0.0.1/24 or fd00::1/64",
        ),
        (_fields.network, "10", "'10' is not a prefix, such as 10.0.0.0/8, fd00::/8 or default"),
        (_fields.address, "10.0.0.1/24", "'10.0.0.1/24' is not an IP address, such as 10.0.0.1 or fd00::1"),
        (
            route.table_of,
            "vpn",
            "'vpn' is not a table: give main, local, default or a number up to 4294967295",
        ),
        (route.table_of, "0", "0 is out of range; give 1 to 4294967295"),
        (rule._ports, "0", "'0' is not a port or range such as 443 or 1000-2000"),
        (rule._ports, "2000-1000", "'2000-1000' is not a port or range such as 443 or 1000-2000"),
        (rule._ports, "http", "'http' is not a port or range such as 443 or 1000-2000"),
        (rule._fwmark, "x", "'x' is not a mark of 32 bits such as 0x10 or 0x10/0xff"),
    ],
)
def test_refused_with_place_and_remedy(parse, given, problem):
    with pytest.raises(SpecError) as caught:
        parse(given, "link[2].peer")
    assert (caught.value.path, caught.value.problem) == ("link[2].peer", problem)
    assert str(caught.value) == f"link[2].peer: {problem}"


@pytest.mark.parametrize("name", ["a\n", "edge\n"])
def test_topology_name_ends_where_it_ends(name):
    with pytest.raises(SpecError):
        _fields.topology_name(name, "name")


@pytest.mark.parametrize(
    ("text", "address", "length"),
    [("10.0.0.1", "10.0.0.1", 32), ("10.0.0.1/24", "10.0.0.1", 24), ("FD00:0::1/64", "fd00::1", 64)],
)
def test_address_with_and_without_length(text, address, length):
    found = _fields.interface(text, "here")
    assert (str(found.ip), found.network.prefixlen) == (address, length)


def test_prefix_loses_its_host_bits():
    assert str(_fields.network("10.1.2.3/8", "here")) == "10.0.0.0/8"


def test_mark_names_the_topology_and_fits_an_altname():
    key = Key("link", "red", "v0")
    mark = _fields.mark_of("a-b.c", key)
    assert mark == "cnf-a-b.c-" + mark[-12:]
    assert _fields.owner_of(["eno1", mark]) == "a-b.c"
    assert len(_fields.mark_of("a" * 63, key)) < 128
    assert mark != _fields.mark_of("a-b.c", Key("link", "", "v0"))


@pytest.mark.parametrize("altnames", [[], ["enp0s1"], ["cnf-"], ["cnf-edge"], ["xcnf-edge-0123456789ab"]])
def test_other_altnames_are_no_marks(altnames):
    assert _fields.owner_of(altnames) is None


@pytest.mark.parametrize("altname", ["cnf-core-sw1", "cnf-edge-uplink"])
def test_an_altname_of_a_person_is_no_mark(altname):
    assert _fields.owner_of([altname]) is None


def test_protocol_number_is_ours_or_not():
    assert (_fields.owner_of_protocol(207), _fields.owner_of_protocol(4)) == ("*", None)


@pytest.mark.parametrize(
    ("netns", "words", "family", "line"),
    [
        ("", ("link", "set", "v0", "up"), 2, "ip link set v0 up"),
        ("red", ("route", "add", "default", "metric", 7), 2, "ip -n red route add default metric 7"),
        ("red", ("rule", "add", ""), 10, "ip -6 -n red rule add"),
    ],
)
def test_command_line(netns, words, family, line):
    assert _fields.ip(netns, *words, family=family) == line


def test_required_fields_are_named():
    with pytest.raises(SpecError, match=r"^address\[0\]\.dev: missing; it is required$"):
        _fields.require({"dev": "", "address": "x"}, ("dev", "address"), "address[0]")
