# SPDX-License-Identifier: GPL-3.0-or-later
"""Traffic control and XDP without a kernel: decoding what one (6.18) answered, requests, and the choice of priorities."""

from __future__ import annotations

import errno

import pytest

from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError, PlanError
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel import rtnl, tc
from ansible_collections.cnf.ebpf.plugins.module_utils._kernel.netlink import attribute

# Rows of `tc filter show dev v1 egress`: for each filter or table of filters its priority's own row comes first.
PRIORITY = "000000000200000000000000f3ffffff00032c01080001006270660008000b0000000000"
PROGRAM = (
    "000000000200000007000000f3ffffff00032c01080001006270660008000b0000000000380002000e000700636e663a652f6f3a7000000008"
    "000b004f0300000c000a0093c0ae87bddb48ea08000800010000000800090008000000"
)
U32 = (
    "000000000200000000080080f3ffffff08009001080001007533320008000b000000000040000200240005000100010000000000000000"
    "0000000000ffffffffc000020110000000000000000800020000000080080001000100010008000b0008000000"
)
CLASSIC = (
    "000000000200000001000000f3ffffff00030900080001006270660008000b00030000002800020006000400010000000c000500060000"
    "00ffffffff08000800010000000800090008000000"
)


class Socket:
    """Answers dumps by the parent that they ask for, and keeps requests."""

    def __init__(self, answers=None, error=None):
        self.answers, self.error = answers or {}, error
        self.sent = []

    def dump(self, _kind, payload):
        if self.error:
            raise KernelError(self.error)
        parent = tc.TCMSG.unpack_from(payload)[3]
        return [bytes.fromhex(row) for row in self.answers.get(parent, ())]

    def request(self, kind, flags, payload):
        self.sent.append((kind, flags, payload.hex()))

    def query(self, _kind, _payload):
        return None


def test_rows_of_filters():
    egress = tc.HOOKS["egress"]
    found = tc.filters(Socket({egress: [PRIORITY, PROGRAM, U32, CLASSIC]}), 2, "egress")
    assert found == [
        tc.Filter(
            ifindex=2,
            hook="egress",
            kind="bpf",
            priority=300,
            protocol=3,
            handle=7,
            name="cnf:e/o:p",
            prog_id=0x34F,
            tag="93c0ae87bddb48ea",
            direct_action=True,
            chain=0,
        ),
        tc.Filter(2, "egress", "u32", 400, 0x800, 0x80000800, "", 0, "", False, 0),
        tc.Filter(2, "egress", "bpf", 9, 3, 1, "", 0, "", True, 3),
    ]


def test_filters_that_answer_for_the_plain_handle_are_not_those_of_clsact():
    rows = [PRIORITY, PROGRAM]
    both = {tc.HOOKS["ingress"]: rows, tc.QDISC_HANDLE: rows}
    assert tc.filters(Socket(both), 2, "ingress") == []


def test_a_kernel_without_traffic_control_has_none():
    netlink = Socket(error=errno.EOPNOTSUPP)
    assert tc.filters(netlink, 2, "ingress") == []
    assert not tc.has_clsact(netlink, 2)


def test_other_errors_of_a_dump_are_not_hidden():
    with pytest.raises(KernelError):
        tc.filters(Socket(error=errno.EPERM), 2, "ingress")


@pytest.mark.parametrize(
    ("ifindex", "kind", "parent", "has"),
    [
        (2, b"clsact\0", tc.QDISC_PARENT, True),
        (3, b"clsact\0", tc.QDISC_PARENT, False),
        (2, b"ingress\0", tc.QDISC_PARENT, False),
        (2, b"noqueue\0", 0xFFFFFFFF, False),
    ],
    ids=["ours", "another device", "ingress", "root"],
)
def test_clsact_is_told_by_its_kind_and_device(ifindex, kind, parent, has):
    row = tc.TCMSG.pack(0, ifindex, tc.QDISC_HANDLE, parent, 0) + attribute(tc.TCA_KIND, kind)
    assert tc.has_clsact(Socket({0: [row.hex()]}), 2) is has


def test_requests():
    netlink = Socket()
    tc.add_clsact(netlink, 5)
    tc.delete_clsact(netlink, 5)
    tc.add_filter(netlink, 5, "ingress", priority=0x102, handle=3, prog_fd=9, name="x")
    tc.replace_filter(netlink, 5, "egress", priority=0x102, handle=3, prog_fd=9, name="x")
    tc.delete_filter(netlink, 5, "ingress", priority=0x102, handle=3)
    clsact = "00000000050000000000fffff1ffffff000000000b000100636c736163740000"
    place = "000000000500000003000000{}ffffff0003020108000100627066001c00020008000600090000000600070078000000"
    assert netlink.sent == [
        (36, 0x600, clsact),
        (37, 0, clsact),
        (44, 0x600, place.format("f2") + "0800080001000000"),
        (44, 0, place.format("f3") + "0800080001000000"),
        (45, 0, "000000000500000003000000f2ffffff000302010800010062706600"),
    ]


@pytest.mark.parametrize(
    ("arguments", "encoded"),
    [
        ((9, "native"), "14002b0008000100090000000800030004000000"),
        ((-1, "generic"), "14002b0008000100ffffffff0800030002000000"),
        ((9, "offload", -1), "1c002b00080001000900000008000800ffffffff0800030018000000"),
        ((9, "generic", 7), "1c002b000800010009000000080008000700000008000300" + "12000000"),
    ],
    ids=["whatever is there", "removal", "if there is none", "in the place of one"],
)
def test_xdp_requests(arguments, encoded):
    netlink = Socket()
    tc.set_xdp(netlink, 5, *arguments)
    assert netlink.sent == [(19, 0, bytes(4).hex() + "05000000" + bytes(8).hex() + encoded)]


@pytest.mark.parametrize(
    ("nested", "programs"),
    [
        ("", ()),
        ("0500020000000000", ()),
        ("080005005203000005000200010000000800040052030000", (("native", 0x352),)),
        ("080006000700000005000200020000000800040007000000", (("generic", 7),)),
        ("080006000700000008000700090000000500020004000000", (("generic", 7), ("offload", 9))),
    ],
    ids=["not told", "none", "native", "generic", "two modes at once"],
)
def test_xdp_programs_of_a_link(nested, programs):
    payload = rtnl.IFINFOMSG.pack(0, 1, 5, 0, 0) + attribute(rtnl.IFLA_IFNAME, b"v0\0")
    if nested:
        payload += attribute(rtnl.IFLA_XDP, bytes.fromhex(nested))
    assert rtnl.decode_link(payload).xdp == programs


@pytest.mark.parametrize(
    ("existing", "before", "after", "chosen"),
    [
        ((), None, None, 49152),
        ((49152,), None, 49152, 49408),
        ((49152,), 49152, None, 48896),
        ((49024, 49152), 49152, 49024, 49088),
        ((10, 20), None, None, 276),
        ((1, 3), 3, 1, 2),
        ((100,), 100, None, 50),
        ((2,), 2, None, 1),
        ((65500,), None, 65500, 65518),
        ((65534,), None, 65534, 65535),
        ((1, 10, 11, 12, 20), 20, 1, 9),
        ((7, 8, 9, 10), None, 7, 263),
    ],
    ids=[
        "the first of all",
        "behind the last",
        "in front of the first",
        "between two",
        "the last by default",
        "the only one",
        "less than a step below",
        "the very first",
        "less than a step above",
        "the very last",
        "the middle is taken",
        "past those that follow",
    ],
)
def test_chosen_priority(existing, before, after, chosen):
    assert tc.choose_priority(existing, before, after) == chosen


@pytest.mark.parametrize(
    ("existing", "before", "after", "between"),
    [
        ((1,), 1, None, "0 and 1"),
        ((65535,), None, 65535, "65535 and 65536"),
        ((65535,), None, None, "65535 and 65536"),
        ((5, 6), 6, 5, "5 and 6"),
        ((5,), 5, 5, "5 and 5"),
        ((5, 6, 7), 7, 5, "5 and 7"),
    ],
)
def test_no_priority_is_free(existing, before, after, between):
    with pytest.raises(PlanError) as caught:
        tc.choose_priority(existing, before, after)
    assert str(caught.value) == (
        f"filter: no priority is free between {between}; give one of the filters beside it another (tc filter)"
    )


def test_every_hook_has_room_for_as_many_filters_as_a_list_of_tcx():
    """63 times in front or behind, the order is what was asked for."""
    for place in ("first", "last"):
        order = []
        for _turn in range(63):
            before = order[0] if order and place == "first" else None
            after = order[-1] if order and place == "last" else None
            chosen = tc.choose_priority(order, before, after)
            order = [chosen, *order] if place == "first" else [*order, chosen]
        assert order == sorted(set(order))


def test_a_filter_that_would_mean_all_of_them_is_not_asked_for():
    netlink = Socket()
    with pytest.raises(ValueError):
        tc.delete_filter(netlink, 5, "ingress", priority=0, handle=1)
    with pytest.raises(ValueError):
        tc.delete_filter(netlink, 5, "ingress", priority=1, handle=0)
    assert netlink.sent == []
