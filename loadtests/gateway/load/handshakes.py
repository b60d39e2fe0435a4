"""TLS 1.3 handshakes, each with a connection of its own, one request on it, and no session resumed.

Some are under way at once: one by one, the server would wait for this program most of the time, and on a busy machine find its
caches cold each time it is asked.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from loadtests.gateway.load.answers import complete, good
from loadtests.gateway.peers.work import KEY
from loadtests.waiting import HOST


def context() -> ssl.SSLContext:
    """Takes any certificate: what is measured is the server."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


def once(port: int, asked: bytes, client: ssl.SSLContext) -> None:
    """Connect, ask once, close. Raises RuntimeError when the answer is no 200."""
    with socket.create_connection((HOST, port), 20) as plain, client.wrap_socket(plain, server_hostname=HOST) as secure:
        secure.sendall(asked)
        answer = b""
        while not answer or not complete(answer):
            if not (got := secure.recv(65536)):
                break
            answer += got
    if not good(answer):
        raise RuntimeError(f"answered {answer[:100]!r}")


def again(port: int, asked: bytes, client: ssl.SSLContext, ends: float) -> int:
    """One after another until the monotonic time `ends`; returns how many. Raises what `once` raises."""
    done = 0
    while time.monotonic() < ends:
        once(port, asked, client)
        done += 1
    return done


def main() -> int:
    """`--port N --path P --seconds S --at-once N`; {"handshakes": n} on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    options = parser.parse_args()
    asked = (
        f"POST {options.path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    ).encode()
    client, ends = context(), time.monotonic() + options.seconds
    with ThreadPoolExecutor(options.at_once) as pool:
        runs = [pool.submit(again, options.port, asked, client, ends) for _ in range(options.at_once)]
        print(json.dumps({"handshakes": sum(run.result() for run in runs)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
