# SPDX-License-Identifier: GPL-3.0-or-later
"""Build test machines from Debian packages and run them under QEMU.

``build`` makes one disk image per kernel, boots it once, warms it up and saves
its memory. ``start`` gives a pristine machine from that saved state in about
two seconds. Everything runs under plain software emulation (TCG): no KVM, no
bridge, no privileges except for the build, which needs root or user namespaces.

Layout::

    <cache>/<kernel>/                   one image, replaced as a whole
        key                             what it was built from
        VERSIONS                        kernel and package versions inside
        vmlinux initrd.cpio base.qcow2 id_ed25519
        state-<qemu>-<accelerator>-<hash>/  saved memory and the disk overlay of that moment
    <run>/<name>/                       one running machine; gone when it stops
        machine.json disk.qcow2 console.log qemu.log qemu.pid
    <run>/lan-<name>/                   the sockets of one Ethernet LAN

Environment:
    CNF_VM_CACHE   images (default: <repository>/.cache/vm)
    CNF_VM_RUN     running machines (default: <cache>/run)
    CNF_VM_MIRROR  Debian mirror (default: the one apt uses)
    CNF_VM_QEMU    emulator (default: qemu-system-x86_64)
    CNF_VM_ACCEL   "tcg" (default) or "kvm", where KVM boots stock kernels
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import inspect
import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import typing as t
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

DEFAULT_KERNEL = "6.12"
MEMORY_MB = 1024
CPUS = 2
DISK_SIZE = "6G"
LAN_SLOTS = 8
LAN_PREFIX = "10.9.0"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Seconds. An emulated machine beside busy neighbours may take many times its usual time.
RESTORE_LIMIT = 60.0
BOOT_LIMIT = 240.0
MIGRATE_LIMIT = 180.0

# What is in every image.
PACKAGES = (
    "bpftool",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "libbpf1",
    "linux-libc-dev",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-pyroute2",
    "python3-pytest",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tcpdump",
    "udev",
    "wireguard-tools",
)

# Command the programs below need, and the Debian package that brings it.
REQUIREMENTS = {
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "xz": "xz-utils",
    "zstd": "zstd",
}

SSH_OPTIONS = (
    "-F none -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    " -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=30"
)

# mitigations, self tests and certificate lists are pure cost in a throw-away
# machine; the clock options skip a calibration that emulation makes unreliable.
KERNEL_COMMAND_LINE = (
    "console=ttyS0 net.ifnames=0 quiet mitigations=off cryptomgr.notests tsc=reliable"
    " no_timer_check lpj=5000000 initcall_blacklist=load_system_certificate_list,jent_mod_init"
)


class MachineError(Exception):
    """A failure that one line explains to the user."""


# Each compiler for BPF costs 250 MB, so an image has one of them, and the images together have both.
CLANG = ("clang", "libbpf-dev", "libc6-dev")
BCC = ("python3-bpfcc",)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Where a kernel and the user space around it come from."""

    suite: str
    kernel_suite: str
    compiler: tuple[str, ...]

    @property
    def packages(self) -> tuple[str, ...]:
        """All packages to install."""
        return (*PACKAGES, *self.compiler)


KERNELS = {
    "6.12": Kernel(suite="trixie", kernel_suite="trixie", compiler=CLANG),  # netkit and tcx
    "6.1": Kernel(suite="bookworm", kernel_suite="bookworm", compiler=BCC),  # neither
    "newest": Kernel(suite="trixie", kernel_suite="trixie-backports", compiler=CLANG),
    "6.12-bcc": Kernel(suite="trixie", kernel_suite="trixie", compiler=BCC),
}


@dataclasses.dataclass
class Record:
    """What is known about one machine; kept as machine.json in its directory."""

    name: str
    kernel: str
    port: int
    mac: str
    address: str
    lan: str | None = None
    slot: int = 0
    pid: int | None = None
    restored: bool = False


# --- paths, locks, processes -------------------------------------------------


def cache_directory() -> Path:
    """Return the directory of the images."""
    return Path(os.environ.get("CNF_VM_CACHE") or REPOSITORY / ".cache" / "vm").absolute()


def run_directory() -> Path:
    """Return the directory of the running machines."""
    return Path(os.environ.get("CNF_VM_RUN") or cache_directory() / "run").absolute()


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> t.Iterator[None]:
    """Hold a lock on ``path`` (created when missing, never removed)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError as error:
        raise MachineError(
            f"cannot write {error.filename}: it belongs to another user; set CNF_VM_CACHE to a directory of your own"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def tool_path() -> str:
    """Return PATH with the system directories that Debian hides from users."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def run(argv: t.Sequence[str | Path], **options: t.Any) -> subprocess.CompletedProcess[str]:
    """Run a command and return its result; raise MachineError with its last line of stderr."""
    command = [str(word) for word in argv]
    result = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise MachineError(f"{command[0]}: {reason}")
    return result


def qemu_binary() -> str:
    """Return the emulator to run."""
    return os.environ.get("CNF_VM_QEMU") or "qemu-system-x86_64"


def accelerator() -> str:
    """Return "tcg" or "kvm"; the device node alone says nothing about what KVM can boot."""
    wanted = os.environ.get("CNF_VM_ACCEL") or "tcg"
    if wanted not in ("tcg", "kvm"):
        raise MachineError(f"CNF_VM_ACCEL is {wanted!r}; it can be tcg or kvm")
    return wanted


def qemu_version() -> tuple[int, int]:
    """Return the emulator's major and minor version."""
    try:
        output = run([qemu_binary(), "--version"]).stdout
    except FileNotFoundError:
        raise MachineError(f"{qemu_binary()} is missing; {install_hint()}") from None
    match = re.search(r"version (\d+)\.(\d+)", output)
    if match is None:
        raise MachineError(f"cannot read the version of {qemu_binary()}")
    return int(match[1]), int(match[2])


def missing_packages() -> list[str]:
    """Return the Debian packages to install before a build, sorted."""
    missing = {
        package
        for command, package in REQUIREMENTS.items()
        if shutil.which(command, path=tool_path()) is None
    }
    if not KEYRING.exists():
        missing.add("debian-archive-keyring")
    if os.geteuid() and shutil.which("newuidmap", path=tool_path()) is None:
        missing.add("uidmap")
    return sorted(missing)


def install_hint() -> str:
    """Return the command that installs what is missing."""
    return f"run: sudo apt-get install --no-install-recommends {' '.join(missing_packages())}"


# --- building an image -------------------------------------------------------


class Builder:
    """One build of one image in a directory that nobody else sees yet."""

    def __init__(self, kernel: str, work: Path, log: Path) -> None:
        """Remember where to build, and where to log."""
        self.kernel = KERNELS[kernel]
        self.work = work
        self.out = work / "image"
        self.log = log
        self.root = work / "root"
        self.started = time.monotonic()

    def build(self) -> Path:
        """Run every step; return the directory with the finished image."""
        self.out.mkdir()
        mirror = debian_mirror()
        version, tree = self.fetch_kernel(mirror)
        self.bootstrap(mirror)
        self.configure(tree / "modules" / version)
        self.write_vmlinux(tree, version)
        self.make_initrd(version)
        self.make_disk()
        self.write_versions(version)
        return self.out

    def say(self, text: str) -> None:
        """Report progress with the seconds since the start."""
        print(f"[{time.monotonic() - self.started:5.1f} s] {text}", flush=True)

    def step(self, what: str, argv: t.Sequence[str | Path], **options: t.Any) -> None:
        """Run one external command into the log; say which step failed when it does."""
        command = [str(word) for word in argv]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n### {what}\n$ {shlex.join(command)}\n")
            log.flush()
            options.setdefault("stdout", log)
            environment = {**os.environ, "LC_ALL": "C", "PATH": tool_path(), **options.pop("env", {})}
            code = subprocess.run(command, check=False, stderr=log, env=environment, **options).returncode
        if code:
            raise MachineError(f"{what} failed (exit code {code}); log: {self.log}")

    def as_root(self, *argv: str | Path) -> list[str | Path]:
        """Wrap a command so that it runs as root, for users in a namespace of their own."""
        if os.geteuid() == 0:
            return [*argv]
        return ["unshare", "--map-auto", "--map-root-user", "--", *argv]

    def fetch_kernel(self, mirror: str) -> tuple[str, Path]:
        """Download and unpack the kernel and a busybox; return the kernel's version and the tree.

        A private apt configuration leaves the lists and the cache of this machine alone,
        while its proxy and certificate settings still hold.
        """
        apt = self.private_apt(mirror)
        self.step("update the package lists", ["apt-get", "-qq", "update"], env=apt)
        names, version = self.kernel_packages(apt)
        debs = self.work / "debs"
        debs.mkdir()
        self.step("download the kernel", ["apt-get", "-qq", "download", *names], env=apt, cwd=debs)
        if self.kernel.kernel_suite != self.kernel.suite:  # backports has no busybox of its own
            apt = self.private_apt(mirror, self.kernel.suite)
            self.step("update the package lists", ["apt-get", "-qq", "update"], env=apt)
        self.step("download busybox", ["apt-get", "-qq", "download", "busybox-static"], env=apt, cwd=debs)
        tree = self.work / "tree"
        for deb in sorted(debs.glob("*.deb")):
            self.step(f"unpack {deb.name}", ["dpkg-deb", "-x", deb, tree])
        self.versions = [
            run(["dpkg-deb", "-W", "--showformat=${Package} ${Version}", deb]).stdout
            for deb in sorted(debs.glob("linux-*.deb"))
        ]
        modules = [path for path in tree.glob("**/lib/modules") if path.is_dir()]
        if len(modules) != 1:
            raise MachineError(f"expected one lib/modules in the kernel packages, found {len(modules)}")
        (tree / "modules").symlink_to(modules[0])
        self.say(f"kernel {version}")
        return version, tree

    def private_apt(self, mirror: str, suite: str | None = None) -> dict[str, str]:
        """Write an apt configuration for one suite; return the environment that selects it."""
        suite = suite or self.kernel.kernel_suite
        base = self.work / f"apt-{suite}"
        for folder in ("lists/partial", "cache/archives/partial"):
            (base / folder).mkdir(parents=True)
        (base / "status").touch()
        (base / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        (base / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{base}/sources.list"; Dir::Etc::sourceparts "/dev/null";\n'
            f'Dir::Etc::preferencesparts "/dev/null"; Dir::Etc::preferences "/dev/null";\n'
            f'Dir::State::lists "{base}/lists"; Dir::State::status "{base}/status";\n'
            f'Dir::Cache "{base}/cache"; APT::Sandbox::User "root"; Acquire::Languages "none";\n'
            # Without it "apt-get update" calls a mirror that does not answer a success.
            'APT::Update::Error-Mode "any";\n'
        )
        return {"APT_CONFIG": str(base / "apt.conf")}

    def kernel_packages(self, apt: dict[str, str]) -> tuple[list[str], str]:
        """Return the packages that make up the newest cloud kernel of the suite, and its version.

        Up to 6.12 that is linux-image-<version> alone; from 7.x on the same kernel is
        split into linux-base-, linux-binary-, linux-image- and linux-modules-<version>.
        """
        options = ["--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]
        listing = run(
            ["apt-cache", "depends", *options, "linux-image-cloud-amd64"],
            env={**os.environ, "LC_ALL": "C", **apt},
        ).stdout
        names = [
            line for line in listing.splitlines() if re.match(r"linux-(base|binary|image|modules)-\d", line)
        ]
        versions = [
            match[1]
            for name in names
            if (match := re.fullmatch(r"linux-image-(\d\S*-cloud-amd64)", name)) is not None
        ]
        if not versions:
            raise MachineError(f"no cloud kernel in {self.kernel.kernel_suite}; is the mirror a Debian one?")
        return [name for name in names if name.endswith(f"-{versions[0]}")], versions[0]

    def bootstrap(self, mirror: str) -> None:
        """Make the root file system, as a tar archive so that users and root go the same way."""
        mode = "root" if os.geteuid() == 0 else "unshare"
        archive = self.work / "root.tar"
        argv = ["mmdebstrap", f"--mode={mode}", "--variant=minbase", f"--keyring={KEYRING}"]
        argv += [f"--include={','.join(self.kernel.packages)}", "--aptopt=APT::Install-Recommends false"]
        argv += ["--aptopt=Acquire::Languages none", "--dpkgopt=force-unsafe-io"]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "info", "locale", "man")]
        environment = {"TMPDIR": str(self.work)} if mode == "root" else {"TMPDIR": "/var/tmp"}
        with archive.open("wb") as output:
            self.step(
                "mmdebstrap",
                [*argv, "--format=tar", self.kernel.suite, "-", mirror],
                env=environment,
                stdout=output,
            )
        self.root.mkdir()
        # Device nodes cannot be made in a user namespace; the machine has a devtmpfs.
        unpack = ["tar", "--extract", "--numeric-owner", "--exclude=./dev/*"]
        self.step("unpack the root file system", self.as_root(*unpack, "-C", self.root, "-f", archive))
        archive.unlink()
        self.say(f"user space {self.kernel.suite}")

    def configure(self, modules: Path) -> None:
        """Turn the plain tree into a test machine; see rootfs.sh."""
        key = self.out / "id_ed25519"
        self.step("make the SSH key", ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", key])
        script = HERE / "rootfs.sh"
        self.step("rootfs.sh", self.as_root("bash", script, self.root, f"{key}.pub", modules.resolve()))

    def write_vmlinux(self, tree: Path, version: str) -> None:
        """Write the kernel, as a plain ELF file where possible.

        QEMU starts an ELF file through the PVH entry point, so the machine does not spend
        the better part of a second on decompressing it under emulation.
        """
        images = [*tree.glob(f"**/vmlinuz-{version}"), *tree.glob(f"**/{version}/vmlinuz")]
        if not images:
            raise MachineError(f"no vmlinuz in the packages of {version}")
        (self.out / "vmlinux").write_bytes(unpack_vmlinuz(images[0].read_bytes()))

    def make_initrd(self, version: str) -> None:
        """Write the initial RAM disk: busybox, the disk and network drivers, initrd.sh."""
        base = self.work / "initrd"
        for folder in ("bin", "dev", "newroot", "modules"):
            (base / folder).mkdir(parents=True)
        busybox = next((path for path in (self.work / "tree").glob("**/bin/busybox") if path.is_file()), None)
        if busybox is None:
            raise MachineError("no busybox in busybox-static")
        shutil.copy2(busybox, base / "bin" / "busybox")
        (base / "bin" / "sh").symlink_to("busybox")
        shutil.copy(HERE / "initrd.sh", base / "init")
        (base / "init").chmod(0o755)
        modules = self.root / "usr/lib/modules" / version
        for number, module in enumerate(module_load_order(modules)):
            shutil.copy(module, base / "modules" / f"{number:02}-{module.name}")
        names = "\n".join(str(path.relative_to(base)) for path in sorted(base.glob("**/*")))
        with (self.out / "initrd.cpio").open("wb") as output:
            argv = ["cpio", "--create", "--format=newc", "--owner=0:0", "--quiet"]
            self.step("make the initial RAM disk", argv, cwd=base, stdout=output, input=names.encode())

    def make_disk(self) -> None:
        """Write the disk image; no journal, as no machine outlives its first crash."""
        raw = self.work / "root.raw"
        with raw.open("wb") as disk:
            disk.truncate(int(DISK_SIZE.removesuffix("G")) << 30)
        options = ["-q", "-F", "-t", "ext4", "-L", "root", "-O", "^has_journal,^metadata_csum", "-m", "0"]
        options += ["-E", "lazy_itable_init=1,nodiscard"]
        self.step("make the file system", self.as_root("mke2fs", *options, "-d", self.root, raw))
        self.step("convert the disk", ["qemu-img", "convert", "-O", "qcow2", raw, self.out / "base.qcow2"])
        raw.unlink()
        self.say(f"disk image {(self.out / 'base.qcow2').stat().st_size >> 20} MiB")

    def write_versions(self, version: str) -> None:
        """Record what the rolling package pool gave today."""
        query = ["dpkg-query", f"--admindir={self.root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\\n"]
        packages = run([*query, *self.kernel.packages]).stdout.splitlines()
        lines = [
            f"kernel {version}",
            f"suite {self.kernel.suite}",
            f"kernel-suite {self.kernel.kernel_suite}",
        ]
        (self.out / "VERSIONS").write_text("\n".join([*lines, *self.versions, *packages]) + "\n")


def debian_mirror() -> str:
    """Return the mirror apt is configured with; the one that serves most suites wins."""
    chosen = os.environ.get("CNF_VM_MIRROR")
    if chosen:
        return chosen
    sites = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]).stdout.split()
    counted = Counter(site.rstrip("/") for site in sites if "security" not in site)
    if not counted:
        raise MachineError("apt has no mirror configured; set CNF_VM_MIRROR to one that serves Debian")
    site = counted.most_common(1)[0][0]
    if site.startswith("mirror+file:"):  # Debian's cloud images: the file lists the real mirrors
        lines = Path(site.removeprefix("mirror+file:")).read_text().split()
        site = next((line for line in lines if not line.startswith("#")), site)
    return site


def module_load_order(modules: Path) -> list[Path]:
    """Return the modules that reach the disk and the network, each after what it needs.

    6.12 has all but the two drivers built in, 6.1 has even the virtio bus as modules.
    """
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        module, _colon, others = line.partition(":")
        # depmod lists the nearest dependency first.
        needs[Path(module).stem] = [*reversed(others.split()), module]
    wanted = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
    return [modules / path for path in dict.fromkeys(path for name in wanted for path in needs.get(name, ()))]


def unpack_vmlinuz(image: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage (x86 boot protocol 2.08 or newer).

    Newer kernels are compressed with zstd. Any other is returned as it came (6.1 has LZ4):
    it boots as well, only slower, and the saved state hides even that.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if not payload.startswith(b"\x28\xb5\x2f\xfd"):
        return image
    # The last four bytes are the unpacked size, which zstd would take for a broken frame.
    unpack = subprocess.run(["zstd", "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=False)
    if not unpack.stdout.startswith(b"\x7fELF"):
        raise MachineError("the unpacked kernel is not an ELF file")
    return unpack.stdout


def image_key(kernel: str) -> str:
    """Return the hash of everything that decides what an image contains."""
    parts = [repr(KERNELS[kernel]), repr(PACKAGES), DISK_SIZE]
    parts += [(HERE / name).read_text() for name in ("rootfs.sh", "identity.sh", "initrd.sh")]
    parts += [inspect.getsource(part) for part in (Builder, module_load_order, unpack_vmlinuz)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Image:
    """The built image of one kernel, and the memory states saved from it."""

    def __init__(self, kernel: str) -> None:
        """Name the image; nothing is read or made."""
        self.kernel = kernel
        self.directory = cache_directory() / kernel
        self.lock = cache_directory() / f"{kernel}.lock"

    @property
    def exists(self) -> bool:
        """Whether a finished image is there, current or not."""
        return (self.directory / "key").exists()

    @property
    def current(self) -> bool:
        """Whether the image is what a build would make now."""
        try:
            return (self.directory / "key").read_text() == image_key(self.kernel)
        except FileNotFoundError:
            return False

    @property
    def state(self) -> Path:
        """The saved state for this emulator, these devices and this warm-up."""
        major, minor = qemu_version()
        parts = [MEMORY_MB, CPUS, KERNEL_COMMAND_LINE, (HERE / "warm.sh").read_text()]
        parts += [inspect.getsource(qemu_command)]
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
        return self.directory / f"state-{major}.{minor}-{accelerator()}-{digest}"

    def build(self) -> None:
        """Build the image and save its state, unless both are there."""
        if self.current and self.state.exists():
            return
        missing = missing_packages()
        if missing:
            raise MachineError(f"packages are missing: {' '.join(missing)}; {install_hint()}")
        with locked(self.lock):
            self._remove_leftovers()
            if not self.current:
                self._build()
            if not self.state.exists():
                save_state(self)
            self._give_to_user()

    def require(self) -> None:
        """Raise unless the image can be started by this user."""
        hint = f"run: python3 {Path(sys.argv[0])} build --kernel {self.kernel}"
        if not self.exists:
            raise MachineError(f"there is no image for kernel {self.kernel}; {hint}")
        if not self.current:
            print(f"machine.py: the image for kernel {self.kernel} is out of date; {hint}", file=sys.stderr)
        if not os.access(self.directory / "id_ed25519", os.R_OK):
            raise MachineError(
                f"{self.directory} belongs to another user; set CNF_VM_CACHE and build your own"
            )

    def remove(self) -> None:
        """Remove the image and its states."""
        with locked(self.lock):
            self._remove_leftovers()
            shutil.rmtree(self.directory, ignore_errors=True)
        self.lock.unlink(missing_ok=True)

    def _build(self) -> None:
        if platform.machine() != "x86_64":
            raise MachineError("images are built on x86_64 only")
        check_user_namespaces()
        log = cache_directory() / f"{self.kernel}.build.log"
        log.unlink(missing_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{self.kernel}.", dir=cache_directory()))
        try:
            work.chmod(0o755)  # apt's sandbox user looks in here
            builder = Builder(self.kernel, work, log)
            key = image_key(self.kernel)
            finished = builder.build()
            (finished / "key").write_text(key)
            if self.directory.exists():
                self.directory.rename(work / "replaced")
            finished.rename(self.directory)
        finally:
            remove_tree(work)

    def _remove_leftovers(self) -> None:
        """Remove what a killed build has left; the lock is ours, so nobody uses it."""
        for path in [*cache_directory().glob(f".{self.kernel}.*"), *self.directory.glob(".state*")]:
            remove_tree(path)

    def _give_to_user(self) -> None:
        """After "sudo machine.py build" the image belongs to the user who will start it."""
        if os.geteuid() or "SUDO_UID" not in os.environ:
            return
        owner, group = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
        base = cache_directory()
        for path in [base, self.lock, self.directory, *self.directory.glob("**/*")]:
            os.chown(path, owner, group, follow_symlinks=False)


def check_user_namespaces() -> None:
    """Raise when a user who is not root cannot get a range of user ids for the build."""
    if os.geteuid() == 0:
        return
    probe = ["unshare", "--map-auto", "--map-root-user", "--", "chown", "1:1", "/proc/self/fd/0"]
    with tempfile.TemporaryFile() as scratch:
        result = subprocess.run(probe, check=False, stdin=scratch, capture_output=True)
    if result.returncode:
        raise MachineError(
            "building needs root or user namespaces with ranges in /etc/subuid and /etc/subgid;"
            f" run: sudo python3 {Path(sys.argv[0])} build (starting machines needs no root)"
        )


def remove_tree(path: Path) -> None:
    """Remove a directory, including what belongs to the mapped users of a namespace."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid():
        argv = ["unshare", "--map-auto", "--map-root-user", "--", "rm", "-rf", str(path)]
        subprocess.run(argv, check=False)


# --- running QEMU ------------------------------------------------------------


def cpu_model() -> str:
    """Return the CPU model that the emulator gets right."""
    if accelerator() == "kvm":
        return "host"
    # QEMU 7 computes wrong flags for cmpxchg16b and the guest dies of a double
    # fault; five-level paging costs QEMU 8 and newer a walk level for nothing.
    return "max,-cx16" if qemu_version() < (8, 0) else "max,la57=off"


def qemu_command(directory: Path, image: Path, port: int, lan: t.Sequence[str]) -> list[str]:
    """Return the emulator's command line; it runs with ``directory`` as working directory.

    Restoring a state needs the very same devices as saving it, while what the network
    devices are connected to may differ. All socket paths are relative: a Unix socket's
    path has room for 108 bytes only. vmgenid makes the kernel reseed its random numbers
    when it wakes up in a new machine, or all machines would draw the same ones.
    """
    acceleration = "kvm" if accelerator() == "kvm" else "tcg,thread=multi,tb-size=512"
    return [
        *(qemu_binary(), "-nodefaults", "-no-user-config", "-name", directory.name),
        *(
            "-machine",
            "q35",
            "-accel",
            acceleration,
            "-cpu",
            cpu_model(),
            "-smp",
            str(CPUS),
            "-m",
            str(MEMORY_MB),
        ),
        *("-display", "none", "-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off"),
        *("-pidfile", str(directory / "qemu.pid"), "-device", "vmgenid,guid=auto"),
        *("-drive", "file=disk.qcow2,if=none,id=disk0,cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk0"),
        *("-netdev", f"user,id=net0,net=172.31.254.0/24,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
        *lan,
        *("-device", "virtio-net-pci,netdev=net1,romfile=,mac=52:54:00:00:00:00"),
        *("-kernel", str(image / "vmlinux"), "-initrd", str(image / "initrd.cpio")),
        *("-append", KERNEL_COMMAND_LINE),
    ]


def lan_arguments(lan: str | None, slot: int) -> list[str]:
    """Return the back end of the second network device.

    A LAN is a star of datagram sockets. Slot 0 is its hub and has one port for each other
    slot; every other machine talks to its own port of the hub. Datagrams need no
    connection, so machines come, go and come back in any order, the hub's included; while
    the hub is away, frames are lost. Without a LAN the device must still drain its queue,
    which an unconnected hub does not: an isolated user network does.
    """
    if lan is None:
        return ["-netdev", "user,id=net1,ipv6=off,restrict=on"]

    def port(number: int, local: str, remote: str, name: str) -> str:
        base = f"../lan-{lan}/{number}"
        ends = f"local.type=unix,local.path={base}.{local},remote.type=unix,remote.path={base}.{remote}"
        return f"dgram,id={name},{ends}"

    if slot:
        return ["-netdev", port(slot, "leaf", "hub", "net1")]
    arguments = ["-netdev", "hubport,id=net1,hubid=1"]
    for number in range(1, LAN_SLOTS):
        arguments += ["-netdev", port(number, "hub", "leaf", f"port{number}")]
        arguments += ["-netdev", f"hubport,id=hub{number},hubid=1,netdev=port{number}"]
    return arguments


class StartError(MachineError):
    """The machine did not come up; the message ends with what it and QEMU printed."""

    def __init__(self, reason: str, directory: Path) -> None:
        """Append the tails of both logs."""
        tails = [reason]
        for name in ("console.log", "qemu.log"):
            with contextlib.suppress(OSError):
                lines = (directory / name).read_text(errors="replace").splitlines()[-12:]
                tails += [f"  {name}: {line}" for line in lines]
        super().__init__("\n".join(tails))


class Machine:
    """A QEMU process started by this program."""

    def __init__(self, directory: Path, record: Record, image: Path) -> None:
        """Describe a machine that is not running yet."""
        self.directory = directory
        self.record = record
        self.image = image
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, backing: str, incoming: str | None = None) -> None:
        """Start QEMU on a new overlay of ``backing`` (relative to the directory, or absolute)."""
        overlay = ["-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, "disk.qcow2"]
        run(["qemu-img", "create", *overlay], cwd=self.directory)
        lan = lan_arguments(self.record.lan, self.record.slot)
        argv = qemu_command(self.directory, self.image, self.record.port, lan)
        if incoming is not None:
            argv += ["-incoming", f"exec:zstd -dcq {shlex.quote(incoming)}"]
        (self.directory / "console.log").write_bytes(b"")
        with (self.directory / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.record.pid = self.process.pid

    def wait_for_ssh(self, limit: float) -> None:
        """Return when sshd answers; raise StartError when the machine died or took too long."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.process is not None and self.process.poll() is not None:
                raise StartError(f"QEMU ended with exit code {self.process.returncode}", self.directory)
            if b"Kernel panic" in (self.directory / "console.log").read_bytes():
                raise StartError("the kernel panicked", self.directory)
            if has_ssh_banner(self.record.port):
                return
            time.sleep(0.03)
        raise StartError(f"no answer from sshd within {limit:.0f} s", self.directory)

    def ssh(self, *command: str) -> list[str]:
        """Return the ssh command line for this machine."""
        key = self.directory / "id_ed25519"
        return [*ssh_command(key if key.exists() else self.image / "id_ed25519", self.record.port), *command]

    def personalise(self) -> None:
        """Set the clock, the random seed, the name and the second network device's addresses.

        The time is sent when the guest asks for it, so that the seconds that the login may
        take do not end up in the guest's clock. Kernels without a vmgenid driver (6.1) would
        all draw the same random numbers after a restore; 0x5207 is RNDRESEEDCRNG.
        """
        identity = f"name={self.record.name} mac1={self.record.mac} net1={self.record.address}/24"
        script = (
            f"echo ready; read -r now seed; date -s @$now >/dev/null; printf '%s\\n' {identity} >/etc/vm-identity;"
            " [ -d /sys/bus/platform/drivers/vmgenid ] || { echo $seed >/dev/urandom;"
            " python3 -c 'import fcntl; fcntl.ioctl(open(\"/dev/urandom\"), 0x5207)'; };"
            " /usr/local/sbin/vm-identity change"
        )
        with subprocess.Popen(
            self.ssh(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            if t.cast("t.IO[str]", process.stdout).readline().strip() != "ready":
                error = t.cast("t.IO[str]", process.stderr).read().strip()
                raise StartError(f"the first login failed: {error}", self.directory)
            try:
                process.communicate(f"{time.time():.3f} {os.urandom(32).hex()}\n", timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.returncode:
            raise StartError("the machine did not take its name and addresses", self.directory)

    def kill(self) -> None:
        """End the process and reap it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def has_ssh_banner(port: int) -> bool:
    """Whether sshd answers on a port of this machine.

    QEMU accepts the connection at once and the guest's sshd answers through it later, so
    only the banner counts.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
            connection.settimeout(0.4)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def ssh_command(key: Path, port: int) -> list[str]:
    """Return ssh with everything that keeps the user's own configuration out of it."""
    return ["ssh", *SSH_OPTIONS.split(), "-i", str(key), "-p", str(port), "root@127.0.0.1"]


class Monitor:
    """A connection to QEMU's machine protocol (QMP)."""

    def __init__(self, directory: Path) -> None:
        """Connect; the path goes through /proc because a socket's path is short."""
        self.socket = socket.socket(socket.AF_UNIX)
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self.socket.connect(f"/proc/self/fd/{folder}/qmp.sock")
        finally:
            os.close(folder)
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        self.stream.readline()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: t.Any) -> dict[str, t.Any]:
        """Run one command and return what it returned; events in between are dropped."""
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        for line in self.stream:
            answer = json.loads(line)
            if "error" in answer:
                raise MachineError(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                return t.cast("dict[str, t.Any]", answer["return"])
        raise MachineError(f"QEMU closed its monitor during {command}")

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()
        self.socket.close()


def save_state(image: Image) -> None:
    """Boot the image once, warm it up and save its memory and disk.

    Saved from the running guest: a state saved from a stopped one is restored as stopped.
    """
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=".state.", dir=image.directory))
    record = Record(name="vm", kernel=image.kernel, port=free_port(), mac="", address="")
    machine = Machine(work, record, image.directory)
    try:
        machine.launch("../base.qcow2")
        machine.wait_for_ssh(BOOT_LIMIT)
        print(f"booted in {time.monotonic() - started:.1f} s", flush=True)
        with (HERE / "warm.sh").open("rb") as script:
            warm = subprocess.run(
                machine.ssh("sh -s"), check=False, stdin=script, capture_output=True, text=True
            )
        (work / "warm.log").write_text(warm.stdout + warm.stderr)
        if warm.returncode:
            raise StartError(f"the warm-up failed: {warm.stderr.strip()}", work)
        migrate(work, "memory.zst")
        machine.kill()
        for name in ("console.log", "qemu.log", "qemu.pid", "qmp.sock"):
            (work / name).unlink(missing_ok=True)
        work.chmod(0o755)
        outdated = list(image.directory.glob(f"{image.state.name.rpartition('-')[0]}-*"))
        work.rename(image.state)
    finally:
        machine.kill()
        remove_tree(work)
    for path in outdated:
        if path != image.state:
            remove_tree(path)  # machines that run from it keep their open files
    size = (image.state / "memory.zst").stat().st_size >> 20
    print(f"state saved after {time.monotonic() - started:.1f} s, {size} MiB", flush=True)


def migrate(directory: Path, name: str) -> None:
    """Write the memory of the machine in ``directory`` to a file beside its disk."""
    monitor = Monitor(directory)
    try:
        monitor.execute("migrate", uri=f"exec:zstd -q -T0 -3 -f -o {name}")
        end = time.monotonic() + MIGRATE_LIMIT
        while (status := monitor.execute("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > end:
                raise StartError(f"saving the memory ended as {status!r}", directory)
            time.sleep(0.1)
        monitor.execute("quit")  # flushes the disk; unlike a signal it waits for zstd, too
    finally:
        monitor.close()


# --- machines by name --------------------------------------------------------


def machine_directory(name: str) -> Path:
    """Return where a machine lives; raise for a name that is no host name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name) or name.startswith("lan-"):
        raise MachineError(f"{name!r} is no machine name: use a-z, 0-9 and '-', not starting with 'lan-'")
    return run_directory() / name


def read_record(name: str) -> Record | None:
    """Return what is recorded about a machine, or None."""
    try:
        return Record(**json.loads((machine_directory(name) / "machine.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_record(record: Record) -> None:
    """Replace the record of a machine."""
    path = machine_directory(record.name) / "machine.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n")
    temporary.rename(path)


def is_running(record: Record | None) -> bool:
    """Whether the recorded process is alive and still this machine's QEMU.

    A process id is reused sooner or later; the path of the pid file on the command line
    belongs to one machine of one run directory only.
    """
    if record is None or record.pid is None:
        return False
    try:
        arguments = Path(f"/proc/{record.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(machine_directory(record.name) / "qemu.pid") in arguments


def all_records() -> list[Record]:
    """Return the records of all machines, by name."""
    names = sorted(path.parent.name for path in run_directory().glob("*/machine.json"))
    return [record for name in names if (record := read_record(name)) is not None]


def free_port(taken: t.Collection[int] = ()) -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def free_slot(lan: str, others: t.Sequence[Record]) -> int:
    """Return the lowest free place on a LAN; 0 is the hub."""
    used = {record.slot for record in others if record.lan == lan}
    free = [slot for slot in range(LAN_SLOTS) if slot not in used]
    if not free:
        raise MachineError(f"LAN {lan} is full: {LAN_SLOTS} machines")
    return free[0]


def reserve(name: str, kernel: str, lan: str | None) -> Record:
    """Choose port, place and addresses, and record them before anybody else chooses."""
    with locked(run_directory() / ".lock"):
        others = [other for other in all_records() if other.pid is None or is_running(other)]
        slot = free_slot(lan, others) if lan is not None else 0
        digest = hashlib.sha256(name.encode()).hexdigest()
        record = Record(
            name=name,
            kernel=kernel,
            port=free_port([other.port for other in others]),
            mac=f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}",
            address=f"{LAN_PREFIX}.{slot + 1}",
            lan=lan,
            slot=slot,
        )
        directory = machine_directory(name)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        if lan is not None:
            (run_directory() / f"lan-{lan}").mkdir(exist_ok=True)
        write_record(record)
        return record


def boot(machine: Machine, image: Image, *, restore: bool) -> None:
    """Bring one machine up, from the saved state or from its first instruction."""
    record = machine.record
    for attempt in range(5):
        if restore:
            machine.launch(str(image.state / "disk.qcow2"), incoming=str(image.state / "memory.zst"))
        else:
            machine.launch(str(image.directory / "base.qcow2"))
        write_record(record)
        try:
            machine.wait_for_ssh(RESTORE_LIMIT if restore else BOOT_LIMIT)
            break
        except StartError as error:
            # Somebody else may have taken the port between our choice and QEMU's start.
            if "host forwarding rule" not in str(error) or attempt == 4:
                raise
            record.port = free_port()
    machine.personalise()
    record.restored = restore
    write_record(record)


def start(name: str, kernel: str, *, lan: str | None = None, cold: bool = False) -> None:
    """Start a pristine machine; a state that cannot be restored costs only a cold boot."""
    started = time.monotonic()
    if lan is not None and not re.fullmatch(r"[a-z0-9]{1,16}", lan):
        raise MachineError(f"{lan!r} is no name for a LAN: use up to 16 of a-z and 0-9")
    image = Image(kernel)
    with locked(machine_directory(name).with_suffix(".lock")):
        record = read_record(name)
        if is_running(record):
            print(f"{name} is already running")
            return
        image.require()
        with locked(image.lock, shared=True):
            record = reserve(name, kernel, lan)
            machine = Machine(machine_directory(name), record, image.directory)
            shutil.copy(image.directory / "id_ed25519", machine.directory)  # outlives a rebuilt image
            (machine.directory / "id_ed25519").chmod(0o600)
            bring_up(machine, image, restore=not cold and image.state.exists())
    how = "restored" if record.restored else "booted"
    print(f"{name} {how} in {time.monotonic() - started:.1f} s, kernel {kernel}, port {record.port}")


def bring_up(machine: Machine, image: Image, *, restore: bool) -> None:
    """Try the saved state first, then a cold boot; leave no process behind a failure."""
    for restoring in (True, False) if restore else (False,):
        try:
            boot(machine, image, restore=restoring)
        except BaseException as error:
            machine.kill()
            if not restoring or not isinstance(error, MachineError):
                machine.record.pid = -1  # no longer holds its place, keeps its logs for reading
                write_record(machine.record)
                raise
            print(f"machine.py: restoring failed, booting instead: {error}", file=sys.stderr)
        else:
            return


def stop(name: str) -> bool:
    """Stop a machine and drop its disk; return whether it was running."""
    with locked(machine_directory(name).with_suffix(".lock")):
        record = read_record(name)
        was_running = is_running(record)
        if record is not None and record.pid is not None and was_running:
            end_process(record)
        shutil.rmtree(machine_directory(name), ignore_errors=True)
    return was_running


def end_process(record: Record) -> None:
    """Ask QEMU to end, and make it; there is nothing in the machine worth saving."""
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + patience
        with contextlib.suppress(ProcessLookupError):
            os.kill(t.cast("int", record.pid), number)
        while time.monotonic() < end:
            if not is_running(record):
                return
            time.sleep(0.02)
    raise MachineError(f"{record.name} (process {record.pid}) does not end")


def running_record(name: str) -> Record:
    """Return the record of a running machine; raise when it is not running."""
    record = read_record(name)
    if record is None or not is_running(record):
        raise MachineError(f"{name} is not running")
    return record


def inventory(names: t.Sequence[str]) -> str:
    """Return an Ansible inventory in YAML; a JSON string is a YAML scalar.

    Nothing in the SSH arguments touches ControlMaster, so Ansible's own ControlPersist holds.
    """
    lines = ["---", "all:", "  hosts:"]
    for name in names:
        record = running_record(name)
        values: dict[str, object] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": record.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(machine_directory(name) / "id_ed25519"),
            "ansible_ssh_common_args": SSH_OPTIONS,
            "ansible_python_interpreter": "/usr/bin/python3",
            "vm_kernel": record.kernel,
            "vm_lan_interface": "eth1",
            "vm_lan_address": record.address,
        }
        lines.append(f"    {name}:")
        lines += [f"      {key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def describe(record: Record) -> str:
    """Return one line about a machine."""
    if not is_running(record):
        return f"{record.name} stopped"
    lan = f", LAN {record.lan} {record.address}" if record.lan else ""
    return f"{record.name} running, kernel {record.kernel}, port {record.port}, process {record.pid}{lan}"


# --- command line ------------------------------------------------------------


def command_build(options: argparse.Namespace) -> int:
    """Build what is missing."""
    for kernel in options.kernel or [DEFAULT_KERNEL]:
        Image(kernel).build()
    return 0


def command_start(options: argparse.Namespace) -> int:
    """Start machines, one after the other."""
    for name in options.name:
        start(name, options.kernel, lan=options.lan, cold=options.cold)
    return 0


def command_reset(options: argparse.Namespace) -> int:
    """Stop and start machines; without options each one comes back as it was."""
    for name in options.name:
        record = read_record(name)
        kernel = options.kernel or (record.kernel if record else DEFAULT_KERNEL)
        lan = options.lan or (record.lan if record else None)
        stop(name)
        start(name, kernel, lan=lan, cold=options.cold)
    return 0


def command_stop(options: argparse.Namespace) -> int:
    """Stop machines; one that does not run is as good as stopped."""
    for name in options.name:
        print(f"{name} {'stopped' if stop(name) else 'was not running'}")
    return 0


def command_status(options: argparse.Namespace) -> int:
    """Print a line per machine; exit code 3 when a named one is not running."""
    if options.name is None:
        return command_list(options)
    record = read_record(options.name)
    print(describe(record) if record else f"{options.name} stopped")
    return 0 if is_running(record) else 3


def command_list(_options: argparse.Namespace) -> int:
    """Print a line per machine."""
    for record in all_records():
        print(describe(record))
    return 0


def command_ssh(options: argparse.Namespace) -> int:
    """Become an ssh client."""
    record = running_record(options.name)
    argv = ssh_command(machine_directory(options.name) / "id_ed25519", record.port)
    os.execvp(argv[0], [*argv, *options.command])


def command_inventory(options: argparse.Namespace) -> int:
    """Print the inventory of running machines."""
    print(inventory(options.name), end="")
    return 0


def command_requirements(_options: argparse.Namespace) -> int:
    """Print the missing packages on one line, nothing when all are there."""
    missing = missing_packages()
    if missing:
        print(" ".join(missing))
    return 0


def command_clean(options: argparse.Namespace) -> int:
    """Stop all machines; remove the run directory, and the images when asked to."""
    directory = run_directory()
    for path in sorted(directory.glob("*/machine.json")):
        stop(path.parent.name)
    for path in directory.glob("*"):
        # Only what this program makes: the directory may be shared with something else.
        if path.name.startswith("lan-"):
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".lock":
            path.unlink(missing_ok=True)
    (directory / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
    if options.all:
        for kernel in KERNELS:
            Image(kernel).remove()
            (cache_directory() / f"{kernel}.build.log").unlink(missing_ok=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    result = argparse.ArgumentParser(prog="machine.py", description=(__doc__ or "").split("\n", 1)[0])
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: t.Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = function.__doc__ or ""
        command = commands.add_parser(name, help=text.split(";", maxsplit=1)[0].rstrip("."), description=text)
        command.set_defaults(function=function)
        return command

    def add_names(command: argparse.ArgumentParser) -> None:
        command.add_argument("name", nargs="+", metavar="NAME", help="machine")

    build = add("build", command_build)
    build.add_argument(
        "--kernel", action="append", choices=KERNELS, help=f"may be repeated (default {DEFAULT_KERNEL})"
    )
    for name, function, default in (("start", command_start, DEFAULT_KERNEL), ("reset", command_reset, None)):
        command = add(name, function)
        add_names(command)
        command.add_argument("--kernel", choices=KERNELS, default=default)
        command.add_argument(
            "--lan", metavar="LAN", help="join the second network device to this Ethernet LAN"
        )
        command.add_argument("--cold", action="store_true", help="boot instead of restoring the saved state")
    add_names(add("stop", command_stop))
    add("status", command_status).add_argument(
        "name", nargs="?", metavar="NAME", help="machine (default: all)"
    )
    add("list", command_list)
    ssh = add("ssh", command_ssh)
    ssh.add_argument("name", metavar="NAME", help="machine")
    ssh.add_argument("command", nargs=argparse.REMAINDER, metavar="...", help="command (default: a shell)")
    add_names(add("inventory", command_inventory))
    add("requirements", command_requirements)
    add("clean", command_clean).add_argument("--all", action="store_true", help="remove the images, too")
    return result


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except MachineError as error:
        print(f"machine.py: {error}", file=sys.stderr)
    except FileNotFoundError as error:
        print(f"machine.py: {error.filename} is missing; {install_hint()}", file=sys.stderr)
    except KeyboardInterrupt:
        print("machine.py: interrupted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
