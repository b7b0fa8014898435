# Copyright (c) 2026, cnf.ebpf maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what modules take and return to the parts of a picture. Pure.

A document has the sections of the topology module; the states in ``before`` and ``after`` of a run have a list for each kind
of resource. Both have nearly the same words, so one reader serves for both.
"""

from __future__ import annotations

import re
import typing as t

from .scene import Facts, Key, Part, Parts, overlay, with_programs, with_surroundings

Item = t.Mapping[str, t.Any]
Document = t.Mapping[str, t.Sequence[Item]]

TABLES = {"254": "main", "main": "main", "255": "local", "253": "default"}
WILD = {"0.0.0.0/0": "default", "::/0": "default"}
QUIET_METRICS = (None, 0, 1024)  # what routes have whose metric nobody chose
ATTACHMENTS = {"tcx_attach": "tcx", "netkit_attach": "netkit", "xdp_attach": ""}
MATCH = (
    "source",
    "destination",
    "protocol",
    "destination_port",
    "interface",
    "next_hop",
    "next_hops",
    "pool",
    "action",
)
SETTING = re.compile(r"net/(ipv4|ipv6)/conf/([^/]+)/(forwarding|rp_filter|proxy_arp|proxy_ndp|accept_ra)")
SWITCH = {"0": "off", "1": "on"}
RP_FILTER = {"0": "off", "1": "strict", "2": "loose"}
ACCEPT_RA = {"0": "never", "1": "host", "2": "always"}
OPTIONS = ("mode", "id", "port", "table", "protocol")  # of links, in their labels


def read(value: t.Any) -> t.Dict[Key, Part]:
    """Parts of a document, of a run's result, of an answer of topology_info, or of a list of these.

    A result is drawn as its plan: what it adds, removes and changes. Raises ValueError for anything else.
    """
    if isinstance(value, (list, tuple)):
        found: t.Dict[Key, Part] = {}
        for one in value:
            for key, part in _named(read(one), one).items():
                # Topologies share the host: what one changes is not hidden by another to which it is the same.
                if key not in found or found[key].status == "same":
                    found[key] = part
        return found
    if not isinstance(value, t.Mapping):
        raise ValueError(
            f"a topology is a mapping of sections, a result of the topology module, or a list of these, not {type(value).__name__}"
        )
    plan = value.get("drift") if "state" in value else value
    if isinstance(plan, t.Mapping) and "before" in plan and "after" in plan:
        return overlay(parts_of(plan["before"]), parts_of(plan["after"]))
    if "topologies" in value:
        return read(value["topologies"])
    document = value["state"] if isinstance(value.get("state"), t.Mapping) else value
    if not any(name in READERS for name in document):
        raise ValueError(
            "there is nothing to draw: a topology has sections such as netns, link and route, and this has only "
            f"{', '.join(map(str, document)) or 'nothing'}"
        )
    return {key: Part(facts) for key, facts in parts_of(document).items()}


def _named(parts: t.Mapping[Key, Part], value: t.Any) -> t.Dict[Key, Part]:
    """Tables with the name of their topology: routers of several may have the same name."""
    name = value.get("name") if isinstance(value, t.Mapping) else None
    return {
        (key[0], f"{key[1]}, topology {name}", *key[2:]) if name and key[0] == "row" else key: part
        for key, part in parts.items()
    }


def surrounded(
    own: t.Mapping[Key, Part],
    host: t.Optional[Document] = None,
    programs: t.Optional[t.Sequence[Item]] = None,
    policies: t.Optional[t.Sequence[Item]] = None,
) -> t.Dict[Key, Part]:
    """The parts within what else a host has: ``host`` of topology_info, ``devices`` of bpf_info, answers of bpf_policy_info."""
    found = dict(own)
    if host is not None:
        found = with_surroundings(found, parts_of(host))
    if programs is not None:
        found = with_programs(found, attached(programs))
    for answer in policies or ():
        found.update(counted_rows(answer))
    return found


def parts_of(document: Document) -> Parts:
    """Parts of a document or of the states of a run. Sections that no picture shows are passed over."""
    found: Parts = {}
    for section, reader in READERS.items():
        for item in document.get(section) or ():
            for one in (item, *_entries(item)):
                reader(found, section, one)
    return found


def _entries(item: Item) -> t.Iterator[Item]:
    """The items of a list in an item, each with what the item says for all of them."""
    rest = {name: field for name, field in item.items() if name != "entries"}
    for entry in item.get("entries") or ():
        yield {**rest, **entry}


def attached(devices: t.Sequence[Item]) -> t.List[Key]:
    """Keys of the programs of `devices` of bpf_info, in the order in which they run."""
    return [
        (
            "chip",
            device.get("netns") or "",
            device["link"],
            hook["hook"],
            program.get("object") or "",
            program.get("program") or program.get("name") or program.get("type") or "?",
        )
        for device in devices
        for hook in device["hooks"]
        for program in hook["programs"]
    ]


# --- one reader for each section or kind ----------------------------------------------------------------------------------


def _text(value: t.Any) -> t.Optional[str]:
    return None if value in (None, "") else str(value)


def _space(item: Item) -> str:
    return item.get("netns") or ""


def _netns(found: Parts, _section: str, item: Item) -> None:
    found[("box", item["name"])] = {}


def _state(end: Item) -> t.Optional[str]:
    return {True: "up", False: "down"}.get(end.get("up"))  # type: ignore[arg-type]


def _link(found: Parts, section: str, item: Item) -> None:
    kind = "netkit" if section == "netkit_link" else item.get("kind")
    options = {**(item.get("options") or {}), **item}
    about = [kind, *(str(options[name]) for name in OPTIONS if options.get(name) not in (None, "", 0))]
    label = " ".join(filter(None, about))
    peer = item.get("peer")
    for end in (item, peer) if isinstance(peer, t.Mapping) else (item,):
        port = found.setdefault(("port", _space(end), end["name"]), {})
        port.update(
            kind=label if kind != "existing" else port.get("kind"),
            mtu=_text(end.get("mtu")),
            state=_state(end),
            parent=_text(end.get("parent")),
        )
        if end.get("master") is not None:
            port["master"] = _text(end["master"])
        for address in end.get("addresses") or ():
            found[("address", _space(end), end["name"], _address_text(address))] = {}
    if isinstance(peer, t.Mapping):
        one, other = sorted(((_space(item), item["name"]), (_space(peer), peer["name"])))
        key: Key = ("cable", *one, *other)
        found[key] = {"label": label}


def _address_text(address: t.Any) -> str:
    return str(address["address"]) if isinstance(address, t.Mapping) else str(address)


def _port(found: Parts, _section: str, item: Item) -> None:
    found.setdefault(("port", _space(item), item["link"]), {})["master"] = _text(item.get("master"))


def _address(found: Parts, _section: str, item: Item) -> None:
    if item.get("address"):
        length = f"/{item['prefixlen']}" if item.get("prefixlen") is not None else ""
        found[("address", _space(item), item["dev"], f"{item['address']}{length}")] = {}


def _table(item: Item) -> str:
    name = str(item.get("table") or "main")
    return TABLES.get(name, name)


def _route(found: Parts, _section: str, item: Item) -> None:
    if not item.get("destination"):
        return
    destination = WILD.get(str(item["destination"]), str(item["destination"]))
    family = "inet6" if ":" in f"{item['destination']}{item.get('via') or ''}" else "inet"
    table, metric = _table(item), item.get("metric")
    words = [destination]
    if item.get("type") not in (None, "unicast"):
        words.insert(0, item["type"])
    for name, word in (("via", "via"), ("dev", "dev"), ("source", "src")):
        if item.get(name):
            words.append(f"{word} {item[name]}")
    if table != "main":
        words.append(f"table {table}")
    if metric not in QUIET_METRICS:
        words.append(f"metric {metric}")
    quiet = "" if metric in QUIET_METRICS else str(metric)
    found[("line", _space(item), "route", destination, family, table, quiet)] = {"text": " ".join(words)}


def _rule(found: Parts, _section: str, item: Item) -> None:
    if item.get("priority") is None:
        return
    words = [f"rule {item['priority']}:"] + (["not"] if item.get("invert") else [])
    words.append(f"from {item.get('source') or 'all'}")
    for name, word in (
        ("destination", "to"),
        ("iif", "iif"),
        ("oif", "oif"),
        ("fwmark", "fwmark"),
        ("protocol", ""),
        ("destination_port", "dport"),
    ):
        if item.get(name):
            words.append(f"{word} {item[name]}".strip())
    action = item.get("action") or "lookup"
    words.append(f"lookup {_table(item)}" if action == "lookup" else action)
    text = " ".join(words)
    family = item.get("family") or ("inet6" if ":" in text.partition(":")[2] else "inet")
    found[("line", _space(item), "rule", family, text)] = {"text": text}


def _neighbor(found: Parts, _section: str, item: Item) -> None:
    if item.get("address"):
        text = " ".join(
            filter(
                None,
                (
                    f"{item['address']} dev {item['dev']}",
                    f"lladdr {item['mac']}" if item.get("mac") else "",
                    "managed" if item.get("managed") else "",
                ),
            )
        )
        found[("line", _space(item), "neighbor", item["dev"], item["address"])] = {"text": f"neighbor {text}"}


def _forwarding(found: Parts, _section: str, item: Item) -> None:
    device = item.get("interface") or ""
    place = f" on {device}" if device else ""
    for name in ("ipv4", "ipv6", "rp_filter", "proxy_arp", "proxy_ndp", "accept_ra"):
        setting = item.get(name)
        if setting is None:
            continue
        what = f"forwarding {name}" if name in ("ipv4", "ipv6") else name
        word = {True: "on", False: "off"}.get(setting, str(setting))
        found[("line", _space(item), "sysctl", what, device)] = {"text": f"{what}{place}: {word}"}


def _sysctl(found: Parts, _section: str, item: Item) -> None:
    """A setting as states name it: in the words of sysctl_forwarding where that has some, so that both are the same part."""
    place = SETTING.fullmatch(item["name"])
    if place and item.get("value") is not None:
        family, device, name = place.groups()
        word = {"rp_filter": RP_FILTER, "accept_ra": ACCEPT_RA}.get(name, SWITCH).get(
            item["value"], item["value"]
        )
        named = {family if name == "forwarding" else name: word}
        _forwarding(found, _section, {**item, "interface": "" if device == "all" else device, **named})
    elif item.get("value") is not None:
        name = item["name"].replace("/", ".")
        found[("line", _space(item), "sysctl", name)] = {"text": f"{name} = {item['value']}"}


def _attachment(found: Parts, section: str, item: Item) -> None:
    if not item.get("link"):
        return
    hook = f"{ATTACHMENTS[section]} {item.get('hook') or ''}".strip() or "xdp"
    facts: Facts = {"order": _text(item.get("order"))}
    found[("chip", _space(item), item["link"], hook, item.get("object") or "", item.get("program") or "")] = (
        facts
    )


def _router_title(item: Item) -> str:
    place = f" in {item['netns']}" if item.get("netns") else ""
    return f"policy of {item.get('object') or 'router'}{place}"


def match_text(entry: Item) -> str:
    """The packets that an entry is about: ``from 192.0.2.1/32 tcp 443``."""
    words = [
        f"{word} {entry[name]}".strip()
        for name, word in (
            ("source", "from"),
            ("destination", "to"),
            ("protocol", ""),
            ("destination_port", "port"),
        )
        if entry.get(name) not in (None, "")
    ]
    return " ".join(words) or "everything else"


def _hop_text(hop: t.Union[str, Item]) -> str:
    """A next hop as a mapping, or as states have it: ``ADDRESS%DEVICE``, ``%DEVICE``."""
    if isinstance(hop, str):
        address, _percent, device = hop.partition("%")
        hop = {"address": address, "interface": device}
    return action_text(hop)


def action_text(entry: Item) -> str:
    """What happens to them: ``via 198.51.100.1 dev eth1``, ``pool isps``, ``drop``."""
    hops = entry.get("next_hops") or []
    if hops:
        return ", then ".join(map(_hop_text, hops))
    words = []
    for name, word in (("next_hop", "via"), ("address", "via"), ("interface", "dev"), ("pool", "pool")):
        if entry.get(name):
            words.append(f"{word} {entry[name]}")
    return " ".join(words) or str(entry.get("action") or "")


def _policy(found: Parts, _section: str, item: Item) -> None:
    if "entries" in item or not any(item.get(name) for name in MATCH):
        return  # the head of a list, whose entries come by themselves
    key = ("row", _router_title(item), "packets", match_text(item))
    found[key] = {"match": match_text(item), "action": action_text(item)}


def _pool(found: Parts, _section: str, item: Item) -> None:
    if not item.get("name"):
        return
    members = item.get("members") or []
    if isinstance(members, t.Mapping):
        told = [f"{hop} weight {weight}" for hop, weight in members.items()]
    else:
        told = [f"{action_text(member)} weight {member.get('weight', 1)}" for member in members]
    key = ("row", _router_title(item).replace("policy", "pools", 1), "pool", str(item["name"]))
    found[key] = {"match": str(item["name"]), "action": ", ".join(told)}


def counted_rows(answer: Item) -> t.Dict[Key, Part]:
    """The rows of a router's policy with their counters, from an answer of bpf_policy_info."""
    found: t.Dict[Key, Part] = {}
    for entry in answer.get("entries") or ():
        match = match_text(entry)
        found[("row", _router_title(answer), "packets", match)] = Part(
            {
                "match": match,
                "action": action_text(entry),
                "packets": str(entry.get("packets", "")),
                "bytes": str(entry.get("bytes", "")),
                "last_hit": str(entry.get("last_hit") or ""),
            }
        )
    return found


Reader = t.Callable[[Parts, str, Item], None]

READERS: t.Mapping[str, Reader] = {
    "netns": _netns,
    "netkit_link": _link,
    "link": _link,
    "existing_link": _link,
    "port": _port,
    "address": _address,
    "neighbor": _neighbor,
    "route": _route,
    "rule": _rule,
    "sysctl_forwarding": _forwarding,
    "sysctl": _sysctl,
    "tcx_attach": _attachment,
    "netkit_attach": _attachment,
    "xdp_attach": _attachment,
    "bpf_policy_entry": _policy,
    "bpf_pool": _pool,
}
