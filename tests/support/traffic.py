# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets that can be counted one by one: datagrams with numbers, sent from one namespace of a sandbox and received in another.

Both ends are processes in the namespaces. A neighbor is resolved and the path warm before the first number counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t

from sandbox import Sandbox

RECEIVER = """
import json, socket, sys
address, port, family = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
s.bind((address, port))
print("ready", flush=True)
seen = {}
while True:
    data = s.recv(2048)
    if data == b"end":
        break
    if data != b"warm":
        seen[int(data)] = seen.get(int(data), 0) + 1
print(json.dumps({"distinct": len(seen), "copies": sum(seen.values()) - len(seen)}))
"""
SENDER = """
import socket, sys, time
address, port, family, gap = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
s = socket.socket(family, socket.SOCK_DGRAM)
for _ in range(3):
    s.sendto(b"warm", (address, port)); time.sleep(0.05)
print("ready", flush=True)
import select
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    s.sendto(str(number).encode(), (address, port)); number += 1
    time.sleep(gap)
time.sleep(0.1)
for _ in range(3):
    s.sendto(b"end", (address, port)); time.sleep(0.02)
print(number)
"""


class Stream:
    """A stream of numbered datagrams; leaving the context ends it and fills in ``sent``, ``received`` and ``copies``."""

    def __init__(
        self, box: Sandbox, source: str, target: str, address: str, port: int = 4000, gap: float = 0.0005
    ) -> None:
        self.sent = self.received = self.copies = -1
        family = "10" if ":" in address else "2"
        self._receiver = self._start(box, target, RECEIVER, address, str(port), family)
        self._sender = self._start(box, source, SENDER, address, str(port), family, str(gap))

    @staticmethod
    def _start(box: Sandbox, netns: str, script: str, *words: str) -> subprocess.Popen[str]:
        inside = ["ip", "netns", "exec", netns] if netns else []
        process = subprocess.Popen(
            box.command(*inside, sys.executable, "-c", script, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        return process

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: t.Any) -> None:
        try:
            told, _nothing = self._sender.communicate("\n", timeout=20)
            heard, _nothing = self._receiver.communicate(timeout=20)
            self.sent = int(told)
            answer = json.loads(heard)
            self.received, self.copies = answer["distinct"], answer["copies"]
        finally:
            for process in (self._sender, self._receiver):
                if process.poll() is None:
                    process.kill()
                    process.communicate()
