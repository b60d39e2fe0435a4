"""Which ports and paths a replica's server answers on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoscaler.backends.kubernetes.layout import SERVER_PORT
from autoscaler.backends.local.launch import Probes, probes, section


@dataclass(frozen=True, slots=True)
class Routes:
    """Of one server."""

    scoring_port: int
    readiness_port: int
    liveness_port: int
    readiness_path: str
    liveness_path: str
    probes: Probes


def routes(document: Mapping[str, Any], *, shared_port: bool) -> Routes:
    """As `environment.inference_config` says, else as Azure's server has them. `shared_port`: it has only one port."""
    config = section(document, "environment").get("inference_config") or {}
    scoring = _port(config, "scoring_route", SERVER_PORT)
    readiness, liveness = (_port(config, f"{side}_route", scoring) for side in ("readiness", "liveness"))
    if shared_port:
        readiness = liveness = scoring
    found = probes(document)
    return Routes(scoring, readiness, liveness, found.readiness_path, found.liveness_path, found)


def _port(config: Mapping[str, Any], route: str, otherwise: int) -> int:
    return int((config.get(route) or {}).get("port", otherwise))
