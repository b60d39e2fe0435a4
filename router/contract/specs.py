"""Endpoints and deployments as values: valid once built, frozen, without a word about where they came from.

The vocabulary is Azure ML's. What Azure cannot say stands in the `EndpointExtras` / `DeploymentExtras` under the one
optional `tidegate:` section. Reading a document is `router.contract.azure`; here a value that breaks a rule cannot be
built (`InvalidSpec`, with every broken rule). A problem's field is the path from the value itself.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.contract.choosing import Affinity, Hedging
from router.contract.errors import Problem
from router.contract.frozen import FrozenMap
from router.contract.limits import Limits, Priorities
from router.contract.parts import (
    CodeConfiguration,
    DeploymentExtras,
    EndpointExtras,
    Environment,
    Identity,
    InferenceConfig,
    MirrorTarget,
    Model,
    Probe,
    RequestSettings,
    Resources,
    Route,
    Slo,
    Stickiness,
    WebSocket,
)
from router.contract.rules import (
    NAME,
    NAME_LENGTH,
    NAME_PATTERN,
    check_name,
    check_range,
    field_rules,
    freeze_fields,
    lower_names,
    matching,
    range_rule,
    ranged,
    refuse,
    rule,
)
from router.contract.scaling import DefaultScale, TargetUtilization

__all__ = [
    "NAME_LENGTH", "NAME_PATTERN", "RUNTIME_FIELDS", "Affinity", "AuthMode", "CodeConfiguration", "DefaultScale",
    "DeploymentExtras", "DeploymentSpec", "EndpointExtras", "EndpointSpec", "Environment", "Hedging", "Identity",
    "InferenceConfig", "Kind", "Limits", "MirrorTarget", "Model", "Priorities", "Probe", "RequestSettings", "Resources", "Route", "Slo",
    "Stickiness", "TargetUtilization", "WebSocket", "check_name", "check_range", "template_hash",
]  # fmt: skip


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
class EndpointSpec:
    """One endpoint. Traffic and mirror maps name deployments in lower case, percentages as written."""

    name: str = matching(NAME)
    auth_mode: AuthMode = AuthMode.KEY
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=FrozenMap)
    properties: Mapping[str, str] = field(default_factory=FrozenMap)
    compute: str | None = None
    """`azureml:<name>` of the attached cluster; set for Kubernetes endpoints only."""
    identity: Identity | None = None
    traffic: Mapping[str, int] = field(default_factory=FrozenMap)
    """Deployment → integer percent of the live traffic; the sum is 0 or 100."""
    mirror_traffic: Mapping[str, int] = field(default_factory=FrozenMap)
    """Deployment → integer percent that is mirrored; at most one key, at most 50."""
    public_network_access: str = "enabled"
    extras: EndpointExtras = field(default_factory=EndpointExtras)
    schema: str | None = None
    """The document's `$schema`, which may say that it is written for Kubernetes."""
    written: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """The document this was read from; `azure.endpoint_to_document` keeps its wording."""

    def __post_init__(self) -> None:
        names = lower_names(self, "traffic", "mirror_traffic")
        freeze_fields(self)
        refuse(
            *field_rules(self),
            rule(self.compute != "", "compute", "azureml:<name of the attached cluster>", self.compute),
            *names,
            *self._traffic_rules(),
            *self._kind_rules(),
        )

    @property
    def kind(self) -> Kind:
        """Kubernetes when the endpoint names its cluster or its schema says so, else managed."""
        return Kind.KUBERNETES if self.compute is not None else kind_of_schema(self.schema) or Kind.MANAGED

    def mirrors(self) -> tuple[MirrorTarget, ...]:
        """Every mirror target, from whichever of the two sections names them."""
        azure = [MirrorTarget(name, percent / 100) for name, percent in self.mirror_traffic.items() if percent > 0]
        return (*azure, *self.extras.mirror)

    def _traffic_rules(self) -> list[Problem | None]:
        total = sum(self.traffic.values())
        problems = [range_rule(f"traffic.{name}", weight, 0, 100) for name, weight in self.traffic.items()]
        sums = f"the percentages must add up to 0 or 100; they add up to {total}"
        problems.append(rule(total in (0, 100) or any(problems), "traffic", sums))
        largest = "a whole number from 0 to 50; tidegate.mirror takes larger shares"
        for name, percent in self.mirror_traffic.items():
            problems.append(rule(0 <= percent <= 50, f"mirror_traffic.{name}", largest, percent))
        single = "at most one deployment; tidegate.mirror takes several"
        problems.append(rule(len(self.mirror_traffic) <= 1, "mirror_traffic", single))
        either = "use either mirror_traffic or tidegate.mirror, not both"
        problems.append(rule(not (self.mirror_traffic and self.extras.mirror), "tidegate.mirror", either))
        return problems + self._exclusive_rules()

    def _exclusive_rules(self) -> list[Problem | None]:
        never = "a deployment gets live or mirrored traffic, never both; it has {} % of the live traffic"
        azure = [(f"mirror_traffic.{name}", name) for name, percent in self.mirror_traffic.items() if percent > 0]
        extra = [(f"tidegate.mirror.{i}.deployment", one.deployment) for i, one in enumerate(self.extras.mirror)]
        live = [(path, self.traffic.get(name, 0)) for path, name in azure + extra]
        return [rule(weight <= 0, path, never.format(weight)) for path, weight in live]

    def _kind_rules(self) -> list[Problem | None]:
        managed = self.kind is Kind.MANAGED
        entra = "key or aml_token; aad_token is for managed endpoints"
        return [
            rule(self.public_network_access in ("enabled", "disabled"), "public_network_access", "enabled or disabled"),
            rule(managed or self.auth_mode is not AuthMode.AAD_TOKEN, "auth_mode", entra, str(self.auth_mode)),
            rule(managed or self.public_network_access == "enabled", "public_network_access", MANAGED_ONLY),
        ]


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """One deployment of an endpoint: one model version on one kind of compute."""

    name: str = matching(NAME)
    endpoint_name: str = matching(NAME)
    kind: Kind = Kind.MANAGED
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=FrozenMap)
    properties: Mapping[str, str] = field(default_factory=FrozenMap)
    model: Model | None = None
    model_mount_path: str | None = None
    code_configuration: CodeConfiguration | None = None
    environment: Environment | None = None
    environment_variables: Mapping[str, str] = field(default_factory=FrozenMap)
    instance_type: str | None = None
    instance_count: int = ranged(0, 100_000, 1)
    app_insights_enabled: bool = False
    scale_settings: DefaultScale | TargetUtilization = field(default_factory=DefaultScale)
    request_settings: RequestSettings = field(default_factory=RequestSettings)
    liveness_probe: Probe = field(default_factory=Probe)
    readiness_probe: Probe = field(default_factory=Probe)
    startup_probe: Probe | None = None
    data_collector: Mapping[str, Any] | None = None
    egress_public_network_access: str = "enabled"
    resources: Resources = field(default_factory=Resources)
    extras: DeploymentExtras = field(default_factory=DeploymentExtras)
    schema: str | None = None
    """The document's `$schema`."""
    written: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """The document this was read from; `azure.deployment_to_document` keeps its wording."""

    def __post_init__(self) -> None:
        freeze_fields(self)
        low, high = self.instance_bounds()
        bounds = f"at most {high}, the largest number of instances"
        refuse(
            *field_rules(self),
            rule(low <= high, "tidegate.min_instances", bounds, low),
            *self._probe_rules(),
            *self._kind_rules(),
            *self._variable_rules(),
        )

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

    def _probe_rules(self) -> list[Problem | None]:
        once = "1: one success is enough for this probe"
        probes = {"liveness_probe": self.liveness_probe, "startup_probe": self.startup_probe}
        return [
            rule(probe is None or probe.success_threshold == 1, f"{name}.success_threshold", once)
            for name, probe in probes.items()
        ]

    def _variable_rules(self) -> list[Problem | None]:
        """What no operating system takes as an environment variable."""
        name_form, value_form = "a name without = and NUL", "a value without NUL"
        variables = self.environment_variables.items()
        names = [n for n, _ in variables if not n or "=" in n or "\0" in n]
        values = [rule("\0" not in v, f"environment_variables.{n}", value_form) for n, v in variables]
        return [Problem(f"environment_variables.{name}", name_form, name) for name in names] + values

    def _kind_rules(self) -> list[Problem | None]:
        managed = self.kind is Kind.MANAGED
        egress = self.egress_public_network_access
        together = "together with the endpoint's name at most 62 characters on Kubernetes"
        return [
            rule(egress in ("enabled", "disabled"), "egress_public_network_access", "enabled or disabled", egress),
            rule(managed or egress == "enabled", "egress_public_network_access", MANAGED_ONLY, egress),
            rule(not managed or self.resources == Resources(), "resources", KUBERNETES_ONLY),
            rule(managed or len(self.name) + len(self.endpoint_name) <= 62, "name", together, self.name),
        ]


MANAGED_ONLY = "only for managed endpoints and deployments; remove it here"
KUBERNETES_ONLY = (
    "only for Kubernetes deployments (`type: kubernetes`); managed ones take their size from instance_type"
)


def kind_of_schema(schema: str | None) -> Kind | None:
    """What a `$schema` address says about the kind, by the name of its last part; None when it says nothing."""
    last = (schema or "").rstrip("/").rpartition("/")[2].lower()
    named = [kind for kind in Kind if last.startswith(kind.value)]
    return named[0] if named else None


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
    extras = document.get("tidegate") or {}
    picked["command"] = extras.get("command")
    if extras.get("protocol", "http1") != "http1":
        picked["protocol"] = extras["protocol"]
    if extras.get("scheme", "http") != "http":
        picked["scheme"] = extras["scheme"]
    text = json.dumps(picked, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
