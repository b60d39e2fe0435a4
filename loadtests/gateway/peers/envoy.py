"""Envoy as a peer: one worker thread, the key as a condition of the route, weighted clusters, a mirror policy, an access log."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import KEY, LIVE_PERCENT, MIRROR_PERCENT, Work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EXTENSION = "type.googleapis.com/envoy.extensions"
_MANAGER = f"{_EXTENSION}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_EXTENSION}.filters.http.router.v3.Router"
_FILE_LOG = f"{_EXTENSION}.access_loggers.file.v3.FileAccessLog"
_TLS = f"{_EXTENSION}.transport_sockets.tls.v3.DownstreamTlsContext"
_FORMAT = (
    "%START_TIME% %REQ(X-REQUEST-ID)% %UPSTREAM_CLUSTER% %RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% %DURATION%\n"
)
_MANY = 100_000
"""Of everything that circuit breakers count: what they would break is not what is measured."""


def config(folder: Path, port: int, work: Work) -> dict[str, Any]:
    """The whole of Envoy's bootstrap."""
    listener: dict[str, Any] = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _manager(folder, work)}]}],
    }
    if work.tls:
        pair = {"certificate_chain": _file(work.tls.certificate), "private_key": _file(work.tls.key)}
        versions = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
        context = {"tls_params": versions, "tls_certificates": [pair], "alpn_protocols": ["http/1.1"]}
        chain = listener["filter_chains"][0]
        chain["transport_socket"] = {
            "name": "tls", "typed_config": {"@type": _TLS, "common_tls_context": context, "disable_stateless_session_resumption": True},
        }  # fmt: skip
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(*one) for one in work.models.items()]}}


def _manager(folder: Path, work: Work) -> dict[str, Any]:
    forward: dict[str, Any] = {
        "timeout": "0s",
        "weighted_clusters": {"clusters": [{"name": name, "weight": weight} for name, weight in LIVE_PERCENT.items()]},
    }
    if work.mirror:
        fraction = {"default_value": {"numerator": MIRROR_PERCENT, "denominator": "HUNDRED"}}
        forward["request_mirror_policies"] = [{"cluster": "candidate", "runtime_fraction": fraction}]
    authorized = {"name": "authorization", "string_match": {"exact": f"Bearer {KEY}"}}
    routes = [
        {
            "match": {"prefix": "/", "headers": [authorized]},
            "route": forward,
            "request_headers_to_remove": ["authorization"],
        },
        {"match": {"prefix": "/"}, "direct_response": {"status": 401}},
    ]
    log = {
        "@type": _FILE_LOG,
        "path": str(folder / "events.log"),
        "log_format": {"text_format_source": {"inline_string": _FORMAT}},
    }
    return {
        "@type": _MANAGER,
        "stat_prefix": "callers",
        "access_log": [{"name": "file", "typed_config": log}],
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER, "suppress_envoy_headers": True}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "stream_idle_timeout": "600s",
    }  # fmt: skip


def _cluster(name: str, port: int) -> dict[str, Any]:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path)}


@contextlib.contextmanager
def envoy(program: Path, folder: Path, port: int, work: Work, cpu: int) -> Iterator[list[int]]:
    """`program` with one worker thread beside its main thread, both on core `cpu`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "envoy.json"
    file.write_text(json.dumps(config(folder, port, work)))
    command = [str(program), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    with pinned(command, folder, port, cpu) as pid:
        yield [pid]
