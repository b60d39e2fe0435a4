"""Endpoints and deployments as values: valid once built, frozen, without a word about where they came from.

The vocabulary is Azure ML's. What Azure cannot say stands in the `EndpointExtras` / `DeploymentExtras` under the one
optional `tidegate:` section. Parsing text and collecting every problem of a document is `router.contract.azure`;
here a value that breaks a rule cannot be built (`InvalidSpec`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.contract.errors import InvalidSpec, Problem

NAME_PATTERN = re.compile(r"[a-zA-Z](?:-?[a-zA-Z0-9])*")
"""Starts with a letter; letters, digits and single dashes; no dash at the end."""
NAME_LENGTH = range(3, 33)


def check_name(value: str, field_name: str) -> None:
    """Raise `InvalidSpec` unless `value` follows Azure's rules for endpoint and deployment names."""
    if len(value) not in NAME_LENGTH or NAME_PATTERN.fullmatch(value) is None:
        rule = "3 to 32 letters, digits or single dashes, starting with a letter and not ending with a dash"
        raise InvalidSpec([Problem(field_name, rule, value)])


def check_range(field_name: str, value: float, low: float, high: float) -> None:
    """Raise `InvalidSpec` unless `low <= value <= high`."""
    if not low <= value <= high:
        raise InvalidSpec([Problem(field_name, f"a number from {low:g} to {high:g}", value)])


class AuthMode(enum.StrEnum):
    """How a caller of the scoring address proves who it is."""

    KEY = "key"
    AML_TOKEN = "aml_token"  # noqa: S105 -- a mode, not a secret
    AAD_TOKEN = "aad_token"  # noqa: S105 -- a mode, not a secret


class Kind(enum.StrEnum):
    """Which of Azure's two comparison-table columns a document was written for."""

    MANAGED = "managed"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class MirrorTarget:
    """A share of the live requests that is copied to one deployment."""

    deployment: str
    fraction: float
    """0 < fraction <= 1 of the live requests."""

    def __post_init__(self) -> None:
        check_name(self.deployment, "mirror.deployment")
        if not 0 < self.fraction <= 1:
            raise InvalidSpec([Problem("mirror.fraction", "a number above 0 and at most 1", self.fraction)])


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Which part of a request keeps a caller on one deployment."""

    by: str
    """`header`, `cookie` or `client`."""
    name: str = ""
    """The header's or cookie's name; empty for `client`."""

    def __post_init__(self) -> None:
        if self.by not in ("header", "cookie", "client"):
            raise InvalidSpec([Problem("tidegate.stickiness.by", "one of header, cookie, client", self.by)])
        if (self.by == "client") != (self.name == ""):
            raise InvalidSpec([Problem("tidegate.stickiness.name", "needed for header and cookie, absent for client")])


@dataclass(frozen=True, slots=True)
class EndpointExtras:
    """The endpoint's `tidegate:` section."""

    mirror: tuple[MirrorTarget, ...] = ()
    """Any number of targets, any fraction; instead of (not beside) `mirror_traffic`."""
    stickiness: Stickiness | None = None
    hosts: tuple[str, ...] = ()
    """Host names that lead to this endpoint, besides `<endpoint>.<domain>`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The managed identity that replicas of the endpoint act as."""

    type: str = "system_assigned"
    user_assigned_identities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One endpoint. Traffic and mirror maps name deployments in lower case, percentages as written."""

    name: str
    auth_mode: AuthMode = AuthMode.KEY
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    compute: str | None = None
    """`azureml:<name>` of the attached cluster; set for Kubernetes endpoints only."""
    identity: Identity | None = None
    traffic: Mapping[str, int] = field(default_factory=dict)
    """Deployment → integer percent of the live traffic; the sum is 0 or 100."""
    mirror_traffic: Mapping[str, int] = field(default_factory=dict)
    """Deployment → integer percent that is mirrored; at most one key, at most 50."""
    public_network_access: str = "enabled"
    extras: EndpointExtras = field(default_factory=EndpointExtras)

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        for deployment, weight in self.traffic.items():
            check_range(f"traffic.{deployment}", weight, 0, 100)
        if sum(self.traffic.values()) not in (0, 100):
            rule = f"the percentages must add up to 0 or 100; they add up to {sum(self.traffic.values())}"
            raise InvalidSpec([Problem("traffic", rule, dict(self.traffic))])
        if self.mirror_traffic and self.extras.mirror:
            raise InvalidSpec([Problem("tidegate.mirror", "use either mirror_traffic or tidegate.mirror, not both")])
        for target in self.mirrors():
            if self.traffic.get(target.deployment, 0) > 0:
                rule = "a deployment gets live or mirrored traffic, never both"
                raise InvalidSpec([Problem(f"mirror_traffic.{target.deployment}", rule)])

    def mirrors(self) -> tuple[MirrorTarget, ...]:
        """Every mirror target, from whichever of the two sections names them."""
        azure = [MirrorTarget(name, percent / 100) for name, percent in self.mirror_traffic.items() if percent > 0]
        return (*azure, *self.extras.mirror)


@dataclass(frozen=True, slots=True)
class CodeConfiguration:
    """Where the scoring code is. `code` is a directory, `scoring_script` a file in it with `init()` and `run()`."""

    code: str
    scoring_script: str


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP route of a model server."""

    path: str
    port: int

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise InvalidSpec([Problem("path", "must start with /", self.path)])
        check_range("port", self.port, 1, 65535)


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """The routes of a custom deployment's own server."""

    liveness_route: Route
    readiness_route: Route
    scoring_route: Route


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


@dataclass(frozen=True, slots=True)
class Model:
    """The model's files: a registered name, or a path on disk."""

    reference: str | None = None
    """`azureml:<name>:<version>`."""
    name: str | None = None
    version: str | None = None
    path: str | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """Azure's defaults. The gateway enforces all three on both backends."""

    request_timeout_ms: int = 5000
    max_concurrent_requests_per_instance: int = 1
    max_queue_wait_ms: int = 500

    def __post_init__(self) -> None:
        check_range("request_settings.request_timeout_ms", self.request_timeout_ms, 1, 300_000)
        check_range(
            "request_settings.max_concurrent_requests_per_instance",
            self.max_concurrent_requests_per_instance,
            1,
            100_000,
        )
        check_range("request_settings.max_queue_wait_ms", self.max_queue_wait_ms, 0, 300_000)


@dataclass(frozen=True, slots=True)
class Probe:
    """Azure's defaults; seconds."""

    initial_delay: float = 10
    period: float = 10
    timeout: float = 2
    success_threshold: int = 1
    failure_threshold: int = 30

    def __post_init__(self) -> None:
        check_range("initial_delay", self.initial_delay, 0, 86_400)
        check_range("period", self.period, 0.05, 86_400)
        check_range("timeout", self.timeout, 0.05, 86_400)
        check_range("success_threshold", self.success_threshold, 1, 1000)
        check_range("failure_threshold", self.failure_threshold, 1, 100_000)


@dataclass(frozen=True, slots=True)
class DefaultScale:
    """A fixed number of instances: the deployment's `instance_count`."""


@dataclass(frozen=True, slots=True)
class TargetUtilization:
    """Azure's rule for Kubernetes, offered on both backends: keep (busy + queued) / replicas near the target."""

    min_instances: int = 1
    max_instances: int = 1
    target_utilization_percentage: int = 70
    polling_interval: float = 1
    """Seconds between decisions; scale-in looks at twenty of them."""

    def __post_init__(self) -> None:
        check_range("scale_settings.min_instances", self.min_instances, 0, 100_000)
        check_range("scale_settings.max_instances", self.max_instances, 1, 100_000)
        if self.max_instances < self.min_instances:
            rule = f"must be at least min_instances, which is {self.min_instances}"
            raise InvalidSpec([Problem("scale_settings.max_instances", rule, self.max_instances)])
        check_range("scale_settings.target_utilization_percentage", self.target_utilization_percentage, 1, 100)
        check_range("scale_settings.polling_interval", self.polling_interval, 0.05, 3600)


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities as written: cpu, memory, nvidia.com/gpu."""

    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slo:
    """What the deployment promises; the autoscaler's yardstick."""

    latency_ms: float
    percentile: float = 99


@dataclass(frozen=True, slots=True)
class DeploymentExtras:
    """The deployment's `tidegate:` section."""

    backend: str | None = None
    """`local`, `ray` or `kubernetes`; by default the kind of the document decides."""
    min_instances: int | None = None
    """Overrides the lower bound of the scale settings; 0 allows scale to zero."""
    max_instances: int | None = None
    idle_seconds: float = 300
    """Without a request for this long, a deployment that may go to zero goes to zero."""
    slo: Slo | None = None
    command: tuple[str, ...] = ()
    """Command line of a custom deployment on compute without images. `{port}` stands for the port to listen on."""
    model_errors: str = "map"
    """`map`: a model's own error answers 424 with the real code in a header, as Azure does; `pass`: it is passed on."""
    drain_seconds: float = 300
    """Longest wait for a replica's last request before it is removed all the same."""

    def __post_init__(self) -> None:
        if self.min_instances is not None:
            check_range("tidegate.min_instances", self.min_instances, 0, 100_000)
        if self.max_instances is not None:
            check_range("tidegate.max_instances", self.max_instances, 1, 100_000)
        check_range("tidegate.idle_seconds", self.idle_seconds, 0.1, 30 * 86_400)
        check_range("tidegate.drain_seconds", self.drain_seconds, 0, 86_400)
        if self.model_errors not in ("map", "pass"):
            raise InvalidSpec([Problem("tidegate.model_errors", "one of map, pass", self.model_errors)])


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """One deployment of an endpoint: one model version on one kind of compute."""

    name: str
    endpoint_name: str
    kind: Kind = Kind.MANAGED
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    model: Model | None = None
    model_mount_path: str | None = None
    code_configuration: CodeConfiguration | None = None
    environment: Environment | None = None
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    instance_type: str | None = None
    instance_count: int = 1
    app_insights_enabled: bool = False
    scale_settings: DefaultScale | TargetUtilization = DefaultScale()
    request_settings: RequestSettings = RequestSettings()
    liveness_probe: Probe = Probe()
    readiness_probe: Probe = Probe()
    startup_probe: Probe | None = None
    data_collector: Mapping[str, Any] | None = None
    egress_public_network_access: str = "enabled"
    resources: Resources = field(default_factory=Resources)
    extras: DeploymentExtras = field(default_factory=DeploymentExtras)

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        check_name(self.endpoint_name, "endpoint_name")
        check_range("instance_count", self.instance_count, 0, 100_000)
        low, high = self.instance_bounds()
        if low > high:
            raise InvalidSpec([Problem("tidegate.min_instances", f"must be at most {high}, the largest count", low)])

    def instance_bounds(self) -> tuple[int, int]:
        """(fewest, most) replicas the autoscaler may run."""
        if isinstance(self.scale_settings, TargetUtilization):
            low, high = self.scale_settings.min_instances, self.scale_settings.max_instances
        else:
            low = high = self.instance_count
        if self.extras.min_instances is not None:
            low = self.extras.min_instances
        if self.extras.max_instances is not None:
            high = self.extras.max_instances
        return low, max(high, 1) if low == 0 else high

    def scoring_path(self) -> str:
        """Path of the scoring route, `/score` unless the deployment's own server says otherwise."""
        config = self.environment.inference_config if self.environment else None
        return config.scoring_route.path if config else "/score"


RUNTIME_FIELDS = (
    "model", "model_mount_path", "code_configuration", "environment", "environment_variables", "instance_type",
    "app_insights_enabled", "liveness_probe", "readiness_probe", "startup_probe", "resources",
)  # fmt: skip
"""Fields whose change needs new replicas; every other change applies to running ones."""


def template_hash(document: Mapping[str, Any]) -> str:
    """Identity of what a replica runs: 16 hex digits over the `RUNTIME_FIELDS` of a deployment's document.

    Two documents with the same hash can share replicas; counts, weights, scale and request settings do not matter.
    """
    picked = {name: document[name] for name in RUNTIME_FIELDS if name in document}
    picked["command"] = (document.get("tidegate") or {}).get("command")
    text = json.dumps(picked, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
