# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Writing rtnetlink: requests encoded with pyroute2's message classes.

pyroute2 is imported when the first message is written, so a run that changes nothing does not pay for it. What older
releases do not know (netkit, IFA_PROTO, NDA_PROTOCOL, NDA_FLAGS_EXT) is added by subclassing, as their own plugins do.
"""

from __future__ import annotations

import functools
import types
import typing as t

from . import requirements

NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

Attribute = t.Tuple[str, t.Any]
AttributeList = t.List[Attribute]


def _explicit(nla_map: t.Sequence[t.Tuple[t.Any, ...]]) -> t.List[t.Tuple[t.Any, ...]]:
    """The map with its numbers written out: pyroute2 counts them where they are left out."""
    return [tuple(row) if isinstance(row[0], int) else (number, *row) for number, row in enumerate(nla_map)]


def _extended(base: t.Any, extra: t.Sequence[t.Tuple[int, str, str]]) -> t.Any:
    """A message class that also knows the given attributes."""
    rows = _explicit(base.nla_map)
    known = {row[1] for row in rows}
    missing = [row for row in extra if row[1] not in known]
    if not missing:
        return base
    return type(base.__name__, (base,), {"nla_map": tuple(rows + missing), "__module__": __name__})


@functools.cache
def _library() -> types.SimpleNamespace:
    requirements.check_library()
    from pyroute2.netlink import nla
    from pyroute2.netlink.rtnl.fibmsg import fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    class netkit(nla):  # pylint: disable=invalid-name
        """IFLA_INFO_DATA of a netkit pair (linux/if_link.h, IFLA_NETKIT_*)."""

        prefix = "IFLA_"
        nla_map = (
            ("IFLA_NETKIT_UNSPEC", "none"),
            ("IFLA_NETKIT_PEER_INFO", "peer_info"),
            ("IFLA_NETKIT_PRIMARY", "uint8"),
            ("IFLA_NETKIT_POLICY", "uint32"),
            ("IFLA_NETKIT_PEER_POLICY", "uint32"),
            ("IFLA_NETKIT_MODE", "uint32"),
            ("IFLA_NETKIT_SCRUB", "uint32"),
            ("IFLA_NETKIT_PEER_SCRUB", "uint32"),
            ("IFLA_NETKIT_HEADROOM", "uint16"),
            ("IFLA_NETKIT_TAILROOM", "uint16"),
        )

        @staticmethod
        def peer_info(_message: t.Any, *_args: t.Any, **_kwargs: t.Any) -> t.Any:
            return ifinfveth  # struct ifinfomsg and nested IFLA_*, as VETH_INFO_PEER

    ifinfmsg.ifinfo.register_link_kind(module={"netkit": netkit})
    return types.SimpleNamespace(
        link=ifinfmsg,
        address=_extended(ifaddrmsg, [(11, "IFA_PROTO", "uint8")]),
        route=rtmsg,
        rule=fibmsg,
        neighbor=_extended(ndmsg, [(12, "NDA_PROTOCOL", "uint8"), (15, "NDA_FLAGS_EXT", "uint32")]),
    )


def _encode(message: t.Any, header: t.Mapping[str, t.Any], attrs: AttributeList) -> bytes:
    for name, value in header.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)[16:]  # the netlink header is the socket's business


def link(attrs: AttributeList, index: int = 0, up: t.Optional[bool] = None) -> bytes:
    """An ifinfomsg; ``up`` None leaves the administrative state alone."""
    header = {"family": 0, "index": index, "flags": int(bool(up)), "change": int(up is not None)}
    return _encode(_library().link(), header, attrs)


def address(family: int, prefixlen: int, index: int, scope: int, attrs: AttributeList) -> bytes:
    header = {"family": family, "prefixlen": prefixlen, "index": index, "scope": scope, "flags": 0}
    return _encode(_library().address(), header, attrs)


def route(header: t.Mapping[str, int], attrs: AttributeList) -> bytes:
    return _encode(_library().route(), header, attrs)


def rule(header: t.Mapping[str, int], attrs: AttributeList) -> bytes:
    return _encode(_library().rule(), header, attrs)


def neighbor(family: int, index: int, state: int, flags: int, attrs: AttributeList) -> bytes:
    header = {"family": family, "ifindex": index, "state": state, "flags": flags, "ndm_type": 0}
    return _encode(_library().neighbor(), header, attrs)
