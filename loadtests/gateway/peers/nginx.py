"""nginx as a peer and as the model: one process, its files in a folder of its own.

As a peer it splits by `split_clients`, checks the key by `map`, writes a buffered access log and, when asked, mirrors by
`mirror` with `split_clients` for the percentage. Its mirror reads the whole body first and holds the connection until the
shadow has ended.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import KEY, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FRAME = """
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 20000;
pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_body_buffer_size {body_buffer}; client_max_body_size 64m;
  keepalive_requests 100000000; keepalive_timeout 600s;
{body}
}}
"""

_MODEL = """
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type application/json; return 200 '{{"prediction":[0.12,0.88],"model":"m"}}'; }}
  }}
"""

_PROXY = """
  split_clients $request_id $live {{ 90% blue; * green; }}
  split_clients $request_id$msec $shadow {{ 10% 1; * 0; }}
  map $http_authorization $allowed {{ default 0; "Bearer {key}" 1; }}
  upstream blue {{ server 127.0.0.1:{blue}; keepalive 128; keepalive_requests 100000000; }}
  upstream green {{ server 127.0.0.1:{green}; keepalive 128; keepalive_requests 100000000; }}
  upstream candidate {{ server 127.0.0.1:{candidate}; keepalive 128; keepalive_requests 100000000; }}
  log_format event '$msec $request_id $live $status $request_length $bytes_sent $request_time $upstream_response_time';
  {tls}
  server {{
    listen 127.0.0.1:{port} backlog=4096{ssl};
    access_log {folder}/events.log event buffer=64k flush=1s;
    location / {{
      if ($allowed = 0) {{ return 401; }}
      {mirror}
      {streaming}
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "";
      proxy_set_header X-Request-Id $request_id; proxy_pass http://$live;
    }}
    location = /mirror {{
      internal;
      if ($shadow = 0) {{ return 204; }}
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "";
      proxy_pass http://candidate$request_uri;
    }}
  }}
"""
_TLS = "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_session_tickets off;"


@contextlib.contextmanager
def nginx(
    folder: Path, port: int, body: str, cpu: int | None, *, body_buffer: str = "64k", output: str = "nginx.conf"
) -> Iterator[list[int]]:
    """One nginx process with `body` as its http block, pinned to core `cpu`; yields its process ids."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / output
    config.write_text(_FRAME.format(folder=folder, body=body, body_buffer=body_buffer))
    command = ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with pinned(command, folder, port, cpu) as pid:
        yield [pid]


def model_body(port: int) -> str:
    """A model that answers at once: what remains is the proxy's own cost."""
    return _MODEL.format(port=port)


def proxy_body(
    folder: Path, port: int, models: Mapping[str, int], key: str, *, mirror: bool, work: Work | None = None
) -> str:
    """Split 90/10, bearer key, one access-log line a request and, with `mirror`, 10 % to the candidate."""
    directive = "mirror /mirror; mirror_request_body on;" if mirror else ""
    tls, streaming = (work.tls, work.streaming) if work else (None, False)
    return _PROXY.format(
        folder=folder, port=port, key=key, mirror=directive, **models,
        tls=_TLS.format(certificate=tls.certificate, key=tls.key) if tls else "", ssl=" ssl" if tls else "",
        streaming="proxy_request_buffering off; proxy_buffering off;" if streaming else "",
    )  # fmt: skip


@contextlib.contextmanager
def nginx_proxy(folder: Path, port: int, work: Work, cpu: int) -> Iterator[list[int]]:
    """nginx as `work` says; what is not streamed is gathered in memory up to 512 KB."""
    body = proxy_body(folder, port, work.models, KEY, mirror=work.mirror, work=work)
    with nginx(folder, port, body, cpu, body_buffer="64k" if work.streaming else "512k") as pids:
        yield pids
