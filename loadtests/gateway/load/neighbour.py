"""Load that an endpoint's neighbours bear: requests of one kind at a constant mean rate, whatever becomes of them.

They leave by chance, independently of one another (exponential gaps): a rhythm of its own would meet the other load's always or never.
Connections are made when none is free, up to a bound; one that the gateway ends is made anew. Driven by lines on standard input:
each starts it, and the next one stops it and asks for the account. Ends with its input.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass

from loadtests.gateway.load.answers import complete
from loadtests.gateway.load.open_loop import request
from loadtests.waiting import HOST

_LONGEST_WAIT = 0.05
"""Seconds between two looks at standard input."""
_MOST_BEHIND = 0.1
"""Seconds of requests that are made up for; what is further behind never leaves."""
_PIECE = 65536
"""Bytes of a write. The kernel does not leave off amid one, whoever waits for the processor: of 5 MB that would be a millisecond."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of one run."""

    sent: int
    skipped: int
    """Requests that found all connections taken, or were too late to be sent at all."""
    statuses: dict[str, int]
    """Status → answers."""


class _Connection:
    """One, with a request under way or none."""

    __slots__ = ("answer", "socket", "unsent")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.unsent = memoryview(b"")
        self.answer = b""


class Neighbour:
    """`rate` requests per second over at most `connections`."""

    def __init__(self, port: int, asked: bytes, *, rate: float, connections: int, seed: int = 1) -> None:
        self._port, self._asked, self._rate, self._most = port, memoryview(asked), rate, connections
        self._chance = random.Random(seed)
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._free: deque[int] = deque()
        self._sent = self._skipped = 0
        self._statuses: Counter[int] = Counter()
        self._due = time.perf_counter()

    def answered(self, status: int) -> int:
        """How often this status has been answered."""
        return self._statuses[status]

    def turn(self) -> None:
        """Send what is due and read what has come, waiting for a moment when there is neither."""
        now = time.perf_counter()
        if now - self._due > _MOST_BEHIND:
            late = round((now - self._due) * self._rate)
            self._skipped += late
            self._due += late / self._rate
        while self._due <= now:
            self._due += self._chance.expovariate(self._rate)
            self._send()
        wait = min(_LONGEST_WAIT, max(0.0, self._due - time.perf_counter()))
        if not select.select((self._poll.fileno(),), (), (), wait)[0]:
            return
        for number, events in self._poll.poll(0):
            connection = self._open.get(number)
            if connection is None:
                continue
            if events & select.EPOLLOUT and self._write(number, connection):
                self._poll.modify(number, select.EPOLLIN)
            if events & ~select.EPOLLOUT and number in self._open:
                self._read(number, connection)

    def stop(self) -> Account:
        """Break everything off; what became of it."""
        for number in list(self._open):
            self._end(number)
        self._free.clear()
        return Account(self._sent, self._skipped, {str(status): count for status, count in self._statuses.items()})

    def close(self) -> None:
        """Give everything back."""
        self.stop()
        self._poll.close()

    def _send(self) -> None:
        if self._free:
            number = self._free.popleft()
        elif len(self._open) < self._most:
            made = _Connection(self._port)
            number = made.socket.fileno()
            self._open[number] = made
            self._poll.register(number, select.EPOLLIN)
        else:
            self._skipped += 1
            return
        self._sent += 1
        connection = self._open[number]
        connection.unsent, connection.answer = self._asked, b""
        if not self._write(number, connection) and number in self._open:
            self._poll.modify(number, select.EPOLLIN | select.EPOLLOUT)

    def _write(self, number: int, connection: _Connection) -> bool:
        """Send what fits; whether that was all of it."""
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[os.write(number, connection.unsent[:_PIECE]) :]
        except BlockingIOError:
            return False
        except ConnectionError:
            self._end(number)
            return False
        return not connection.unsent

    def _read(self, number: int, connection: _Connection) -> None:
        try:
            got = os.read(number, 65536)
        except ConnectionError:
            got = b""
        if not got:
            self._end(number)
            return
        connection.answer += got
        if not complete(connection.answer):
            return
        self._statuses[int(connection.answer[9:12])] += 1
        if connection.unsent or b"\r\nconnection: close\r\n" in connection.answer:
            self._end(number)
        else:
            self._free.append(number)

    def _end(self, number: int) -> None:
        self._poll.unregister(number)
        self._open.pop(number).socket.close()
        if number in self._free:
            self._free.remove(number)


def asked(path: str, body_bytes: int, head_bytes: int) -> bytes:
    """One request whose head has about `head_bytes`, where that is more than it needs."""
    plain = request(path, body_bytes)
    missing = head_bytes - plain.index(b"\r\n\r\n") - len(b"X-Filler: \r\n")
    return plain if missing <= 0 else plain.replace(b"\r\n", b"\r\nX-Filler: " + b"a" * missing + b"\r\n", 1)


def main() -> int:
    """`--port N --path P --rate R --connections N --body-bytes N --head-bytes N --until STATUS`.

    Says `there` once STATUS has been answered, and the account as JSON when it is stopped.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("port", int), ("path", str), ("rate", float), ("connections", int), ("body-bytes", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--head-bytes", type=int, default=0)
    parser.add_argument("--until", type=int, default=200)
    options = parser.parse_args()
    gc.disable()
    raw = asked(options.path, options.body_bytes, options.head_bytes)
    while os.read(0, 1):
        one = Neighbour(options.port, raw, rate=options.rate, connections=options.connections)
        try:
            told = False
            while not select.select([0], [], [], 0)[0]:
                one.turn()
                if not told and one.answered(options.until):
                    told = True
                    print("there", flush=True)
            if not os.read(0, 1):
                return 0
            print(json.dumps(asdict(one.stop())), flush=True)
        finally:
            one.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
