"""A model that answers every request with an endless stream of server-sent events, one chunk each `period` seconds.

The chunks of all streams are spread evenly over time. What is late is sent late and not twice: a source that cannot keep up is
slower, it does not burst.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import time
from collections import deque

from loadtests.gateway.load.descriptors import raise_limit
from loadtests.gateway.load.marks import MARK
from loadtests.waiting import HOST

_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s token"}}]}\n\n' % MARK
CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
_ACCEPTS_AT_ONCE = _SENDS_AT_ONCE = 64
"""So that a source that is behind still takes new streams."""


class Source:
    """All streams of one port."""

    def __init__(self, port: int, period_seconds: float) -> None:
        self._period = period_seconds
        self._listener = socket.create_server((HOST, port), backlog=4096)
        self._listener.setblocking(False)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._open: dict[int, socket.socket] = {}
        self._due: deque[tuple[float, int, socket.socket]] = deque()

    def run(self) -> None:
        """Until the process is told to end."""
        waited = [self._poll.fileno()]
        while True:
            now = time.perf_counter()
            for _ in range(_SENDS_AT_ONCE):
                if not self._due or self._due[0][0] > now:
                    break
                self._send(now)
                now = time.perf_counter()
            pause = self._due[0][0] - now if self._due else 1.0
            if not (ready := self._poll.poll(0)):
                select.select(waited, [], [], max(0.0, pause))
                continue
            for number, _ in ready:
                if number == self._listener.fileno():
                    self._accept()
                else:
                    self._read(number)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                made, _ = self._listener.accept()
            except BlockingIOError:
                return
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[made.fileno()] = made
            self._poll.register(made, select.EPOLLIN)

    def _read(self, number: int) -> None:
        """A request, which is small and comes in one piece or two; or the end."""
        try:
            got = os.read(number, 65536)
        except ConnectionError:
            got = b""
        made = self._open[number]
        if not got:
            self._close(made)
        elif b"\r\n\r\n" in got:
            os.write(number, _HEAD + CHUNK)
            self._due.append((time.perf_counter() + self._period, number, made))

    def _send(self, now: float) -> None:
        due, number, made = self._due.popleft()
        if self._open.get(number) is not made:
            return  # it has ended, and its number may be another's
        try:
            os.write(number, CHUNK)
        except BlockingIOError:
            pass  # who does not read gets less
        except ConnectionError:
            self._close(made)
            return
        self._due.append((max(due + self._period, now), number, made))

    def _close(self, made: socket.socket) -> None:
        self._open.pop(made.fileno(), None)
        self._poll.unregister(made)
        made.close()


def main() -> int:
    """`--port N --period SECONDS`; runs until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--period", type=float, required=True)
    options = parser.parse_args()
    raise_limit()
    Source(options.port, options.period).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
