# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The kernel of one host as the resources see it: sockets per namespace, cached dumps, capability probes.

Everything read is cached until ``forget`` is called, so that one namespace costs one dump per table and phase however
many resources lie in it. Use as a context manager: it closes every socket that it opened.

``directory`` is the topology's own on the host, where builds are cached; ``files`` are the sources that came with the run, by
their digest; ``kept`` holds what undo could need (objects with a close method) until the run is over.
"""

from __future__ import annotations

import collections
import errno
import os
import typing as t

from .._errors import KernelError
from . import messages, namespaces, rtnl, sysctl
from .netlink import Netlink

MAX_SOCKETS = 64  # far below the usual limit of 1,024 descriptors, however many namespaces a topology has


class Links:
    """The links of one namespace, found by name, index or altname."""

    def __init__(self, records: t.Iterable[rtnl.LinkRecord]) -> None:
        self.by_name: t.Dict[str, rtnl.LinkRecord] = {}
        self.by_index: t.Dict[int, rtnl.LinkRecord] = {}
        self.by_altname: t.Dict[str, rtnl.LinkRecord] = {}
        for record in records:
            self.by_name[record.name] = record
            self.by_index[record.ifindex] = record
            for altname in record.altnames:
                self.by_altname[altname] = record

    def name_of(self, index: int) -> str:
        record = self.by_index.get(index)
        return record.name if record else ""


class Host:
    """Reads and requests, each in a named namespace ('' is the one the process was started in)."""

    def __init__(self, directory: str = "", files: t.Optional[t.Mapping[str, t.Any]] = None) -> None:
        self.directory = directory
        self.files = dict(files or {})
        self.kept: t.Dict[t.Any, t.Any] = {}
        self.notes: t.List[str] = []  # what was found while the run was under way
        self._once_at_end: t.Dict[t.Tuple[str, ...], t.Callable[[], None]] = {}
        self._at_end: t.List[t.Callable[[], None]] = []
        self._sockets: t.OrderedDict[str, Netlink] = collections.OrderedDict()
        self._cache: t.Dict[t.Tuple[t.Any, ...], t.Any] = {}
        self._namespaces: t.Optional[t.FrozenSet[str]] = None
        self._indexes: t.Dict[t.Tuple[str, str], int] = {}
        self._removed: t.Dict[str, int] = {}  # descriptors of namespaces whose names were removed in this run
        self._declared: t.Dict[t.Tuple[str, str], str] = {}
        self._actual: t.Dict[t.Tuple[str, str], str] = {}
        self.set_aside: t.Dict[
            t.Tuple[str, str], str
        ] = {}  # (netns, name) to the name under which its link waits

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_exception: t.Any) -> None:
        self.close()

    def close(self) -> None:
        for netlink in self._sockets.values():
            netlink.close()
        self._sockets.clear()
        for kept in self._removed.values():
            os.close(kept)
        self._removed.clear()
        while self.kept:
            self.kept.popitem()[1].close()

    def at_end(self, tidy: t.Callable[[], None], once: t.Optional[t.Tuple[str, ...]] = None) -> None:
        """Do something once the run is confirmed, or undone: nothing can be taken back any more.

        ``once``: what it is about; of several with the same the first is done, and after all others.
        """
        if once is None:
            self._at_end.append(tidy)
        else:
            self._once_at_end.setdefault(once, tidy)

    def finish(self) -> None:
        while self._at_end:
            self._at_end.pop(0)()
        while self._once_at_end:
            self._once_at_end.popitem()[1]()

    def forget(self) -> None:
        """Drop what was read; the next read asks the kernel again."""
        self.forget_tables()
        self._declared.clear()
        self._actual.clear()

    def forget_tables(self) -> None:
        """The same, but keep which declared name stands for which link: undo runs before links have their names back."""
        self._cache.clear()
        self._indexes.clear()
        self._namespaces = None

    # --- reading -------------------------------------------------------------------------------------------------

    def namespaces(self) -> t.FrozenSet[str]:
        if self._namespaces is None:
            self._namespaces = frozenset(namespaces.names())
        return self._namespaces

    def has_namespace(self, netns: str) -> bool:
        return not netns or netns in self.namespaces()

    def cached(self, key: t.Tuple[t.Any, ...], read: t.Callable[[], t.Any]) -> t.Any:
        """The answer of ``read`` under a key, until ``forget``."""
        if key not in self._cache:
            self._cache[key] = read()
        return self._cache[key]

    def cache_drop(self, key: t.Tuple[t.Any, ...]) -> None:
        """Forget one answer, because what it was about is being changed."""
        self._cache.pop(key, None)

    def links(self, netns: str) -> Links:
        """The links of a namespace; none when the namespace does not exist."""
        if not self.has_namespace(netns):
            return Links(())
        return self.cached(("links", netns), lambda: Links(rtnl.links(self.socket(netns))))

    def declare_name(self, netns: str, actual: str, declared: str) -> None:
        """Tell that a link found by its mark was renamed by hand: what lies on it is looked up under its declared name."""
        self._declared[netns, actual] = declared
        self._actual[netns, declared] = actual

    def name_of(self, netns: str, index: int) -> str:
        """The declared name of a link by index, or the actual one where nobody declared it; '' when there is none."""
        actual = self.links(netns).name_of(index)
        return self._declared.get((netns, actual), actual)

    def is_renamed(self, netns: str, name: str) -> bool:
        """Whether the link that has the name now is declared under another."""
        return (netns, name) in self._declared

    def stacked_on(self, netns: str, record: rtnl.LinkRecord) -> t.Tuple[str, ...]:
        """The names of links on top of a link (vlan, macvlan) in the same namespace: they vanish with it."""

        def read() -> t.Dict[int, t.List[str]]:
            found: t.Dict[int, t.List[str]] = {}
            for other in self.links(netns).by_name.values():
                if other.link and other.link_netnsid is None and other.kind not in ("veth", "netkit"):
                    found.setdefault(other.link, []).append(other.name)
            return found

        return tuple(self.cached(("stacked", netns), read).get(record.ifindex, ()))

    def members_of(self, netns: str, record: rtnl.LinkRecord) -> t.List[rtnl.LinkRecord]:
        """The ports of a bridge or VRF."""
        return [other for other in self.links(netns).by_name.values() if other.master == record.ifindex]

    def gives_up_name(self, netns: str, name: str) -> bool:
        """Whether a link has the name now and is declared under another, which it gets in this run."""
        return (netns, name) in self._declared and self.has_link(netns, name)

    def has_link(self, netns: str, name: str) -> bool:
        """Whether the kernel has a link of this name, asked now."""
        request = rtnl.IFINFOMSG.pack(0, 0, 0, 0, 0) + rtnl.attribute(rtnl.IFLA_IFNAME, name.encode() + b"\0")
        return self.socket(netns).query(rtnl.RTM_GETLINK, request) is not None

    def find_link(self, netns: str, name: str) -> t.Optional[rtnl.LinkRecord]:
        """A link by its declared name, or by its actual one where no other was declared."""
        actual = self._actual.get((netns, name))
        if actual is None and (netns, name) in self._declared:
            return None  # the name is taken by a link that is declared under another
        return self.links(netns).by_name.get(actual or name)

    def addresses(self, netns: str) -> t.Dict[int, t.List[rtnl.AddressRecord]]:
        """The addresses of a namespace by the index of their link."""

        def read() -> t.Dict[int, t.List[rtnl.AddressRecord]]:
            found: t.Dict[int, t.List[rtnl.AddressRecord]] = {}
            for record in rtnl.addresses(self.socket(netns)):
                found.setdefault(record.ifindex, []).append(record)
            return found

        return self.cached(("addresses", netns), read) if self.has_namespace(netns) else {}

    def routes(
        self,
        netns: str,
        family: int,
        table: int,
        protocol: int = 0,
        prefixlens: t.Optional[t.FrozenSet[int]] = None,
        oif: int = 0,
    ) -> t.List[rtnl.RouteRecord]:
        if not self.has_namespace(netns):
            return []
        key = ("routes", netns, family, table, protocol, prefixlens, oif)
        return self.cached(
            key, lambda: rtnl.routes(self.socket(netns), family, table, protocol, prefixlens, oif)
        )

    def rules(self, netns: str, family: int) -> t.List[rtnl.RuleRecord]:
        if not self.has_namespace(netns):
            return []
        return self.cached(("rules", netns, family), lambda: rtnl.rules(self.socket(netns), family))

    def neighbors(self, netns: str) -> t.List[rtnl.NeighborRecord]:
        if not self.has_namespace(netns):
            return []
        return self.cached(("neighbors", netns), lambda: rtnl.neighbors(self.socket(netns)))

    def sysctls(self, netns: str, keys: t.Iterable[str]) -> t.Dict[str, t.Optional[str]]:
        """Values of the keys, read in one visit to the namespace."""
        if not self.has_namespace(netns):
            return dict.fromkeys(keys)
        with namespaces.entered(netns):
            return {key: sysctl.read(key) for key in keys}

    def sysctl_interfaces(self, netns: str, family: str) -> t.List[str]:
        with namespaces.entered(netns):
            return sysctl.interfaces(family)

    def namespace_of_id(self, netns: str, link_netnsid: int) -> t.Optional[str]:
        """The name of the namespace that ``netns`` knows under an id (IFLA_LINK_NETNSID); None: no named one."""

        def read() -> t.Dict[int, str]:
            known: t.Dict[int, str] = {}
            for name in ("", *sorted(self.namespaces())):
                try:
                    with namespaces.descriptor(name) as descriptor:
                        number = rtnl.nsid(self.socket(netns), descriptor)
                except KernelError:
                    continue  # removed in the meantime
                if number >= 0:
                    known.setdefault(number, name)
            return known

        return self.cached(("nsids", netns), read).get(link_netnsid)

    def link_with_altname(self, netns: str, altname: str) -> t.Optional[rtnl.LinkRecord]:
        return rtnl.link_by_altname(self.socket(netns), altname)

    def supports_link_kind(self, kind: str) -> bool:
        """Whether the kernel can make links of a kind, asked with a request that it must refuse for another reason."""
        return self.cached(("kind", kind), lambda: self._probe_link_kind(kind))

    def _probe_link_kind(self, kind: str) -> bool:
        # A mode outside its range is refused while attributes are parsed, before a netkit pair comes into being; other
        # kinds refuse the name '/'. Only a kind that the kernel does not know at all answers EOPNOTSUPP.
        # Packed by hand, because a run that changes nothing does not import pyroute2.
        info = rtnl.attribute(rtnl.IFLA_INFO_KIND, kind.encode())
        name = b"/\0"
        if kind == "netkit":
            info += rtnl.attribute(
                rtnl.IFLA_INFO_DATA, rtnl.attribute(rtnl.IFLA_NETKIT_MODE, rtnl.U32.pack(7))
            )
            name = b"cnf-probe\0"
        request = rtnl.IFINFOMSG.pack(0, 0, 0, 0, 0)
        request += rtnl.attribute(rtnl.IFLA_IFNAME, name) + rtnl.attribute(rtnl.IFLA_LINKINFO, info)
        try:
            self.socket("").request(rtnl.RTM_NEWLINK, messages.NLM_F_CREATE | messages.NLM_F_EXCL, request)
        except KernelError as problem:
            return problem.name != "EOPNOTSUPP"
        raise KernelError(0, "", f"the probe for link kind {kind} made a link")

    def supports_tcx(self) -> bool:
        """Whether the kernel has tcx (Linux 6.6), asked of the hook itself."""
        return self.cached(("tcx",), _knows_tcx)

    # --- changing ------------------------------------------------------------------------------------------------

    def socket(self, netns: str) -> Netlink:
        netlink = self._sockets.get(netns)
        if netlink is not None:
            self._sockets.move_to_end(netns)
            return netlink
        with namespaces.entered(netns):
            netlink = Netlink()
        self._sockets[netns] = netlink
        if len(self._sockets) > MAX_SOCKETS:
            self._sockets.popitem(last=False)[1].close()
        return netlink

    def request(self, netns: str, kind: int, flags: int, payload: bytes) -> None:
        self.socket(netns).request(kind, flags, payload)

    def index_of(self, netns: str, name: str) -> int:
        """The ifindex of a link by name, asked now; raises KernelError ENODEV when there is none."""
        known = self._indexes.get((netns, name))
        if known is None:
            known = self._indexes[netns, name] = self.link_now(netns, name).ifindex
        return known

    def link_now(self, netns: str, name: str) -> rtnl.LinkRecord:
        """A link as the kernel has it at this moment; KernelError ENODEV when there is none."""
        for candidate in dict.fromkeys((name, self._actual.get((netns, name), name))):
            request = rtnl.IFINFOMSG.pack(0, 0, 0, 0, 0)
            request += rtnl.attribute(rtnl.IFLA_IFNAME, candidate.encode() + b"\0")
            payload = self.socket(netns).query(rtnl.RTM_GETLINK, request)
            if payload is not None:
                return rtnl.decode_link(payload)
        raise KernelError(errno.ENODEV, "", f"link {name} in {netns or 'the host namespace'}")

    def links_changed(self, netns: str, *gone: str) -> None:
        """Tell that links of a namespace were made, moved or renamed; their remembered indexes are dropped."""
        for name in gone:
            self._indexes.pop((netns, name), None)

    def create_namespace(self, name: str) -> None:
        kept = self._removed.pop(name, None)
        if kept is None:
            namespaces.create(name)
        else:
            namespaces.restore(name, kept)
        self._namespaces = None

    def remove_namespace(self, name: str) -> None:
        stale = self._sockets.pop(name, None)
        if stale is not None:
            stale.close()
        self._removed[name] = namespaces.keep(name)  # undo mounts it again, with all that is in it
        self._indexes = {key: index for key, index in self._indexes.items() if key[0] != name}
        namespaces.remove(name)
        self._namespaces = None

    def write_sysctl(self, netns: str, key: str, value: str) -> None:
        with namespaces.entered(netns):
            sysctl.write(key, value)


def _knows_tcx() -> bool:
    """A kernel refuses to list a hook that it does not know; the loopback device is number 1 in every namespace."""
    from . import bpf  # a run without BPF does not need it

    try:
        bpf.prog_query(1, bpf.TCX_INGRESS)
    except KernelError as problem:
        if problem.name != "EINVAL":
            raise
        return False
    return True
