"""nginx as a peer and as the model: started on free ports in a folder of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.measure import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRAME = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_body_buffer_size 64k; keepalive_requests 100000000; keepalive_timeout 600s;
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
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    access_log {folder}/events.log event buffer=64k flush=1s;
    location / {{
      if ($allowed = 0) {{ return 401; }}
      {mirror}
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


def wait_for_port(port: int, seconds: float = 20) -> None:
    """Return when something accepts on `port`; raise TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {seconds:g} s")


@contextlib.contextmanager
def nginx(folder: Path, port: int, body: str, cpu: int) -> Iterator[list[int]]:
    """One nginx process with `body` as its http block, pinned to core `cpu`; yields its process ids."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(_FRAME.format(folder=folder, body=body))
    command = [
        "taskset",
        "-c",
        str(cpu),
        "nginx",
        "-p",
        str(folder),
        "-c",
        str(config),
        "-e",
        str(folder / "error.log"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield descendants(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def model_body(port: int) -> str:
    """A model that answers at once: what remains is the proxy's own cost."""
    return _MODEL.format(port=port)


def proxy_body(folder: Path, port: int, models: dict[str, int], key: str, *, mirror: bool) -> str:
    """Split 90/10, bearer key, one access-log line a request and, with `mirror`, 10 % to the candidate."""
    directive = "mirror /mirror; mirror_request_body on;" if mirror else ""
    return _PROXY.format(folder=folder, port=port, key=key, mirror=directive, **models)
