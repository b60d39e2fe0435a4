"""Known keys that have no effect yet: one row each, and whoever gives a key its effect removes its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.contract.errors import Problem
from router.contract.specs import DeploymentSpec, EndpointSpec, Kind, TargetUtilization


@dataclass(frozen=True, slots=True)
class Row:
    """One key without effect."""

    field: str
    applies: Callable[[Any], Any]
    """True of the specs in which somebody relies on the key; a default says nothing."""
    sentence: str


def _local(spec: DeploymentSpec) -> bool:
    return spec.extras.backend in (None, "local")


ENDPOINT_ROWS = (
    Row(
        "compute",
        lambda spec: spec.compute,
        "pods run in the cluster that the autoscaler was started with, whatever is named here",
    ),
    Row("identity", lambda spec: spec.identity, "replicas run without an identity"),
    Row(
        "public_network_access",
        lambda spec: spec.public_network_access != "enabled",
        "who can reach the gateway is decided by the address it listens on, for all endpoints together",
    ),
)

DEPLOYMENT_ROWS = (
    Row(
        "type",
        lambda spec: spec.kind is Kind.KUBERNETES and spec.extras.backend is None,
        "unless the autoscaler was started with --backend kubernetes; else the replicas run on this machine",
    ),
    Row(
        "tidegate.backend",
        lambda spec: spec.extras.backend in ("ray", "kubernetes"),
        "unless the autoscaler was started with this backend; else the deployment has no replicas",
    ),
    Row(
        "model",
        lambda spec: spec.model and spec.model.reference,
        "there is no model registry yet; the replicas get no model files from this name",
    ),
    Row(
        "environment",
        lambda spec: spec.environment and spec.environment.reference,
        "there is no environment registry yet; nothing is installed for this name",
    ),
    Row(
        "environment.image",
        lambda spec: _local(spec) and spec.environment and spec.environment.image,
        "the local backend runs processes, not images; what the image would bring must be in conda_file",
    ),
    Row(
        "environment.build",
        lambda spec: spec.environment and spec.environment.build,
        "images are not built yet; what the image would bring must be in conda_file",
    ),
    Row(
        "environment.os_type",
        lambda spec: spec.environment and spec.environment.os_type != "linux",
        "replicas run on Linux",
    ),
    Row("model_mount_path", lambda spec: spec.model_mount_path, "models stay where AZUREML_MODEL_DIR says"),
    Row(
        "instance_type",
        lambda spec: _local(spec) and spec.instance_type,
        "the local backend has one kind of instance, this machine; the name is only shown",
    ),
    Row(
        "instance_count",
        lambda spec: isinstance(spec.scale_settings, TargetUtilization) and "instance_count" in (spec.written or {}),
        "under target_utilization the number follows the load between min_instances and max_instances",
    ),
    Row("app_insights_enabled", lambda spec: spec.app_insights_enabled, "nothing is sent to Application Insights"),
    Row("data_collector", lambda spec: spec.data_collector is not None, "no inputs or outputs are collected"),
    Row(
        "egress_public_network_access",
        lambda spec: spec.egress_public_network_access != "enabled",
        "outgoing connections of replicas are not restricted",
    ),
    Row(
        "resources",
        lambda spec: _local(spec) and (spec.resources.requests or spec.resources.limits),
        "the local backend neither reserves nor limits CPU, memory or GPUs",
    ),
    Row("tidegate.slo", lambda spec: spec.extras.slo, "scaling follows utilization, not yet the latency promised here"),
)


def ineffective(spec: EndpointSpec | DeploymentSpec) -> tuple[Problem, ...]:
    """Every key of `spec` that says something but has no effect yet, each with a sentence saying what happens."""
    rows = ENDPOINT_ROWS if isinstance(spec, EndpointSpec) else DEPLOYMENT_ROWS
    return tuple(Problem(row.field, f"has no effect yet: {row.sentence}") for row in rows if row.applies(spec))
