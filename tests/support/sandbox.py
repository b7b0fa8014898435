# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of one's own for a test: network and mount namespaces that vanish with one process.

Inside, /run/netns, the store and /etc/sysctl.d are empty and private, and the only link is `lo`; whatever a test leaves
there, also when it is killed, cannot reach the machine. The kernel is the real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
COLLECTIONS = SUPPORT.parent.parent / ".cache" / "collections"

SETUP = """
set -e
mount --make-rprivate /
for directory in /run/netns /var/lib/cnf-ebpf /etc/sysctl.d; do
    mkdir -p $directory
    mount -t tmpfs -o mode=0755 sandbox $directory
done
chmod 0700 /var/lib/cnf-ebpf
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
echo ready
exec sleep infinity
"""


class Sandbox:
    """One isolated host; use as a context manager."""

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self._driver: t.Optional[subprocess.Popen[str]] = None
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", SETUP], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError("sandbox: cannot make namespaces; root with CAP_SYS_ADMIN is needed")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._driver is not None:
            try:
                self._driver.communicate(
                    timeout=10
                )  # at the end of its input it ends by itself, as a measured process has to
            except subprocess.TimeoutExpired:
                self._driver.kill()
                self._driver.communicate()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def command(self, *words: str) -> t.List[str]:
        return ["nsenter", "--target", str(self.process.pid), "--net", "--mount", *words]

    def run(self, *words: str, check: bool = True, **kwargs: t.Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the sandbox."""
        return subprocess.run(self.command(*words), check=check, capture_output=True, text=True, **kwargs)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start a program in the sandbox; what it prints can be read."""
        return subprocess.Popen(self.command(*words), stdout=subprocess.PIPE, text=True)

    def sh(self, script: str) -> str:
        """Run shell lines in the sandbox, stopping at the first that fails."""
        done = self.run("sh", "-ec", script, check=False)
        if done.returncode:
            raise RuntimeError(f"{script}\n{done.stderr}")
        return done.stdout

    def ip(self, words: str, netns: str = "") -> t.Any:
        """The parsed answer of `ip -json`."""
        inside = ["-n", netns] if netns else []
        return json.loads(self.run("ip", "-json", *inside, *words.split()).stdout or "[]")

    def namespaces(self) -> t.List[str]:
        return sorted(self.sh("ls /run/netns").split())

    def topology(self, document: t.Mapping[str, t.Any], **options: t.Any) -> t.Dict[str, t.Any]:
        """Converge one topology document in the sandbox's driver (tests/support/driver.py) and return the answer.

        The driver lives on between calls, so descriptors and threads that leaked would add up; a step that kills it
        (kill_before, kill_after) answers {"killed": True}.
        """
        answer = self._ask({"document": document, **options})
        if answer is not None:
            return answer
        assert self._driver is not None
        if self._driver.wait() in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return {"killed": True}
        raise RuntimeError("the driver died; its message is above")

    def task(self, task: t.Mapping[str, t.Any], **options: t.Any) -> t.Dict[str, t.Any]:
        """Run one single task, {"section", "params", "state"}, in the driver and return the answer."""
        answer = self._ask({"task": task, **options})
        assert answer is not None
        return answer

    @property
    def driver_pid(self) -> int:
        """The process id of the driver, which lives on between calls."""
        assert self._driver is not None
        return self._driver.pid

    def bpf(self) -> t.Dict[str, t.Any]:
        """What the kernel has of BPF, as the driver sees it: hooks, pins, and the ids of all programs, maps and links."""
        answer = self._ask({"look": True})
        assert answer is not None
        return answer

    def hooks(self) -> t.Dict[str, t.List[str]]:
        """The programs at each hook that has any: `netns:device hook` to names, ours as topology/object:program."""
        return {name: hook.get("programs", []) for name, hook in self.bpf()["hooks"].items()}

    def _ask(self, step: t.Mapping[str, t.Any]) -> t.Optional[t.Dict[str, t.Any]]:
        """The driver's answer to a step, None when it died of it."""
        if self._driver is None or self._driver.poll() is not None:
            self._driver = subprocess.Popen(
                self.command(self.python, str(SUPPORT / "driver.py")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment(),
            )
        assert self._driver.stdin is not None and self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(step) + "\n")
        self._driver.stdin.flush()
        line = self._driver.stdout.readline()
        return json.loads(line) if line else None

    @staticmethod
    def environment() -> t.Dict[str, str]:
        """No bytecode beside the sources, which may be another user's: all drivers share a place for it, or have none."""
        place = os.environ.get("BYTECODE")
        bytecode = {"PYTHONPYCACHEPREFIX": place} if place else {"PYTHONDONTWRITEBYTECODE": "1"}
        others = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**others, "PYTHONPATH": str(COLLECTIONS), **bytecode}

    def state(self) -> t.Dict[str, t.Any]:
        """Everything that a run could have changed, read by iproute2 and the files themselves, without what is random."""
        found: t.Dict[str, t.Any] = {"namespaces": self.namespaces()}
        for netns in ("", *found["namespaces"]):
            found[f"links {netns}"] = {link["ifname"]: _stable(link) for link in self.ip("-d link", netns)}
            found[f"addresses {netns}"] = sorted(
                f"{link['ifname']} {row['local']}/{row['prefixlen']} {row.get('protocol', '')}"
                for link in self.ip("address", netns)
                for row in link.get("addr_info", [])
                if not row["local"].startswith("fe80:")
            )
            for family in ("-4", "-6"):
                found[f"routes {family} {netns}"] = sorted(
                    json.dumps(row, sort_keys=True)
                    for row in self.ip(f"{family} route show table all", netns)
                    if row.get("protocol") != "kernel"
                )
                found[f"rules {family} {netns}"] = self.ip(f"{family} rule", netns)
            found[f"neighbors {netns}"] = sorted(
                f"{row['dst']} {row['dev']} {row.get('lladdr', '')}"
                for row in self.ip("neigh show nud permanent", netns)
            )
            found[f"sysctls {netns}"] = self.sysctls(netns)
        found["sysctl.d"] = self.sh(
            "cd /etc/sysctl.d; for f in *; do [ -e $f ] && echo $f && cat $f; done; true"
        )
        return found

    def sysctls(self, netns: str = "") -> t.Dict[str, str]:
        """The forwarding switches of a namespace: path below /proc/sys/net to value."""
        inside = f"ip netns exec {netns} " if netns else ""
        keys = "ipv[46]/conf/*/forwarding ipv4/conf/*/rp_filter ipv4/conf/*/proxy_arp ipv6/conf/*/accept_ra"
        lines = self.sh(f"{inside}sh -c 'cd /proc/sys/net; grep -s . {keys} || true'").splitlines()
        return dict(line.split(":", 1) for line in lines)


def _stable(link: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    """A link without indexes, random hardware addresses and counters that differ from one creation to the next."""
    kept = ("mtu", "operstate", "altnames", "master", "link", "linkinfo")
    flags = sorted(set(link["flags"]) - {"LOWER_UP", "NO-CARRIER", "M-DOWN"})
    found = {name: link[name] for name in kept if name in link and name != "operstate"}
    info = found.get("linkinfo", {})
    info.get("info_data", {}).pop("root_id", None)
    kind = {"kind": info.get("info_kind"), "slave": info.get("info_slave_kind")}
    return {**found, "linkinfo": kind, "flags": flags}
