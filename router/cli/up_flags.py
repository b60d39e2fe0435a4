"""The flags of `tidegate up`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from router.app import default_data
from router.compute import add_backend_arguments, add_object_arguments
from router.gateway_flags import add_limit_arguments, add_replica_arguments, add_tls_arguments
from router.runtime.settings import default_cache


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def count(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def port(text: str) -> int:
    """A TCP port; 0 = any free one."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("a port from 0 to 65535")
    return number


def file(text: str) -> Path:
    """A path of a file; standard output belongs to `up` itself."""
    if text == "-":
        raise argparse.ArgumentTypeError("name a file; standard output has the words of `up`")
    return Path(text)


def add_up_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything has a default that works on one machine."""
    add = parser.add_argument
    data, cache = default_data(), default_cache()
    add("--data", type=Path, default=data, metavar="DIR", help="where everything is kept (default: %(default)s)")
    add("--host", default="127.0.0.1", help="address the gateway listens on (default: %(default)s)")
    add("--port", type=port, default=8080, help="port of the gateway; 0 = any free one (default: %(default)s)")
    add("--control-host", default="127.0.0.1", help="address of the control plane; where other machines "
        "reach it, TIDEGATE_CONTROL_TOKEN_FILE must name a file with a token, and TIDEGATE_ASSETS_KEY_FILE one with a key if "
        "pods are to fetch files there (default: %(default)s)")  # fmt: skip
    add("--control-port", type=port, default=8081, help="port of the control plane (default: %(default)s)")
    add(
        "--gateway-url",
        metavar="URL",
        help="how clients reach the gateway; base of scoring URIs (default: its address)",
    )
    add(
        "--log",
        metavar="URL",
        help="the log's address: embedded:DIR, or kafka://host:port[/prefix] with secrets in TIDEGATE_KAFKA_* "
        "(default: embedded:DIR/log)",
    )
    add(
        "--workers",
        type=count,
        default=cores(),
        metavar="N",
        help="gateway processes (default: one per core, %(default)s)",
    )
    add("--domain", default="localhost", help="endpoints answer at <endpoint>.DOMAIN too (default: %(default)s)")
    add("--cache", type=Path, default=cache, metavar="DIR", help="built environments (default: %(default)s)")
    add(
        "--access-log",
        type=file,
        metavar="FILE",
        help="append a line of JSON for every finished request (docs/observability.md)",
    )
    add("--drain-seconds", type=float, default=30.0, metavar="S", help="longest wait for open exchanges at the end")
    add_limit_arguments(parser)
    add_tls_arguments(parser)
    add_replica_arguments(parser)
    add_backend_arguments(parser)
    add_object_arguments(parser, alone=False)
