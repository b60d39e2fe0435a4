"""Many connections, each with one request whose answer may never end; they are held, and read only now and then.

So the clients cost the machine next to nothing, and what a proxy does for each chunk is what is measured: the kernel keeps the
bytes meanwhile. Driven by lines on standard input: each asks for an account, which is one line of JSON. Ends with its input.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
from dataclasses import asdict, dataclass

from loadtests.gateway.load.descriptors import raise_limit
from loadtests.gateway.load.marks import MARK
from loadtests.gateway.load.open_loop import request
from loadtests.waiting import HOST

_IP_BIND_ADDRESS_NO_PORT = 24
"""Linux's: the port is chosen when it is known for whom, so that an address has as many as it can."""
_AT_ONCE = 64
"""Requests that may wait for the first byte of their answer while further connections are made."""
_READ_SECONDS = 0.5
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the connections so far."""

    answered: int
    """Connections that got bytes."""
    marks: int
    """Of all of them."""
    least: int
    """Marks of the open connection that got fewest."""
    ended: int
    unanswered: int
    """Of those that ended: without a byte."""
    refused: int
    """Answers that are no 200."""


class Clients:
    """`count` connections from `address`."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._marks: dict[int, int] = {}
        """Of the open ones that have been answered."""
        self._ended = self._unanswered = self._refused = self._answered = self._total = 0

    def open(self, count: int, port: int, path: str, address: str) -> None:
        """Make all of them, and wait until each has the first bytes of its answer. Raises TimeoutError."""
        asked = request(path, 256)
        for number in range(count):
            made = socket.socket()
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            made.bind((address, 0))
            made.connect((HOST, port))
            made.sendall(asked)
            made.setblocking(False)
            self._open[made.fileno()] = made
            self._poll.register(made, select.EPOLLIN)
            self._wait(number + 1 - _AT_ONCE)
        self._wait(count)

    def _wait(self, count: int) -> None:
        """Until so many are answered or over."""
        while self._answered + self._unanswered < count:
            ready = self._poll.poll(_ANSWER_SECONDS, _AT_ONCE)
            if not ready:
                raise TimeoutError(f"{self.account()}, and nothing comes for {_ANSWER_SECONDS:g} s")
            for number, _ in ready:
                self._read(number)

    def drain(self) -> None:
        """Read everything that is there."""
        while ready := self._poll.poll(0, 4096):
            for number, _ in ready:
                self._read(number)

    def _read(self, number: int) -> None:
        try:
            got = os.read(number, 1 << 18)
        except ConnectionError:
            got = b""
        if not got:
            self._ended += 1
            self._unanswered += number not in self._marks
            self._marks.pop(number, None)
            self._poll.unregister(number)
            self._open.pop(number).close()
            return
        if number not in self._marks:
            self._answered += 1
            self._refused += not got.startswith(b"HTTP/1.1 200")
        marks = got.count(MARK)
        self._marks[number] = self._marks.get(number, 0) + marks
        self._total += marks

    def account(self) -> Account:
        """Now."""
        least = min(self._marks.values(), default=0)
        return Account(self._answered, self._total, least, self._ended, self._unanswered, self._refused)

    def close(self) -> None:
        """All at once."""
        self._poll.close()
        for one in self._open.values():
            one.close()


def main() -> int:
    """`--port N --path P --count N [--address 127.0.0.x]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--address", default=HOST)
    options = parser.parse_args()
    raise_limit()
    clients = Clients()
    try:
        clients.open(options.count, options.port, options.path, options.address)
        _tell(clients)
        while True:
            asked, _, _ = select.select([0], [], [], _READ_SECONDS)
            clients.drain()
            if asked:
                if not os.read(0, 1):
                    return 0
                _tell(clients)
    finally:
        clients.close()


def _tell(clients: Clients) -> None:
    print(json.dumps(asdict(clients.account())), flush=True)


if __name__ == "__main__":
    sys.exit(main())
