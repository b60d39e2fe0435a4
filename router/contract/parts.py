"""The sections of endpoint and deployment documents as values, each valid by itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.contract.choosing import Affinity, Hedging
from router.contract.errors import Problem
from router.contract.frozen import FrozenMap
from router.contract.limits import Limits, Priorities
from router.contract.quantities import quantity
from router.contract.rules import NAME, Pattern, field_rules, freeze_fields, matching, ranged, refuse, rule

_ROUTE = Pattern(re.compile("/[!-~]*"), "a path that starts with / and has no blanks")


@dataclass(frozen=True, slots=True)
class MirrorTarget:
    """A share of the live requests that is copied to one deployment."""

    deployment: str = matching(NAME)
    fraction: float = ranged(0, 1, open_low=True)
    """0 < fraction <= 1 of the live requests."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "deployment", self.deployment.lower())
        refuse(*field_rules(self))


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Which part of a request keeps a caller on one deployment."""

    by: str
    """`header`, `cookie` or `client`."""
    name: str = ""
    """The header's or cookie's name; empty for `client`."""

    def __post_init__(self) -> None:
        known = self.by in ("header", "cookie", "client")
        needed = "the header's or cookie's name; none when sticking by client"
        refuse(
            rule(known, "by", "one of header, cookie, client", self.by),
            rule(not known or (self.by == "client") == (self.name == ""), "name", needed, self.name or None),
        )


@dataclass(frozen=True, slots=True)
class WebSocket:
    """Limits of the endpoint's WebSocket connections."""

    idle_seconds: float = ranged(0, 30 * 86_400, 600)
    """Without a message in either direction for this long, the connection is closed; 0 = never."""
    ping_seconds: float = ranged(0, 86_400, 30)
    """A side that is silent this long is sent a ping, and is dead when it stays silent as long again; 0 = no pings."""
    max_message_bytes: int = ranged(125, 1 << 40, 16 << 20)
    """Of one message in either direction, as it travels: compressed, where the two ends have agreed on that."""
    max_seconds: float = ranged(0, 30 * 86_400, 0)
    """Longest life of a connection; 0 = no limit."""

    def __post_init__(self) -> None:
        refuse(*field_rules(self))


@dataclass(frozen=True, slots=True)
class EndpointExtras:
    """The endpoint's `tidegate:` section."""

    mirror: tuple[MirrorTarget, ...] = ()
    """Any number of targets, any fraction; instead of (not beside) `mirror_traffic`."""
    stickiness: Stickiness | None = None
    limits: Limits | None = None
    priorities: Priorities | None = None
    hosts: tuple[str, ...] = ()
    """Host names, in lower case and without port, that lead to this endpoint besides `<endpoint>.<domain>`."""
    server_timing: bool = False
    """Answers tell in `Server-Timing` where their time went."""
    websocket: WebSocket = field(default_factory=WebSocket)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mirror", tuple(self.mirror))
        object.__setattr__(self, "hosts", tuple(host.lower() for host in self.hosts))
        seen: set[str] = set()
        problems: list[Problem | None] = []
        for index, target in enumerate(self.mirror):
            twice = "this deployment is mirrored to already"
            problems.append(rule(target.deployment not in seen, f"mirror.{index}.deployment", twice, target.deployment))
            seen.add(target.deployment)
        for index, host in enumerate(self.hosts):
            allowed = "a host name without scheme, port or path"
            problems.append(rule(_is_host(host), f"hosts.{index}", allowed, host))
        refuse(*problems)


@dataclass(frozen=True, slots=True)
class Identity:
    """The managed identity that replicas of the endpoint act as."""

    type: str = "system_assigned"
    user_assigned_identities: tuple[str, ...] = ()
    """Resource ids."""

    def __post_init__(self) -> None:
        user = self.type == "user_assigned"
        ids = self.user_assigned_identities
        refuse(
            rule(user or self.type == "system_assigned", "type", "one of system_assigned, user_assigned", self.type),
            rule(user == bool(ids), "user_assigned_identities", "needed for type user_assigned, and only for it"),
        )


@dataclass(frozen=True, slots=True)
class CodeConfiguration:
    """Where the scoring code is. `code` is a directory, `scoring_script` a file in it with `init()` and `run()`."""

    code: str
    scoring_script: str

    def __post_init__(self) -> None:
        inside = not self.scoring_script.startswith("/") and ".." not in self.scoring_script.split("/")
        allowed = "a file inside the code folder, as a path from there"
        refuse(
            rule(self.code != "", "code", "a folder"),
            rule(inside and self.scoring_script != "", "scoring_script", allowed, self.scoring_script),
        )


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP route of a model server."""

    path: str = matching(_ROUTE)
    port: int = ranged(1, 65535)

    def __post_init__(self) -> None:
        refuse(*field_rules(self))


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """The routes of a custom deployment's own server."""

    liveness_route: Route
    readiness_route: Route
    scoring_route: Route


@dataclass(frozen=True, slots=True)
class Build:
    """A Docker build context that makes the environment's image."""

    path: str
    dockerfile_path: str = "Dockerfile"


@dataclass(frozen=True, slots=True)
class Environment:
    """What a replica needs installed: an image, a conda file, or the name of a registered environment."""

    name: str | None = None
    version: str | None = None
    reference: str | None = None
    """`azureml:<name>:<version>` where the document names a registered environment."""
    image: str | None = None
    conda_file: str | None = None
    """Path of a conda YAML or a pip requirements file."""
    inference_config: InferenceConfig | None = None
    build: Build | None = None
    os_type: str = "linux"
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=FrozenMap)
    properties: Mapping[str, str] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        freeze_fields(self)
        both = "either build or image, not both"
        system = "one of linux, windows"
        refuse(
            _reference_rule(self, "image", "conda_file", "build", "inference_config", "name"),
            rule(self.build is None or self.image is None, "build", both),
            rule(self.os_type in ("linux", "windows"), "os_type", system, self.os_type),
        )


@dataclass(frozen=True, slots=True)
class Model:
    """The model's files: a registered name, or a path on disk."""

    reference: str | None = None
    """`azureml:<name>:<version>`."""
    name: str | None = None
    version: str | None = None
    path: str | None = None
    type: str | None = None
    """`custom_model`, `mlflow_model` or `triton_model`."""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=FrozenMap)
    properties: Mapping[str, str] = field(default_factory=FrozenMap)
    flavors: Mapping[str, Any] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        freeze_fields(self)
        types = ("custom_model", "mlflow_model", "triton_model")
        refuse(
            _reference_rule(self, "path"),
            rule(self.path != "", "path", "a file or folder", self.path),
            rule(self.type in (None, *types), "type", f"one of {', '.join(types)}", self.type),
        )


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """Azure's defaults. The gateway enforces all three on both backends."""

    request_timeout_ms: int = ranged(1, 300_000, 5000)
    """Up to Azure's larger maximum (Kubernetes, 300 s) on both backends."""
    max_concurrent_requests_per_instance: int = ranged(1, 100_000, 1)
    max_queue_wait_ms: int = ranged(0, 300_000, 500)

    def __post_init__(self) -> None:
        refuse(*field_rules(self))


@dataclass(frozen=True, slots=True)
class Probe:
    """Azure's defaults; seconds."""

    initial_delay: float = ranged(0, 86_400, 10)
    period: float = ranged(0.05, 86_400, 10)
    timeout: float = ranged(0.05, 86_400, 2)
    success_threshold: int = ranged(1, 1000, 1)
    failure_threshold: int = ranged(1, 100_000, 30)

    def __post_init__(self) -> None:
        refuse(*field_rules(self))


GPU = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities as written: cpu, memory, nvidia.com/gpu."""

    requests: Mapping[str, str] = field(default_factory=FrozenMap)
    limits: Mapping[str, str] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        freeze_fields(self)
        problems: list[Problem | None] = []
        for side in ("requests", "limits"):
            for name, amount in getattr(self, side).items():
                allowed = "a Kubernetes quantity, such as 500m, 2 or 4Gi"
                problems.append(rule(_is_quantity(amount), f"{side}.{name}", allowed, amount))
        problems.append(rule(GPU not in self.requests, f"requests.{GPU}", "GPUs are asked for in limits only"))
        if not any(problems):
            for name, limit in self.limits.items():
                requested = self.requests.get(name, "0")
                allowed = f"at least what is requested, {requested}"
                problems.append(rule(quantity(limit) >= quantity(requested), f"limits.{name}", allowed, limit))
        given = bool(self.requests or self.limits)
        least = "is required where resources are given"
        needed = [rule(not given or one in self.requests, f"requests.{one}", least) for one in ("cpu", "memory")]
        refuse(*problems, *needed)


@dataclass(frozen=True, slots=True)
class Slo:
    """What the deployment promises; the autoscaler's yardstick."""

    latency_ms: float = ranged(0.1, 3_600_000)
    percentile: float = ranged(0, 100, 99, open_low=True, open_high=True)

    def __post_init__(self) -> None:
        refuse(*field_rules(self))


@dataclass(frozen=True, slots=True)
class DeploymentExtras:
    """The deployment's `tidegate:` section."""

    backend: str | None = None
    """`local`, `ray` or `kubernetes`; by default the kind of the document decides."""
    min_instances: int | None = ranged(0, 100_000, None)
    """Overrides the lower bound of the scale settings; 0 allows scale to zero."""
    max_instances: int | None = ranged(1, 100_000, None)
    idle_seconds: float = ranged(0.1, 30 * 86_400, 300)
    """Without a request for this long, a deployment that may go to zero goes to zero."""
    slo: Slo | None = None
    command: tuple[str, ...] = ()
    """Command line of a custom deployment on compute without images. `{port}` stands for the port to listen on."""
    model_errors: str = "map"
    """`map`: a model's own error answers 424 with the real code in a header, as Azure does; `pass`: it is passed on."""
    protocol: str = "http1"
    """What its replicas are spoken to in: `http1`, or `http2` from the first byte on, as gRPC's servers want it."""
    scheme: str = "http"
    """`https`: its replicas speak TLS, and show certificates that the gateway's --replica-ca vouches for."""
    server_name: str | None = None
    """The name in those certificates; None: the address of each replica."""
    drain_seconds: float = ranged(0, 86_400, 300)
    """Longest wait for a replica's last request before it is removed all the same."""
    slow_start_seconds: float = ranged(0, 3600, 0)
    """A replica that has become ready gets a growing share of the requests for this long; 0: its whole share at once."""
    affinity: Affinity | None = None
    hedging: Hedging | None = None

    def __post_init__(self) -> None:
        freeze_fields(self)
        backends = (None, "local", "ray", "kubernetes", "memory")
        refuse(
            rule(self.backend in backends, "backend", "one of local, ray, kubernetes", self.backend),
            rule("" not in self.command[:1], "command.0", "the program to run"),
            rule(self.model_errors in ("map", "pass"), "model_errors", "one of map, pass", self.model_errors),
            rule(self.protocol in ("http1", "http2"), "protocol", "one of http1, http2", self.protocol),
            rule(self.scheme in ("http", "https"), "scheme", "one of http, https", self.scheme),
            rule(
                self.server_name is None or self.scheme == "https",
                "server_name",
                "the name in the certificates of replicas that speak TLS: only with `scheme: https`",
                self.server_name,
            ),
            rule(
                self.server_name is None or _is_host(self.server_name),
                "server_name",
                "a DNS name such as models.example.com",
                self.server_name,
            ),
            *field_rules(self),
        )


def _reference_rule(value: Model | Environment, *sources: str) -> Problem | None:
    """A registered thing is named and nothing else is said of it; an inline one has one of `sources`."""
    if value.reference is None:
        given = any(getattr(value, name) is not None for name in sources)
        return rule(given, sources[0], f"one of {', '.join(sources)} is required" if sources[1:] else "is required")
    others = [one for one in dataclasses.fields(value) if one.name != "reference"]
    alone = not any(getattr(value, one.name) for one in others if one.name != "os_type")
    allowed = "azureml:<name>:<version> or azureml:<name>@<label>"
    return rule(alone and value.reference.startswith("azureml:"), "", allowed, value.reference)


def _is_quantity(text: str) -> bool:
    try:
        quantity(text)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    labels = host.split(".")
    return len(host) <= 253 and all(
        0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum() and label.isascii()
        for label in labels
    )
