# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for what the engine touches: the store in memory, and a kernel that holds values instead of devices.

The kernel decides by itself what a request implies (what goes with a link, what writing ``all`` spreads to), so that a plan
that predicts something else fails its verification.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json

from ansible_collections.cnf.ebpf.plugins.module_utils._engine.converge import Request, converge
from ansible_collections.cnf.ebpf.plugins.module_utils._engine.model import (
    CHANGE,
    CREATE,
    DELETE,
    Claim,
    Key,
    describe,
)
from ansible_collections.cnf.ebpf.plugins.module_utils._errors import KernelError
from ansible_collections.cnf.ebpf.plugins.module_utils._resources import KINDS, SECTIONS, gather, revive
from ansible_collections.cnf.ebpf.plugins.module_utils._store import Generation, digest_of

FORWARDING = ("net/ipv4/conf/{}/forwarding", "net/ipv6/conf/{}/forwarding")
SYSCTLS = (*FORWARDING, "net/ipv4/conf/{}/rp_filter")
NEW_LINK_OPTIONS = {
    "bridge": {"stp": False, "vlan_filtering": False, "ageing_time": 300, "forward_delay": 15},
    "netkit": {"mode": "l3", "policy": "forward", "peer_policy": "forward"},
}


def with_defaults(spec, item):
    """An item as Ansible hands it over: every option there, with its default or None."""
    filled = {}
    for name, option in spec.items():
        value = item.get(name, option.get("default"))
        if value is not None and "options" in option:
            value = with_defaults(option["options"], value)
        filled[name] = value
    return {**filled, "adopt": bool(item.get("adopt"))}


def parsed(document, owner="t"):
    """The desired values of a document, without Ansible's validator."""
    found = []
    for section, items in document.items():
        for number, item in enumerate(items):
            spec = SECTIONS[section].ARGUMENT_SPEC
            found += SECTIONS[section].parse(with_defaults(spec, item), f"{section}[{number}]", owner)
    return gather(found)


def request(document, owner="t", **options):
    return Request(
        owner,
        tuple(parsed(document, owner)),
        prune=True,
        document=document,
        digest=digest_of(document),
        **options,
    )


def reread(value):
    """A value as it comes back from a file."""
    return value and revive(value.key().kind, json.loads(json.dumps(describe(value))))


class MemoryStore:
    """One topology's memory, as ``_store.Store`` keeps it in files."""

    def __init__(self, claims=(), others=()):
        self.generation = Generation(1, "", {}, dict(claims), 0.0) if claims else None
        self.others = dict(others)
        self.journal = None

    @contextlib.contextmanager
    def locked(self, _timeout, writing):
        yield

    def latest(self):
        return self.generation

    def claims(self, latest):
        return dict(latest.claims) if latest else {}

    def claim_elsewhere(self, key):
        name = self.others.get(key)
        return (name, Claim()) if name else None

    def has_journal(self):
        return self.journal is not None

    def begin(self, claims, operations):
        self.journal = (claims, operations)

    def commit(self, document, digest, claims, number):
        kept = {
            key: dataclasses.replace(claim, unfinished=False, saved=reread(claim.saved))
            for key, claim in claims.items()
        }
        self.generation, self.journal = Generation(number, digest, document, kept, 0.0), None

    def end(self):
        self.journal = None

    def remove(self):
        self.generation = self.journal = None


class Kind:
    """A kind whose input and output go to a fake; everything that decides is the real module's."""

    def __init__(self, module, fake):
        self._module, self._fake = module, fake

    def __getattr__(self, name):
        return getattr(self._module, name)

    def observe(self, _host, wanted, topology, claimed):
        return self._fake.observe(self._module, wanted, topology, claimed)

    def apply(self, _host, operation):
        self._fake.apply(operation)

    def lacking(self, _host, value):
        return self._fake.lacking(value)

    def settled(self, _host, value, _observed):
        return value  # what only a host could fill in is in the document

    def exists(self, _host, _key):
        return False


def kinds_of(fake):
    return {name: Kind(module, fake) for name, module in KINDS.items()}


def fill_defaults(value):
    """A created value as a kernel would report it: every field set."""
    fields = {}
    kind = value.key().kind
    if kind == "link":
        end = {
            "up": bool(value.up),
            "mtu": value.mtu or 1500,
            "mac": value.mac or made_up_mac(value.kind, value.netns, value.name),
        }
        fields = {**end, "options": {**NEW_LINK_OPTIONS.get(value.kind, {}), **(value.options or {})} or None}
        if value.peer:
            far = value.peer
            mac = far.mac or made_up_mac(value.kind, far.netns, far.name)
            fields["peer"] = dataclasses.replace(far, up=bool(far.up), mtu=far.mtu or 1500, mac=mac)
    elif kind == "netns":
        fields = {"lo_up": bool(value.lo_up), "strangers": None}
    elif kind == "address":
        fields = {"peer": value.peer or "", "scope": value.scope or "global"}
        fields.update(nodad=bool(value.nodad), noprefixroute=bool(value.noprefixroute))
    elif kind == "neighbor":
        fields = {"mac": value.mac or "", "managed": bool(value.managed)}
    elif kind == "route":
        near = not value.via and value.type == "unicast" and ":" not in value.destination
        fields = {"scope": value.scope or ("link" if near else "global"), "source": value.source or ""}
        fields.update(onlink=bool(value.onlink), via=value.via or "")
    return dataclasses.replace(value, **fields)


def made_up_mac(kind, netns, name):
    if kind == "netkit":
        return "00:00:00:00:00:00"
    return "02:" + hashlib.sha256(f"{netns}/{name}".encode()).digest()[:5].hex(":")


def link_names(value):
    return [key for key in value.provides() if key.kind == "link"]


class FakeKernel:
    """A host as a mapping of keys to values. ``fail_at`` makes that request fail (0 is the first)."""

    def __init__(self, values=()):
        self.notes = []
        self.state = {}
        self.requests = 0
        self.fail_at = None
        self.topology = None
        self.removed = {}  # what was in namespaces whose names were removed: it is there again with the name
        self._new_sysctls("", "all", "default", "lo")
        for value in values:
            self._add(value)

    # --- what the engine asks of a host

    def addresses(self, _netns):
        return {}  # no records: values say all

    def has_namespace(self, name):
        return not name or Key("netns", "", name) in self.state

    def find_link(self, netns, name):
        return Key("link", netns, name) if Key("link", netns, name) in self._present() else None

    def forget(self):
        pass

    forget_tables = finish = forget

    def lacking(self, _value):
        return None

    def observe(self, module, wanted, topology, claimed):
        self.topology = topology
        return getattr(self, "_observe_" + module.NAME, self._observe_named)(module, wanted, claimed)

    # --- reading

    def _observe_named(self, module, wanted, _claimed):
        return {key: self.state[key] for key in wanted if key.kind == module.NAME and key in self.state}

    def _observe_netns(self, module, wanted, claimed):
        found = self._observe_named(module, wanted, claimed)
        return {
            key: dataclasses.replace(value, strangers=self._strangers(key.id)) for key, value in found.items()
        }

    def _strangers(self, netns):
        links = [
            value for key, value in self.state.items() if key.kind == "link" and value.owner != self.topology
        ]
        return tuple(sorted(name.id for value in links for name in link_names(value) if name.netns == netns))

    def _observe_port(self, module, wanted, _claimed):
        present = self._present()
        return {
            key: self.state.get(key) or module.Value(key.id, key.netns, "")
            for key in wanted
            if key.kind == "port" and Key("link", key.netns, key.id) in present
        }

    def _observe_sysctl(self, module, wanted, claimed):
        found = {}
        for key in wanted:
            if key.kind != "sysctl" or key not in self.state:
                continue
            value = self.state[key]
            same = wanted[key] is not None and wanted[key].value == value.value and key not in claimed
            exceptions = None
            if key.id in module.SPREADING and not same:
                family = module.SPREADING[key.id]
                exceptions = {
                    module.interface_of(other.id): theirs.value
                    for other, theirs in self.state.items()
                    if self._is_forwarding(other, key.netns, family)
                    and other != key
                    and theirs.value != value.value
                }
            found[key] = dataclasses.replace(value, exceptions=exceptions)
        return found

    def _observe_address(self, _module, wanted, _claimed):
        devices = {(key.netns, key.id.split()[0]) for key in wanted if key.kind in ("address", "link")}
        devices |= {
            (v.peer.netns, v.peer.name)
            for v in wanted.values()
            if getattr(v, "peer", None) and v.key().kind == "link"
        }
        return {k: v for k, v in self.state.items() if k.kind == "address" and (v.netns, v.dev) in devices}

    def _observe_neighbor(self, _module, wanted, _claimed):
        spaces = {key.netns for key in wanted if key.kind == "neighbor"}
        return {
            k: v
            for k, v in self.state.items()
            if k.kind == "neighbor" and k.netns in spaces and (v.owner or k in wanted)
        }

    def _observe_route(self, _module, wanted, _claimed):
        leaving = {
            (key.netns, key.id) for key, value in wanted.items() if key.kind == "link" and value is None
        }
        return {
            k: v
            for k, v in self.state.items()
            if k.kind == "route" and (k in wanted or (v.netns, v.dev) in leaving)
        }

    # --- changing

    def apply(self, operation):
        if operation.after is None and KINDS[operation.key.kind].BORROWED:
            return
        number, self.requests = self.requests, self.requests + 1
        if number == self.fail_at:
            raise KernelError(errno.ENOBUFS, "", f"injected at {operation}")
        if operation.after is None:
            self._delete(operation.key)
        elif operation.verb == CREATE:
            self._create(operation)
        else:
            self._change(operation)

    def _create(self, operation):
        key, value = operation.key, operation.after
        if KINDS[key.kind].BORROWED:
            self._need(value)
            self._set_borrowed(value)
            return
        if key in self.state or (set(value.provides()) & self._present()):
            raise KernelError(errno.EEXIST, "", str(key))
        self._need(value)
        self._add(value)

    def _change(self, operation):
        before, after = operation.before, operation.after
        self._need(after)
        if KINDS[operation.key.kind].BORROWED:
            self._set_borrowed(after)
            return
        if operation.key not in self.state:
            raise KernelError(errno.ENOENT, "", str(operation.key))
        if operation.key.kind == "address":
            self._delete(operation.key)
        if operation.key.kind == "link":
            gone = set(link_names(before)) - set(link_names(after))
            taken = set(link_names(after)) & (self._present() - set(link_names(before)))
            if taken:
                raise KernelError(errno.EEXIST, "", str(sorted(taken)))
            if [name for name in gone if not any(name.netns == other.netns for other in link_names(after))]:
                self._drop_dependants(gone)
            elif gone:
                self._rename(link_names(before), link_names(after))
        self.state[operation.key] = fill_defaults(after)
        for name in link_names(after) if operation.key.kind == "link" else ():
            self._new_sysctls(name.netns, name.id)

    def _rename(self, before, after):
        """Addresses and the like stay with a link that is renamed, or go with one that moves."""
        for had, has in zip(before, after):
            if had == has:
                continue
            if had.netns != has.netns:
                self._drop_dependants({had})
                continue
            for key, value in list(self.state.items()):
                if had in value.needs() and key.kind in ("address", "neighbor", "route", "port", "sysctl"):
                    del self.state[key]
                    field = {"port": "link", "sysctl": "name"}.get(key.kind, "dev")
                    text = key.id.replace(f"/{had.id}/", f"/{has.id}/") if key.kind == "sysctl" else has.id
                    if key.kind == "port" and value.link != had.id:
                        field = "master"
                    moved = dataclasses.replace(value, **{field: text})
                    self.state[moved.key()] = moved

    def _add(self, value):
        self.state[value.key()] = fill_defaults(value)
        if value.key().kind == "netns":
            self.state.update(self.removed.pop(value.name, {}))
            self._new_sysctls(value.name, "all", "default", "lo")
        elif value.key().kind == "link":
            for name in link_names(value):
                self._new_sysctls(name.netns, name.id)

    def _set_borrowed(self, value):
        key = value.key()
        if key.kind == "port":
            self.state.pop(key, None)
            if value.master:
                self.state[key] = value
            return
        family = KINDS["sysctl"].SPREADING.get(key.id)
        changed = self.state[key].value != value.value
        self.state[key] = dataclasses.replace(value, exceptions=None)
        for other in [
            other for other in self.state if family and self._is_forwarding(other, key.netns, family)
        ]:
            interface = KINDS["sysctl"].interface_of(other.id)
            if changed and other != key:
                self.state[other] = dataclasses.replace(self.state[other], value=value.value)
            if interface in (value.exceptions or {}):
                self.state[other] = dataclasses.replace(self.state[other], value=value.exceptions[interface])

    def _delete(self, key):
        value = self.state.get(key)
        if value is None:
            return
        del self.state[key]
        if key.kind in ("netns", "link"):
            had = dict(self.state)
            self._drop_dependants(set(value.provides()))
            if key.kind == "netns":
                self.removed[value.name] = {k: v for k, v in had.items() if k not in self.state}
        elif key.kind == "address" and ":" not in value.address:
            left = any(
                k.kind == "address" and (v.netns, v.dev) == (value.netns, value.dev) and ":" not in v.address
                for k, v in self.state.items()
            )
            for other, theirs in list(self.state.items()):
                if (
                    other.kind in ("route", "neighbor")
                    and theirs.netns == value.netns
                    and ":" not in other.id
                ):
                    if (not left and theirs.dev == value.dev) or getattr(
                        theirs, "source", ""
                    ) == value.address:
                        del self.state[other]

    def _drop_dependants(self, gone):
        """What stands on names that are gone goes, and what stands on that."""
        for key, value in list(self.state.items()):
            lost = set(value.needs()) & gone or (key.kind == "sysctl" and Key("netns", "", key.netns) in gone)
            if lost and key in self.state:
                del self.state[key]
                self._drop_dependants(set(value.provides()))

    def _new_sysctls(self, netns, *interfaces):
        for interface in interfaces:
            for pattern in SYSCTLS:
                key = Key("sysctl", netns, pattern.format(interface))
                default = self.state.get(Key("sysctl", netns, pattern.format("default")))
                if key not in self.state:
                    self.state[key] = KINDS["sysctl"].Value(key.id, netns, default.value if default else "0")

    @staticmethod
    def _is_forwarding(key, netns, family):
        return (
            key.kind == "sysctl"
            and key.netns == netns
            and key.id.startswith(f"net/{family}/")
            and key.id.endswith("/forwarding")
        )

    def _present(self):
        return {name for value in self.state.values() for name in value.provides()} | {Key("link", "", "lo")}

    def _need(self, value):
        missing = set(value.needs()) - self._present()
        if missing:
            raise KernelError(errno.ENODEV, "", f"{value.key()} needs {sorted(missing)}")


def run(kernel, store, what, **options):
    """One run of the real pipeline on the fakes."""
    return converge(kinds_of(kernel), kernel, store, what, **options)


__all__ = [
    "CHANGE",
    "CREATE",
    "DELETE",
    "FakeKernel",
    "Kind",
    "MemoryStore",
    "fill_defaults",
    "parsed",
    "request",
    "run",
]
