"""HAProxy as a peer: key, split by server weights, one log line a request to a file. It has no mirror of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import KEY, LIVE_PERCENT, Work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIG = """
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
defaults
  mode http
  log global
  log-format "%Ts %ID %s %ST %U %B %Ta %Tr"
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
frontend callers
  bind 127.0.0.1:{port} backlog 4096{ssl}
  unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt%pid
  unique-id-header X-Request-Id
  http-request deny deny_status 401 unless {{ req.hdr(authorization) -m str "Bearer {key}" }}
  http-request del-header authorization
  default_backend live
backend live
  balance roundrobin
{servers}
"""


def config(port: int, work: Work, pem: Path | None) -> str:
    """What HAProxy reads. `pem`: certificate and key in one file."""
    servers = "\n".join(
        f"  server {name} 127.0.0.1:{work.models[name]} weight {weight}" for name, weight in LIVE_PERCENT.items()
    )
    ssl = f" ssl crt {pem} alpn http/1.1 ssl-min-ver TLSv1.3 no-tls-tickets" if pem else ""
    return _CONFIG.format(port=port, ssl=ssl, key=KEY, servers=servers)


@contextlib.contextmanager
def haproxy(folder: Path, port: int, work: Work, cpu: int) -> Iterator[list[int]]:
    """One HAProxy with one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    pem = None
    if work.tls:
        pem = folder / "both.pem"
        pem.touch(0o600)
        pem.write_text(work.tls.certificate.read_text() + work.tls.key.read_text())
    (folder / "haproxy.cfg").write_text(config(port, work, pem))
    with pinned(["haproxy", "-db", "-f", "haproxy.cfg"], folder, port, cpu) as pid:
        yield [pid]
