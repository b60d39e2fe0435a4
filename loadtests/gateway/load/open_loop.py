"""Open-loop load: requests leave at a constant rate whatever becomes of the earlier ones, and count from when they were due.

A closed loop stops asking while it waits, and so hides queueing. This one is a plain loop over epoll with waits of nanosecond
resolution (an event loop's timers are whole milliseconds). A request that finds all connections busy waits here, and its wait
counts. Run as a program it writes each latency to a file; whether it keeps up itself is told by how late requests left.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import select
import socket
import sys
import time
from array import array
from collections import deque
from pathlib import Path

from loadtests.gateway.load.answers import complete, good
from loadtests.gateway.load.priority import GENERATOR, put_first
from loadtests.gateway.peers.work import KEY
from loadtests.waiting import HOST

_PR_SET_TIMERSLACK = 29
_LEAD_SECONDS = 0.05
"""Between the connections and the first request."""
_GRACE_SECONDS = 10.0
"""After the last request, for answers that are missing."""


def request(path: str, body_bytes: int) -> bytes:
    """One POST, ready to be written."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {body_bytes}\r\n\r\n"
    )
    return head.encode() + b"x" * body_bytes


class OpenLoop:
    """`rate` requests per second for `seconds` over `connections`; times are seconds of the monotonic clock."""

    def __init__(self, port: int, asked: bytes, *, rate: float, seconds: float, connections: int) -> None:
        self.asked, self.gap, self.count = asked, 1 / rate, max(1, round(rate * seconds))
        self.latencies, self.lateness = array("d"), array("d")
        self.failed = 0
        self._sockets = {one.fileno(): one for one in (_connected(port) for _ in range(connections))}
        self._free = deque(self._sockets)
        self._due: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        self._poll = select.epoll()
        for number in self._sockets:
            self._poll.register(number, select.EPOLLIN)

    def run(self) -> None:
        """Send all of them and wait for the answers. Raises RuntimeError when a connection ends. What stays away is `missing`."""
        sent, begin = 0, time.perf_counter() + _LEAD_SECONDS
        waited = [self._poll.fileno()]
        last = begin + self.count * self.gap + _GRACE_SECONDS
        while len(self.latencies) < self.count:
            now = time.perf_counter()
            while sent < self.count and self._free and (due := begin + sent * self.gap) <= now:
                number = self._free.popleft()
                self._due[number] = due
                self.lateness.append(now - due)
                if os.write(number, self.asked) != len(self.asked):
                    raise RuntimeError("a request did not fit into the buffer of its connection")
                sent += 1
                now = time.perf_counter()
            if now > last:
                return
            pause = begin + sent * self.gap - now if sent < self.count and self._free else last - now
            if select.select(waited, (), (), max(0.0, pause))[0]:
                for number, _ in self._poll.poll(0):
                    self._read(number)

    @property
    def missing(self) -> int:
        """Answers that did not come."""
        return self.count - len(self.latencies)

    def close(self) -> None:
        """Give everything back."""
        self._poll.close()
        for one in self._sockets.values():
            one.close()

    def _read(self, number: int) -> None:
        got = os.read(number, 65536)
        now = time.perf_counter()
        if not got or number not in self._due:
            raise RuntimeError(f"a connection {'said what nobody asked for' if got else 'ended'}")
        answer = self._partial.pop(number) + got if number in self._partial else got
        if not complete(answer):
            self._partial[number] = answer
            return
        self.failed += not good(answer)
        self.latencies.append(now - self._due.pop(number))
        self._free.append(number)


def _connected(port: int) -> socket.socket:
    made = socket.create_connection((HOST, port), 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def main() -> int:
    """`--port N --path P --rate R --seconds S --connections N --body-bytes N --samples FILE [--first]`; JSON on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("port", int), ("path", str), ("rate", float), ("seconds", float), ("connections", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--first", action="store_true")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.disable()
    loop = OpenLoop(
        options.port, request(options.path, options.body_bytes),
        rate=options.rate, seconds=options.seconds, connections=options.connections,
    )  # fmt: skip
    if options.first:
        put_first([os.getpid()], GENERATOR)
    cpu = time.process_time()
    try:
        loop.run()
    finally:
        loop.close()
    with options.samples.open("wb") as file:
        loop.latencies.tofile(file)
        loop.lateness.tofile(file)
    told = {"count": loop.count, "missing": loop.missing, "failed": loop.failed}
    print(json.dumps(told | {"cpu_seconds": time.process_time() - cpu}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
