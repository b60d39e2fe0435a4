"""What the soak deploys: six endpoints and their documents, in Azure's words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from loadtests.soak import sockets, sticky, streams

MODEL = Path(__file__).parent / "model"
REPLICAS = {
    "mix": {"blue": 2, "green": 2, "twin": 1, "rough": 1},
    "split": {"red": 1, "violet": 1, "yellow": 1},
    sticky.ENDPOINT: {"one": 1, "other": 1},
    "sleepy": {"lazy": 1},
    sockets.ENDPOINT: {"socket": 2},
    streams.CALLS: {"grpc": 2},
}
TRAFFIC = {
    "mix": {"blue": 60, "green": 40},
    "split": {"red": 50, "violet": 20, "yellow": 30},
    sticky.ENDPOINT: {"one": 70, "other": 30},
    "sleepy": {"lazy": 100},
    sockets.ENDPOINT: {"socket": 100},
    streams.CALLS: {"grpc": 100},
}


def document(endpoint: str, name: str, turn_seconds: float) -> dict[str, Any]:
    """Of one deployment."""
    route, probe = {"path": "/ready", "port": 8000}, {"period": 2, "timeout": 20, "failure_threshold": 10}
    environment = {"MODEL_NAME": name, "MODEL_ENDPOINT": endpoint}
    if name == "rough":
        environment |= {"HOSTILE": "1", "TURN_SECONDS": f"{turn_seconds:g}"}
    extras: dict[str, Any] = {
        "command": ["python", "serve.py", "--host", "{host}", "--port", "{port}"],
        "drain_seconds": 60,
    }
    if endpoint == "sleepy":
        extras |= {"min_instances": 0, "idle_seconds": 2}
    if endpoint == sockets.ENDPOINT:
        extras |= {"drain_seconds": 10}  # WebSockets that live longer are sent away
    if endpoint == streams.CALLS:
        # With our own interpreter: it has h2.
        extras |= {"protocol": "http2", "command": [sys.executable, "calls.py", "--host", "{host}", "--port", "{port}"]}
    return {
        "name": name,
        "endpoint_name": endpoint,
        "code_configuration": {"code": str(MODEL), "scoring_script": "serve.py"},
        "environment": {
            "inference_config": {"liveness_route": route, "readiness_route": route, "scoring_route": {**route, "path": "/score"}}
        },
        "environment_variables": environment,
        "instance_type": "Standard_F2s_v2",
        "instance_count": REPLICAS.get(endpoint, {}).get(name, 1),
        "liveness_probe": probe,
        "readiness_probe": probe,
        "request_settings": {
            "max_concurrent_requests_per_instance": 200,
            "request_timeout_ms": 60000,
            "max_queue_wait_ms": 60000,
        },
        "tidegate": extras,
    }  # fmt: skip
