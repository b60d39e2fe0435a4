"""The flags of the gateway's own limits, of tracing and of TLS, for `tidegate gateway` and for `tidegate up`, and the settings they make. Wiring only.

Defaults and reasons stand in `GatewaySettings`; a flag that is not given changes nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from router.contract.errors import InvalidSpec
from router.runtime.posting import parse_target
from router.runtime.settings import GatewaySettings


def _at_least(low: float, kind: type[int | float]) -> Any:
    def number(text: str) -> float:
        found = kind(text)
        if not low <= found < float("inf"):
            raise argparse.ArgumentTypeError(f"at least {low:g}")
        return found

    return number


_BYTES = {"k": 10, "m": 20, "g": 30, "t": 40}


def byte_count(text: str) -> int:
    """Bytes as a whole number, or with k, m, g or t behind it for powers of 1024."""
    digits, unit = text.strip().lower().removesuffix("b").removesuffix("i"), 0
    if digits[-1:] in _BYTES:
        digits, unit = digits[:-1], _BYTES[digits[-1]]
    if not digits.isascii() or not digits.isdigit():
        raise argparse.ArgumentTypeError(f"write bytes, such as 1048576 or 1m, not {text!r}")
    return int(digits) << unit


def collector(text: str) -> str:
    """Address of a collector; empty = none."""
    try:
        if not text or not parse_target(text, "otlp").path:
            return text
    except InvalidSpec:
        pass
    raise argparse.ArgumentTypeError(f"write http://host:port or https://host:port, without a path, not {text!r}")


def share(text: str) -> float:
    """A number from 0 to 1."""
    found = float(text)
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError("a share from 0 to 1")
    return found


# flag → (setting, how it is read, what stands for the value, what it does)
_LIMITS: dict[str, tuple[str, Any, str, str]] = {
    "max-connections": ("max_connections", _at_least(0, int), "N", "of each worker; 0 = what its descriptors are good for"),
    "max-connections-per-client": (
        "max_connections_per_client", _at_least(0, int), "N", "of each worker, from one address or /64 of IPv6; 0 = any"
    ),
    "max-header-bytes": ("max_head_bytes", byte_count, "BYTES", "request line and headers"),
    "max-headers": ("max_header_fields", _at_least(1, int), "N", "header fields of a request"),
    "http2-streams": ("http2_streams", _at_least(1, int), "N", "requests at once on one connection of HTTP/2"),
    "max-body-bytes": ("max_body_bytes", byte_count, "BYTES", "of a request, where its endpoint says nothing; 0 = any"),
    "max-pipelined": ("max_pipelined", _at_least(1, int), "N", "requests that wait on a connection before it is not read"),
    "header-seconds": ("header_seconds", _at_least(0.1, float), "S", "longest that a request's head may take"),
    "idle-seconds": ("idle_seconds", _at_least(0.1, float), "S", "longest that a connection may be idle"),
    "body-seconds": ("body_seconds", _at_least(0.1, float), "S", "over how long a body has to keep --min-rate"),
    "send-seconds": ("send_seconds", _at_least(0.1, float), "S", "over how long a slow reader has to keep --min-rate"),
    "memory-limit": (
        "memory_limit_bytes", byte_count, "BYTES", "of each worker; 0 = its share of the control group's limit, if there is one"
    ),
    "overload-lag": (
        "overload_lag_seconds", _at_least(0, float), "S", "how late a worker may run before it refuses requests; 0 = any"
    ),
    "min-rate": ("min_rate_bytes", byte_count, "BYTES", "per second, of bodies and of slow readers; 0 = any"),
    "zone": ("zone", str, "NAME", "where this machine stands: replicas of the same zone are preferred; TIDEGATE_ZONE says it too"),
}  # fmt: skip
_TRACING: dict[str, tuple[str, Any, str, str]] = {
    "otlp": ("otlp", collector, "URL", "collector that gets OpenTelemetry's spans (OTLP over HTTP), http[s]://host:port"),
    "trace-sample": ("trace_share", share, "SHARE", "of requests whose caller does not say whether they are traced, 0 to 1"),
}  # fmt: skip
_GROUPS = {"limits of the gateway (docs/gateway.md)": _LIMITS, "tracing (docs/observability.md)": _TRACING}
_FLAGS = {**_LIMITS, **_TRACING}


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    defaults = {one.name: one.default for one in fields(GatewaySettings)}
    defaults["zone"] = os.environ.get("TIDEGATE_ZONE", "")
    for title, flags in _GROUPS.items():
        group = parser.add_argument_group(title)
        for flag, (setting, read, stands, words) in flags.items():
            default = defaults[setting]
            group.add_argument(
                f"--{flag}",
                dest=setting,
                type=read,
                default=default,
                metavar=stands,
                help=f"{words} (default: {'none' if default == '' else '%(default)s'})",
            )


def limit_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `GatewaySettings`."""
    return {setting: getattr(flags, setting) for setting, *_ in _FLAGS.values()}


def limits_passed_on(flags: argparse.Namespace) -> tuple[str, ...]:
    """The words that give a worker the same."""
    return tuple(f"--{flag}={getattr(flags, setting)}" for flag, (setting, *_) in _FLAGS.items())


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """What switches TLS on. Paths are made absolute: a role has a working folder of its own."""
    add = parser.add_argument
    add(
        "--tls-cert",
        type=_absolute,
        default="",
        metavar="FILE",
        help="speak TLS with this certificate (PEM, with those that vouch for it)",
    )
    add("--tls-key", type=_absolute, default="", metavar="FILE", help="its private key (PEM, without a password)")
    add(
        "--tls-dir",
        type=_absolute,
        default="",
        metavar="DIR",
        help="further certificates, each for the names in it: NAME.crt with NAME.key, or NAME/tls.crt with NAME/tls.key; files "
        "are looked at every second, and new ones taken without ending a connection",
    )


def _absolute(text: str) -> str:
    return str(Path(text).expanduser().absolute()) if text else ""


def add_replica_arguments(parser: argparse.ArgumentParser) -> None:
    """How replicas are known that speak TLS (`tidegate: {scheme: https}`), and what they are shown."""
    add = parser.add_argument
    add(
        "--replica-ca",
        type=_absolute,
        default="",
        metavar="FILE",
        help="authorities (PEM) that vouch for replicas that speak TLS (default: the system's)",
    )
    add("--replica-cert", type=_absolute, default="", metavar="FILE", help="certificate (PEM) that they are shown")
    add("--replica-key", type=_absolute, default="", metavar="FILE", help="its private key (PEM, without a password)")


_REPLICAS = ("replica_ca", "replica_cert", "replica_key")


def replica_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `GatewaySettings` and `MirrorSettings`."""
    return {setting: getattr(flags, setting) for setting in _REPLICAS}


def replicas_passed_on(flags: argparse.Namespace) -> tuple[str, ...]:
    """The words that give a worker or a mirror the same."""
    return _given(replica_settings(flags))


def _given(settings: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"--{setting.replace('_', '-')}={value}" for setting, value in settings.items() if value)


_TLS = ("tls_cert", "tls_key", "tls_dir")


def tls_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `GatewaySettings`."""
    return {setting: getattr(flags, setting) for setting in _TLS}


def tls_passed_on(flags: argparse.Namespace) -> tuple[str, ...]:
    """The words that give a worker the same."""
    return _given(tls_settings(flags))
