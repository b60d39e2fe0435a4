#!/usr/bin/env python3
"""Exit status 0 when a role answers: for health checks, where the image has no curl.

answers http://127.0.0.1:8080/readyz        an HTTP status below 400
answers unix:/path/to.sock /healthz         the same over a Unix socket
answers unix:/path/to.sock                  somebody accepts connections there
"""

from __future__ import annotations

import http.client
import socket
import sys
from urllib.parse import urlsplit

SECONDS = 3.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """See `http.client.HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def answers(address: str, path: str | None) -> bool:
    """Whether somebody answers at `address`. Raises OSError when nobody is there."""
    connection: http.client.HTTPConnection
    if address.startswith("unix:"):
        connection = UnixConnection(address.removeprefix("unix:"))
    else:
        url = urlsplit(address)
        connection, path = http.client.HTTPConnection(url.hostname or "", url.port, timeout=SECONDS), url.path
    try:
        connection.connect()
        if path is None:
            return True
        connection.request("GET", path)
        return connection.getresponse().status < 400
    finally:
        connection.close()


def main() -> int:
    """The command line; what went wrong goes to stderr."""
    if len(sys.argv) not in {2, 3}:
        print(__doc__, file=sys.stderr)  # noqa: T201 -- its own output
        return 2
    try:
        return 0 if answers(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None) else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)  # noqa: T201 -- its own output
        return 1


if __name__ == "__main__":
    sys.exit(main())
