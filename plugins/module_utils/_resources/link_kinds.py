# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What each kind of link can be told: option, kernel attribute, encoding, and whether it can change later.

One table serves writing, reading back and comparing. Numbers and widths: linux/if_link.h.
"""

from __future__ import annotations

import dataclasses
import struct
import typing as t

from .._kernel.rtnl import address_text


@dataclasses.dataclass(frozen=True)
class Codec:
    """How an attribute's payload becomes the user's value and what pyroute2 is given for it."""

    decode: t.Callable[[bytes], t.Any]
    encode: t.Callable[[t.Any], t.Any] = lambda value: value


def _number(layout: str) -> Codec:
    form = struct.Struct(layout)
    return Codec(lambda data: form.unpack_from(data)[0])


def _boolean(layout: str) -> Codec:
    form = struct.Struct(layout)
    return Codec(lambda data: bool(form.unpack_from(data)[0]), int)


def _choice(layout: str, names: t.Mapping[str, int]) -> Codec:
    form = struct.Struct(layout)
    words = {number: word for word, number in names.items()}

    def decode(data: bytes) -> str:
        number = form.unpack_from(data)[0]
        return words.get(number, str(number))

    return Codec(decode, lambda word: names[word])


U8, U16, U32, BE16 = _number("=B"), _number("=H"), _number("=I"), _number(">H")
SECONDS = Codec(
    lambda data: struct.unpack_from("=I", data)[0] // 100, lambda seconds: seconds * 100
)  # USER_HZ
ADDRESS = Codec(address_text)
NETKIT_MODES = {"l2": 0, "l3": 1}
NETKIT_POLICIES = {"forward": 0, "blackhole": 2}
NETKIT_SCRUBS = {"none": 0, "default": 1}
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
VLAN_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a kind. ``name6`` is the attribute that takes its place for an IPv6 address.

    ``unsaid`` is a value that a new link has anyway: not sent, because a kernel built without the feature refuses even that.
    """

    attribute: str
    number: int
    codec: Codec
    mutable: bool = False
    unsaid: t.Any = None
    name6: str = ""
    number6: int = 0


@dataclasses.dataclass(frozen=True)
class LinkKind:
    """A kind of link: its options, whether it comes in pairs or on a parent, and what the kernel must have for it."""

    config: str
    options: t.Mapping[str, Option] = dataclasses.field(default_factory=dict)
    pair: bool = False
    peer_attribute: str = ""
    needs_parent: bool = False
    parent_attribute: str = "IFLA_LINK"


KINDS: t.Dict[str, LinkKind] = {
    "veth": LinkKind("CONFIG_VETH", pair=True, peer_attribute="VETH_INFO_PEER"),
    "netkit": LinkKind(
        "CONFIG_NETKIT",
        pair=True,
        peer_attribute="IFLA_NETKIT_PEER_INFO",
        options={
            "mode": Option("IFLA_NETKIT_MODE", 5, _choice("=I", NETKIT_MODES)),
            "policy": Option("IFLA_NETKIT_POLICY", 3, _choice("=I", NETKIT_POLICIES), mutable=True),
            "peer_policy": Option("IFLA_NETKIT_PEER_POLICY", 4, _choice("=I", NETKIT_POLICIES), mutable=True),
            "scrub": Option("IFLA_NETKIT_SCRUB", 6, _choice("=I", NETKIT_SCRUBS)),
            "peer_scrub": Option("IFLA_NETKIT_PEER_SCRUB", 7, _choice("=I", NETKIT_SCRUBS)),
            "headroom": Option("IFLA_NETKIT_HEADROOM", 8, U16),
            "tailroom": Option("IFLA_NETKIT_TAILROOM", 9, U16),
        },
    ),
    "bridge": LinkKind(
        "CONFIG_BRIDGE",
        options={
            "stp": Option("IFLA_BR_STP_STATE", 5, _boolean("=I"), mutable=True),
            "vlan_filtering": Option("IFLA_BR_VLAN_FILTERING", 7, _boolean("=B"), mutable=True, unsaid=False),
            "ageing_time": Option("IFLA_BR_AGEING_TIME", 4, SECONDS, mutable=True),
            "forward_delay": Option("IFLA_BR_FORWARD_DELAY", 1, SECONDS, mutable=True),
        },
    ),
    "vlan": LinkKind(
        "CONFIG_VLAN_8021Q",
        needs_parent=True,
        options={
            "vlan_id": Option("IFLA_VLAN_ID", 1, U16),
            "vlan_protocol": Option("IFLA_VLAN_PROTOCOL", 5, _choice(">H", VLAN_PROTOCOLS)),
        },
    ),
    "vxlan": LinkKind(
        "CONFIG_VXLAN",
        parent_attribute="IFLA_VXLAN_LINK",
        options={
            "vni": Option("IFLA_VXLAN_ID", 1, U32),
            "local": Option("IFLA_VXLAN_LOCAL", 4, ADDRESS, name6="IFLA_VXLAN_LOCAL6", number6=17),
            "remote": Option(
                "IFLA_VXLAN_GROUP", 2, ADDRESS, mutable=True, name6="IFLA_VXLAN_GROUP6", number6=16
            ),
            "port": Option("IFLA_VXLAN_PORT", 15, BE16),
            "learning": Option("IFLA_VXLAN_LEARNING", 7, _boolean("=B"), mutable=True),
            "ttl": Option("IFLA_VXLAN_TTL", 5, U8),
        },
    ),
    "vrf": LinkKind("CONFIG_NET_VRF", options={"table": Option("IFLA_VRF_TABLE", 1, U32)}),
    "macvlan": LinkKind(
        "CONFIG_MACVLAN",
        needs_parent=True,
        options={"macvlan_mode": Option("IFLA_MACVLAN_MODE", 1, _choice("=I", MACVLAN_MODES), mutable=True)},
    ),
    "dummy": LinkKind("CONFIG_DUMMY"),
    # Its keys and peers are secrets of whoever runs the tunnel, and set with wg(8).
    "wireguard": LinkKind("CONFIG_WIREGUARD"),
    "tun": LinkKind("CONFIG_TUN"),
    "tap": LinkKind("CONFIG_TUN"),
}

IFLA_TUN_TYPE = 3  # in IFLA_INFO_DATA of kind "tun": 1 tun, 2 tap
IFLA_VXLAN_LINK = 3

IPROUTE_WORDS = {
    "peer_policy": "peer policy",
    "peer_scrub": "peer scrub",
    "vlan_id": "id",
    "vlan_protocol": "protocol",
    "vni": "id",
    "port": "dstport",
    "macvlan_mode": "mode",
    "stp": "stp_state",
}


def name_of_kind(kind: str, data: t.Mapping[int, bytes]) -> str:
    """The user's word for IFLA_INFO_KIND; tun and tap share one kernel kind, devices without a driver kind are physical."""
    if kind == "tun":
        return "tap" if data.get(IFLA_TUN_TYPE, b"\1")[:1] == b"\2" else "tun"
    if kind == "netkit" and data.get(2, b"\1")[:1] == b"\0":
        return "netkit peer"
    return kind or "physical"


def decode_options(kind: str, data: t.Mapping[int, bytes]) -> t.Dict[str, t.Any]:
    """The options of a link as the user would write them; what the kernel does not report is left out."""
    found = {}
    for name, option in KINDS[kind].options.items() if kind in KINDS else ():
        payload = data.get(option.number) or (data.get(option.number6) if option.number6 else None)
        if payload:
            found[name] = option.codec.decode(payload)
    return found


def encode_options(
    kind: str, options: t.Mapping[str, t.Any], creating: bool = False
) -> t.List[t.Tuple[str, t.Any]]:
    """Attributes for IFLA_INFO_DATA in the order of the table."""
    attrs = []
    for name, option in KINDS[kind].options.items():
        value = options.get(name)
        if value is None or value == "" or (creating and value == option.unsaid):
            continue
        six = bool(option.name6) and ":" in str(value)
        attrs.append((option.name6 if six else option.attribute, option.codec.encode(value)))
    return attrs


def iproute_options(options: t.Mapping[str, t.Any]) -> t.List[str]:
    """The options as `ip link` spells them."""
    words: t.List[str] = []
    for name, value in options.items():
        words += IPROUTE_WORDS.get(name, name).split()
        if isinstance(value, bool):
            words.append({"learning": "on" if value else "off"}.get(name, str(int(value))))
            if name == "learning":
                words[-2:] = ["learning" if value else "nolearning"]
        elif name in ("ageing_time", "forward_delay"):
            words.append(str(value * 100))
        else:
            words.append(str(value))
    return words
