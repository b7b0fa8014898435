# Copyright (c) 2026, cnf.ebpf maintainers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the host remembers of a topology: generations, the journal of an unfinished run, and the lock.

    <state_dir>/lock                       held while any topology of the host is converged
    <state_dir>/<topology>/generations/N.json   one confirmed revision: document, owned keys, saved values
    <state_dir>/<topology>/journal.json    written before the first change, removed after the last

Directories are 0700 and files 0600, written to a temporary name, fsynced and renamed. The kernel outranks all of it:
losing the directory costs the history that pruning and giving back need, never safety.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
import typing as t

from ._engine.model import Claim, Key, describe
from ._errors import StoreError

DEFAULT_DIRECTORY = "/var/lib/cnf-ebpf"
KEEP_GENERATIONS = 10
LOCK_POLL_SECONDS = 0.05
FORMAT = 1

Revive = t.Callable[[str, t.Mapping[str, t.Any]], t.Any]


@dataclasses.dataclass(frozen=True)
class Generation:
    """One confirmed revision of a topology. ``document`` is the user's input, None for single tasks."""

    number: int
    digest: str
    document: t.Optional[t.Dict[str, t.Any]]
    claims: t.Dict[Key, Claim]
    confirmed: float  # seconds since the epoch


def digest_of(document: t.Any) -> str:
    """SHA-256 over the canonical JSON of a document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Store:
    """The files of one topology below the state directory.

    ``revive`` turns (kind, described value) back into a value; it is passed in because the store knows no kinds.
    """

    def __init__(self, topology: str, revive: Revive, directory: str = DEFAULT_DIRECTORY) -> None:
        self.topology = topology
        self.root = directory
        self.directory = os.path.join(directory, topology)
        self._generations = os.path.join(self.directory, "generations")
        self._journal = os.path.join(self.directory, "journal.json")
        self._revive = revive
        self._others: t.Optional[t.Dict[Key, t.Tuple[str, Claim]]] = None

    # --- lock ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, timeout: float, writing: bool) -> t.Iterator[None]:
        """Hold the host's lock; a run that only reads (check mode) shares it, and makes no file when there is none.

        Raises StoreError when another run still holds it after ``timeout`` seconds.
        """
        self._check_root()
        path = os.path.join(self.root, "lock")
        if not writing and not os.path.exists(path):
            yield
            return
        if writing:
            self._make_directory(self.root)
        with _reporting(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._wait(descriptor, fcntl.LOCK_EX if writing else fcntl.LOCK_SH, timeout, path)
            if writing:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
            if writing:
                os.ftruncate(descriptor, 0)  # a pid that stayed would name a process that is gone
        finally:
            os.close(descriptor)

    def _check_root(self) -> None:
        """Refuse a state directory in which somebody else could plant links or files for root to write through."""
        if not os.path.isabs(self.root):
            raise StoreError(f"{self.root}: state_dir must be an absolute path")
        try:
            found = os.lstat(self.root)
        except FileNotFoundError:
            return
        except OSError as problem:
            raise StoreError(
                f"{self.root}: {problem.strerror}; state_dir must be a directory below one"
            ) from problem
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{self.root}: state_dir must be a directory, not a file or a link")
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise StoreError(f"{self.root}: others could write here; chown it to root and chmod it to 0700")

    @staticmethod
    def _wait(descriptor: int, mode: int, timeout: float, path: str) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                return
            except OSError as problem:
                if problem.errno not in (errno.EAGAIN, errno.EACCES):
                    raise StoreError(f"{path}: {problem.strerror}") from problem
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                who = f"process {holder} has been converging" if holder else "another run has been reading"
                raise StoreError(
                    f"{path}: {who} this host for more than {timeout:g} s; "
                    f"wait for it or raise lock_timeout; nothing was changed"
                )
            time.sleep(LOCK_POLL_SECONDS)

    # --- reading ---------------------------------------------------------------------------------------------------

    def latest(self) -> t.Optional[Generation]:
        numbers = self.numbers()
        return self.generation(numbers[-1]) if numbers else None

    def numbers(self) -> t.List[int]:
        try:
            entries = os.listdir(self._generations)
        except OSError:
            return []
        return sorted(
            int(entry[:-5]) for entry in entries if entry.endswith(".json") and entry[:-5].isdigit()
        )

    def generation(self, number: int) -> Generation:
        path = self._path_of(number)
        data = _read(path)
        with _understanding(path):
            return Generation(
                data["number"],
                data["digest"],
                data["document"],
                self._claims(data["claims"]),
                data["confirmed"],
            )

    def unfinished(self) -> t.Dict[Key, Claim]:
        """The claims of a run that was killed: what it was about to make or change."""
        if not os.path.exists(self._journal):
            return {}
        data = _read(self._journal)
        with _understanding(self._journal):
            fresh = data["boot_id"] == boot_id()
            claims = self._claims(data["claims"])
        return {
            key: dataclasses.replace(claim, unfinished=claim.unfinished and fresh)
            for key, claim in claims.items()
        }

    def has_journal(self) -> bool:
        return os.path.exists(self._journal)

    def claims(self, latest: t.Optional[Generation]) -> t.Dict[Key, Claim]:
        """Everything that runs of this topology made or borrowed; the oldest saved value of a key counts."""
        claims = dict(latest.claims) if latest else {}
        for key, claim in self.unfinished().items():
            known = claims.get(key)
            claims[key] = dataclasses.replace(known, unfinished=claim.unfinished) if known else claim
        return claims

    def _claims(self, rows: t.Sequence[t.Mapping[str, t.Any]]) -> t.Dict[Key, Claim]:
        claims = {}
        for row in rows:
            key = Key(*row["key"])
            saved = row.get("saved")
            displaced_by = row.get("displaced_by")
            claims[key] = Claim(
                self._revive(key.kind, saved) if saved else None,
                bool(row.get("unfinished")),
                Key(*displaced_by) if displaced_by else None,
            )
        return claims

    # --- writing ---------------------------------------------------------------------------------------------------

    def begin(self, claims: t.Mapping[Key, Claim], operations: t.Sequence[str]) -> None:
        """Write down what is about to be made and what borrowed values were, before the first change."""
        data = {
            "format": FORMAT,
            "boot_id": boot_id(),
            "claims": _rows(claims),
            "operations": list(operations),
        }
        self._write(self._journal, data)

    def commit(
        self,
        document: t.Optional[t.Dict[str, t.Any]],
        digest: str,
        claims: t.Mapping[Key, Claim],
        number: int,
    ) -> None:
        """Confirm a revision and forget the journal."""
        rows = _rows({key: dataclasses.replace(claim, unfinished=False) for key, claim in claims.items()})
        self._write(
            self._path_of(number),
            {
                "format": FORMAT,
                "number": number,
                "digest": digest,
                "confirmed": time.time(),
                "document": document,
                "claims": rows,
            },
        )
        keep = KEEP_GENERATIONS if document is not None else 1
        for old in self.numbers()[:-keep]:
            os.unlink(self._path_of(old))
        self.end()

    def end(self) -> None:
        """Forget the journal: the host is in a confirmed state again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._journal)
        for directory in (self._generations, self.directory):
            with contextlib.suppress(OSError):
                os.rmdir(directory)  # only when nothing was ever confirmed

    def remove(self) -> None:
        """Forget the topology altogether."""
        for number in self.numbers():
            os.unlink(self._path_of(number))
        self.end()

    def disown(self, gone: t.Callable[[Key], bool]) -> None:
        """Drop claims of what has gone with something of another topology; without any left, forget this one altogether."""
        latest = self.latest()
        if latest is None or self.has_journal():  # a run that was killed is repaired first, by the next one
            return
        kept = {key: claim for key, claim in latest.claims.items() if not gone(key)}
        if len(kept) == len(latest.claims):
            return
        if kept or latest.document is not None:
            self.commit(latest.document, latest.digest, kept, latest.number + 1)
        else:
            self.remove()

    def topologies(self) -> t.List[str]:
        """The names of all topologies of the host that have a confirmed generation, sorted."""
        try:
            entries = sorted(os.listdir(self.root))
        except OSError:
            return []
        return [name for name in entries if Store(name, self._revive, self.root).numbers()]

    def claim_elsewhere(self, key: Key) -> t.Optional[t.Tuple[str, Claim]]:
        """Another topology of this host that claims the key, with its claim; None when there is none."""
        if self._others is None:
            self._others = {}
            for name in self.topologies():
                latest = Store(name, self._revive, self.root).latest() if name != self.topology else None
                for other, claim in latest.claims.items() if latest else ():
                    if not claim.displaced_by:
                        self._others.setdefault(other, (name, claim))
        return self._others.get(key)

    def _path_of(self, number: int) -> str:
        return os.path.join(self._generations, f"{number:06d}.json")

    def _make_directory(self, path: str) -> None:
        with _reporting(path):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def _write(self, path: str, data: t.Any) -> None:
        directory = os.path.dirname(path)
        for parent in (self.root, self.directory, directory):
            self._make_directory(parent)
        temporary = f"{path}.new"
        with _reporting(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # of a run that was killed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(data, separators=(",", ":")))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            parent_descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(parent_descriptor)
            finally:
                os.close(parent_descriptor)


def _rows(claims: t.Mapping[Key, Claim]) -> t.List[t.Dict[str, t.Any]]:
    rows = []
    for key, claim in claims.items():
        row: t.Dict[str, t.Any] = {"key": list(key)}
        if claim.saved is not None:
            row["saved"] = describe(claim.saved)
        if claim.unfinished:
            row["unfinished"] = True
        if claim.displaced_by is not None:
            row["displaced_by"] = list(claim.displaced_by)
        rows.append(row)
    return rows


def _read(path: str) -> t.Any:
    with _reporting(path):
        with open(path, encoding="utf-8") as file:
            try:
                return json.load(file)
            except ValueError as problem:
                raise StoreError(
                    f"{path}: damaged ({problem}); move it away, the kernel's marks still tell what is ours"
                ) from problem


@contextlib.contextmanager
def _understanding(path: str) -> t.Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as problem:
        raise StoreError(
            f"{path}: not written by this version ({problem!r}); move it away, the kernel's marks still tell what is ours"
        ) from problem


@contextlib.contextmanager
def _reporting(path: str) -> t.Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(
            f"{path}: {problem.strerror}; state_dir must be a directory that root can write"
        ) from problem
