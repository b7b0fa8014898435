# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Programs attached by rtnetlink: filters of the clsact queueing discipline in direct-action mode, and XDP.

This is how it goes where the kernel has no tcx (before 6.6) and no XDP links (before 5.9). Messages are packed by hand:
pyroute2's tc layer costs an import and differs between its releases. Layouts: struct tcmsg and TCA_* in linux/rtnetlink.h,
TCA_BPF_* in linux/pkt_cls.h, IFLA_XDP_* and XDP_FLAGS_* in linux/if_link.h; integers in host byte order, but for the
protocol in tcm_info, which is in network byte order. A hook is "ingress" or "egress"; devices are those of the socket's
network namespace. Failures are KernelErrors that name the device and the filter.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import typing as t

from .._errors import KernelError, PlanError
from . import bpf, rtnl
from .messages import NLM_F_CREATE, NLM_F_EXCL
from .netlink import Netlink, attribute, attributes

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
TCA_KIND, TCA_OPTIONS, TCA_CHAIN = 1, 2, 11
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_TAG, TCA_BPF_ID = 6, 7, 8, 10, 11
TCA_BPF_FLAG_ACT_DIRECT = 1

QDISC_HANDLE = 0xFFFF0000  # ffff:, of clsact and of its predecessor `ingress` alike
QDISC_PARENT = 0xFFFFFFF1  # TC_H_CLSACT, which equals TC_H_INGRESS
HOOKS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # parents of the filters of clsact
ETH_P_ALL = 3

RTM_SETLINK = 19
IFLA_XDP_FD, IFLA_XDP_FLAGS, IFLA_XDP_EXPECTED_FD = 1, 3, 8
XDP_FLAGS_REPLACE = 1 << 4
XDP_MODE_FLAGS = {"native": bpf.XDP_DRV_MODE, "generic": bpf.XDP_SKB_MODE, "offload": bpf.XDP_HW_MODE}
NOTHING = -1  # in the place of an XDP program's descriptor

MAX_PRIORITY = 0xFFFF
FIRST_PRIORITY = 0xC000  # where the kernel begins, too, when it is not told one
PRIORITY_STEP = 256  # room for others in front of the first and behind the last


class Filter(t.NamedTuple):
    """One filter. ``protocol`` is an EtherType, 3 for all; what only BPF filters have is 0, False or empty in others.

    ``prog_id`` and ``tag`` (16 hexadecimal digits) are absent from BPF filters with classic bytecode, too.
    """

    ifindex: int
    hook: str
    kind: str
    priority: int
    protocol: int
    handle: int
    name: str
    prog_id: int
    tag: str
    direct_action: bool
    chain: int


@contextlib.contextmanager
def naming(netlink: Netlink, ifindex: int, what: str) -> t.Iterator[None]:
    """Have a KernelError of the body say what it is about: ``what`` and the device's name."""
    try:
        yield
    except KernelError as problem:
        raise KernelError(
            problem.errno, problem.extack, f"{what} {device_name(netlink, ifindex)}"
        ) from problem


def device_name(netlink: Netlink, ifindex: int) -> str:
    """The name of a device for a message, or its index when it is gone."""
    payload = netlink.query(rtnl.RTM_GETLINK, rtnl.IFINFOMSG.pack(0, 0, ifindex, 0, 0))
    return rtnl.decode_link(payload).name if payload else f"interface {ifindex}, which is not there"


# --- The queueing discipline --------------------------------------------------------------------------------------


def has_clsact(netlink: Netlink, ifindex: int) -> bool:
    """Whether the device has clsact. The old `ingress` sits at the same place, but has no egress: it does not count."""
    return _ingress_qdisc(netlink, ifindex) == "clsact"


def _ingress_qdisc(netlink: Netlink, ifindex: int) -> str:
    """The kind of the queueing discipline at ffff:fff1, '' when there is none.

    A dump, because the answer to a single RTM_GETQDISC goes to the listeners of the multicast group only.
    """
    for payload in _dump(netlink, RTM_GETQDISC, TCMSG.pack(0, ifindex, 0, 0, 0)):
        _family, index, _handle, parent, _info = TCMSG.unpack_from(payload)
        if index == ifindex and parent == QDISC_PARENT:
            return _text(attributes(payload, TCMSG.size).get(TCA_KIND, b""))
    return ""


def add_clsact(netlink: Netlink, ifindex: int) -> None:
    """Give the device a clsact. EEXIST when it has one; PlanError when an `ingress` is where it would have to be."""
    try:
        with naming(netlink, ifindex, "clsact of"):
            netlink.request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, _clsact(ifindex))
    except KernelError as problem:
        if problem.name == "EEXIST" and _ingress_qdisc(netlink, ifindex) == "ingress":
            name = device_name(netlink, ifindex)
            raise PlanError(
                f"clsact of {name}: an ingress queueing discipline is in its place; attach through clsact what "
                f"needs it, then remove it (tc qdisc del dev {name} ingress)"
            ) from problem
        raise


def delete_clsact(netlink: Netlink, ifindex: int) -> None:
    """Take clsact away with all its filters, also those of others; programs on tcx stay.

    An `ingress` is left alone (EINVAL); an error, too, when there is nothing.
    """
    with naming(netlink, ifindex, "clsact of"):
        netlink.request(RTM_DELQDISC, 0, _clsact(ifindex))


def _clsact(ifindex: int) -> bytes:
    return TCMSG.pack(0, ifindex, QDISC_HANDLE, QDISC_PARENT, 0) + attribute(TCA_KIND, b"clsact\0")


# --- Filters ------------------------------------------------------------------------------------------------------


def filters(netlink: Netlink, ifindex: int, hook: str) -> t.List[Filter]:
    """The filters of a hook of any kind, in the order in which they run; none without clsact.

    Those of chains other than 0 run only when a filter sends packets there. Of u32 its hash tables are listed as well.
    """
    rows = _filter_rows(netlink, ifindex, HOOKS[hook])
    # An `ingress` answers for any parent with its own filters, and clsact never for the plain ffff:.
    if not rows or _filter_rows(netlink, ifindex, QDISC_HANDLE):
        return []
    return [decode_filter(row, hook) for row in rows if TCMSG.unpack_from(row)[2]]


def _filter_rows(netlink: Netlink, ifindex: int, parent: int) -> t.List[bytes]:
    return _dump(netlink, RTM_GETTFILTER, TCMSG.pack(0, ifindex, 0, parent, 0))


def decode_filter(payload: bytes, hook: str) -> Filter:
    _family, ifindex, handle, _parent, info = TCMSG.unpack_from(payload)
    found = attributes(payload, TCMSG.size)
    kind = _text(found.get(TCA_KIND, b""))
    options = attributes(found[TCA_OPTIONS]) if kind == "bpf" and TCA_OPTIONS in found else {}
    return Filter(
        ifindex=ifindex,
        hook=hook,
        kind=kind,
        priority=info >> 16,
        protocol=socket.ntohs(info & 0xFFFF),
        handle=handle,
        name=_text(options.get(TCA_BPF_NAME, b"")),
        prog_id=_u32(options.get(TCA_BPF_ID)),
        tag=options.get(TCA_BPF_TAG, b"").hex(),
        direct_action=bool(_u32(options.get(TCA_BPF_FLAGS)) & TCA_BPF_FLAG_ACT_DIRECT),
        chain=_u32(found.get(TCA_CHAIN)),
    )


def add_filter(
    netlink: Netlink, ifindex: int, hook: str, *, priority: int, handle: int, prog_fd: int, name: str
) -> None:
    """Attach a program for all protocols, in direct-action mode. EEXIST when the handle is taken at this priority.

    ``priority`` is 1 to 65535, lower runs first; the kernel keeps 255 bytes of ``name``.
    """
    _set_filter(netlink, NLM_F_CREATE | NLM_F_EXCL, ifindex, hook, priority, handle, prog_fd, name)


def replace_filter(
    netlink: Netlink, ifindex: int, hook: str, *, priority: int, handle: int, prog_fd: int, name: str
) -> None:
    """Put another program and name in a filter's place, between two packets. ENOENT when the filter is gone."""
    _set_filter(netlink, 0, ifindex, hook, priority, handle, prog_fd, name)


def _set_filter(
    netlink: Netlink,
    flags: int,
    ifindex: int,
    hook: str,
    priority: int,
    handle: int,
    prog_fd: int,
    name: str,
) -> None:
    options = attribute(TCA_BPF_FD, rtnl.U32.pack(prog_fd))
    options += attribute(TCA_BPF_NAME, name.encode() + b"\0")
    options += attribute(TCA_BPF_FLAGS, rtnl.U32.pack(TCA_BPF_FLAG_ACT_DIRECT))
    request = _filter(ifindex, hook, priority, handle) + attribute(TCA_OPTIONS, options)
    with naming(netlink, ifindex, f"filter {priority}/{handle} ({name}) at {hook} of"):
        netlink.request(RTM_NEWTFILTER, flags, request)


def delete_filter(netlink: Netlink, ifindex: int, hook: str, *, priority: int, handle: int) -> None:
    """Detach one BPF filter; ENOENT when there is none, EINVAL when the priority is that of another kind."""
    with naming(netlink, ifindex, f"filter {priority}/{handle} at {hook} of"):
        netlink.request(RTM_DELTFILTER, 0, _filter(ifindex, hook, priority, handle))


def _filter(ifindex: int, hook: str, priority: int, handle: int) -> bytes:
    if not 0 < priority <= MAX_PRIORITY or not handle:
        # To the kernel a zero means any: it would choose one, or delete them all, anybody's.
        raise ValueError(
            f"filter {priority}/{handle}: priority (1 to {MAX_PRIORITY}) and handle cannot be zero"
        )
    info = priority << 16 | socket.htons(ETH_P_ALL)
    return TCMSG.pack(0, ifindex, handle, HOOKS[hook], info) + attribute(TCA_KIND, b"bpf\0")


def choose_priority(
    existing: t.Sequence[int], before: t.Optional[int] = None, after: t.Optional[int] = None
) -> int:
    """A free priority between two others, which are left out; without them, one behind all that exist.

    Raises PlanError when there is none.
    """
    if before is None and after is None:
        if not existing:
            return FIRST_PRIORITY
        after = max(existing)
    low, high = after or 0, MAX_PRIORITY + 1 if before is None else before
    wanted = (low + high) // 2
    if before is None:
        wanted = min(wanted, low + PRIORITY_STEP)
    elif after is None:
        wanted = max(wanted, high - PRIORITY_STEP)
    free = set(range(low + 1, high)).difference(existing)
    if not free:
        raise PlanError(
            f"filter: no priority is free between {low} and {high}; give one of the filters beside it another (tc filter)"
        )
    return min(free, key=lambda priority: (abs(priority - wanted), priority))


# --- XDP ------------------------------------------------------------------------------------------------------------


def set_xdp(
    netlink: Netlink, ifindex: int, prog_fd: int, mode: str, expected_fd: t.Optional[int] = None
) -> None:
    """Make a program the XDP program of a device, or with ``NOTHING`` remove that of this mode.

    The change is one step for the packets, whatever was there. With ``expected_fd`` (``NOTHING``: no program) only if
    that is there, otherwise EEXIST. EBUSY when a link holds the place, EEXIST when a program of the other mode does,
    EOPNOTSUPP when the device cannot do the mode.
    """
    flags = XDP_MODE_FLAGS[mode]
    request = attribute(IFLA_XDP_FD, rtnl.S32.pack(prog_fd))
    if expected_fd is not None:
        flags |= XDP_FLAGS_REPLACE
        request += attribute(IFLA_XDP_EXPECTED_FD, rtnl.S32.pack(expected_fd))
    request += attribute(IFLA_XDP_FLAGS, rtnl.U32.pack(flags))
    with naming(netlink, ifindex, f"{mode} XDP program of"):
        netlink.request(
            RTM_SETLINK,
            0,
            rtnl.IFINFOMSG.pack(0, 0, ifindex, 0, 0) + attribute(rtnl.IFLA_XDP, request),
        )


def _dump(netlink: Netlink, kind: int, request: bytes) -> t.List[bytes]:
    try:
        return netlink.dump(kind, request)
    except KernelError as problem:
        if problem.name == "EOPNOTSUPP":
            return []  # a kernel without traffic control
        raise


def _u32(data: t.Optional[bytes]) -> int:
    return rtnl.U32.unpack_from(data)[0] if data else 0


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")
