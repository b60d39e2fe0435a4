"""The tables of keys: every section of Azure's YAML, managed and Kubernetes, and of the `tidegate:` sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.contract.choosing import Affinity, Hedging
from router.contract.limits import Limits, Priorities
from router.contract.parts import (
    Build,
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
from router.contract.reading import (
    WRONG,
    Between,
    Key,
    Likened,
    ListOf,
    MapOf,
    Reader,
    Record,
    Report,
    boolean,
    choice,
    filled,
    integer,
    join,
    label,
    mapping,
    number,
    scalar,
    text,
)
from router.contract.rules import name_rule
from router.contract.scaling import DefaultScale, TargetUtilization
from router.contract.specs import AuthMode, Kind

TEXTS = MapOf(scalar)
SCALE_TYPE = choice("default", "target_utilization")
SWITCH = choice("enabled", "disabled")
DESCRIBED = {"description": Key(text), "tags": Key(TEXTS), "properties": Key(TEXTS)}


def _shares(most: int, otherwise: str) -> Reader:
    """Deployment → whole percent from 0 to `most`."""

    def percent(report: Report, path: str, found: Any) -> Any:
        broken = name_rule(path.rpartition(".")[2], path)
        if broken is not None:
            return report.add(path, broken.message, broken.value)
        return share(report, path, found)

    share = Between(integer, 0, most, f"a whole number from 0 to {most}{otherwise}")
    return MapOf(Likened(percent, (share,)))


def _resource_id(report: Report, path: str, found: Any) -> Any:
    """An identity: its resource id, or a map with `resource_id`."""
    return RESOURCE_ID(report, path, found) if isinstance(found, Mapping) else filled(report, path, found)


def _model(report: Report, path: str, found: Any) -> Any:
    """A registered model's name, a path on disk, or an inline model."""
    if isinstance(found, str) and found:
        return _string_source(Model, "path", report, path, found)
    return MODEL(report, path, found)


def _environment(report: Report, path: str, found: Any) -> Any:
    """A registered environment's name, `file:` and a conda file, or an inline environment."""
    if isinstance(found, str) and found:
        if not found.startswith(("azureml:", "file:")):
            return report.add(path, "azureml:<name>:<version>, file:<conda file>, or keys such as image", found)
        return _string_source(Environment, "conda_file", report, path, found)
    return ENVIRONMENT(report, path, found)


def _string_source(build: Any, source: str, report: Report, path: str, found: str) -> Any:
    if not found.startswith("azureml:"):
        return build(**{source: found.removeprefix("file:")})
    named = found.removeprefix("azureml:").strip("/:@")
    if not named or found != found.strip():
        return report.add(path, "azureml:<name>:<version> or azureml:<name>@<label>", found)
    return build(reference=found)


def _conda_file(report: Report, path: str, found: Any) -> Any:
    if isinstance(found, Mapping):
        return report.add(path, "a path; inline conda specifications are not available yet, put it into a file", found)
    return filled(report, path, found)


def _scale(default: str) -> Reader:
    """`scale_settings`, whose `type` decides which other keys there may be."""

    def read(report: Report, path: str, found: Any) -> Any:
        if mapping(report, path, found) is WRONG:
            return WRONG
        kind = SCALE_TYPE(report, join(path, "type"), found.get("type", default))
        if kind is WRONG:
            return WRONG
        rest = {name: value for name, value in found.items() if name != "type"}
        if kind == "target_utilization":
            return Record(TargetUtilization, TARGET_UTILIZATION)(report, path, rest)
        for name in TARGET_UTILIZATION:
            if name in rest:
                report.add(join(path, name), "only with `type: target_utilization`", rest[name])
        fixed = Record(DefaultScale, {})(report, path, rest)
        return WRONG if rest else fixed

    return Likened(read, (Record(TargetUtilization, {"type": Key(SCALE_TYPE), **TARGET_UTILIZATION}),))


def _collector(report: Report, path: str, found: Any) -> Any:
    """`data_collector`, kept as written once every key in it is right."""
    return WRONG if COLLECTOR(report, path, found) is WRONG else found


def _switched(report: Report, path: str, found: Any) -> Any:
    """A boolean, or its name in quotes, as Azure's own examples have it."""
    if isinstance(found, str) and found.lower() in ("true", "false"):
        return found.lower() == "true"
    return boolean(report, path, found)


def _data(report: Report, path: str, found: Any) -> Any:
    return filled(report, path, found) if isinstance(found, str) else DATA(report, path, found)


def _collection_data(**values: Any) -> dict[str, Any]:
    return values


RESOURCE_ID = Record(lambda resource_id: resource_id, {"resource_id": Key(filled, stand_in="-")})
ROUTE = Record(Route, {"path": Key(text, stand_in="/"), "port": Key(integer, stand_in=1)})
_ANY_ROUTE = Route("/", 1)
ROUTES = Record(
    InferenceConfig,
    {name: Key(ROUTE, stand_in=_ANY_ROUTE) for name in ("liveness_route", "readiness_route", "scoring_route")},
)
BUILD = Record(Build, {"path": Key(filled, stand_in="."), "dockerfile_path": Key(filled)})
ENVIRONMENT = Record(
    Environment,
    {
        "name": Key(filled),
        "version": Key(label),
        "image": Key(filled),
        "conda_file": Key(Likened(_conda_file, (filled,))),
        "build": Key(BUILD),
        "inference_config": Key(ROUTES),
        "os_type": Key(choice("linux", "windows")),
        **DESCRIBED,
    },
)
MODEL = Record(
    Model,
    {
        "name": Key(filled),
        "version": Key(label),
        "path": Key(filled),
        "type": Key(choice("custom_model", "mlflow_model", "triton_model")),
        "flavors": Key(mapping),
        **DESCRIBED,
    },
)
CODE = Record(
    CodeConfiguration, {"code": Key(filled, stand_in="."), "scoring_script": Key(filled, stand_in="score.py")}
)
PROBE = Record(
    Probe,
    {
        "initial_delay": Key(number),
        "period": Key(number),
        "timeout": Key(number),
        "success_threshold": Key(integer),
        "failure_threshold": Key(integer),
    },
)
REQUEST_SETTINGS = Record(
    RequestSettings,
    {
        "request_timeout_ms": Key(integer),
        "max_concurrent_requests_per_instance": Key(integer),
        "max_queue_wait_ms": Key(integer),
    },
)
TARGET_UTILIZATION = {
    "min_instances": Key(integer),
    "max_instances": Key(integer),
    "target_utilization_percentage": Key(integer),
    "polling_interval": Key(number),
}
AMOUNTS = MapOf(scalar)
RESOURCES = Record(Resources, {"requests": Key(AMOUNTS), "limits": Key(AMOUNTS)})
IDENTITY = Record(
    Identity,
    {
        "type": Key(choice("system_assigned", "user_assigned")),
        "user_assigned_identities": Key(ListOf(Likened(_resource_id, (filled, RESOURCE_ID)))),
    },
)
DATA = Record(_collection_data, {"name": Key(filled), "path": Key(filled), "version": Key(label)})
COLLECTION = Record(
    _collection_data,
    {
        "enabled": Key(Likened(_switched, (boolean, text))),
        "data": Key(Likened(_data, (filled, DATA))),
        "client_id": Key(filled),
    },
)
COLLECTOR = Record(
    _collection_data,
    {
        "sampling_rate": Key(Between(number, 0, 1, "a number from 0 to 1")),
        "rolling_rate": Key(choice("minute", "hour", "day", "month", "year")),
        "collections": Key(MapOf(COLLECTION)),
        "request_logging": Key(Record(_collection_data, {"capture_headers": Key(ListOf(filled))})),
    },
)
MIRROR = Record(MirrorTarget, {"deployment": Key(filled, stand_in="stand-in"), "fraction": Key(number, stand_in=1.0)})
STICKINESS = Record(
    Stickiness, {"by": Key(choice("header", "cookie", "client"), stand_in="client"), "name": Key(filled)}
)
LIMITS = Record(
    Limits,
    {
        "requests_per_second": Key(number),
        "burst": Key(integer),
        "concurrent_requests": Key(integer),
        "max_body_bytes": Key(integer),
    },
)
PRIORITIES = Record(
    Priorities,
    {
        "header": Key(filled, stand_in="x-priority"),
        "classes": Key(ListOf(filled), stand_in=("high", "low")),
        "default": Key(filled),
    },
)
WEBSOCKET = Record(
    WebSocket,
    {
        "idle_seconds": Key(number),
        "ping_seconds": Key(number),
        "max_message_bytes": Key(integer),
        "max_seconds": Key(number),
    },
)
ENDPOINT_EXTRAS = Record(
    EndpointExtras,
    {
        "mirror": Key(ListOf(MIRROR)),
        "stickiness": Key(STICKINESS),
        "limits": Key(LIMITS),
        "priorities": Key(PRIORITIES),
        "hosts": Key(ListOf(filled)),
        "server_timing": Key(boolean),
        "websocket": Key(WEBSOCKET),
    },
)
SLO = Record(Slo, {"latency_ms": Key(number, stand_in=1000.0), "percentile": Key(number)})
AFFINITY = Record(
    Affinity,
    {
        "by": Key(choice("header", "cookie", "client", "body"), stand_in="client"),
        "name": Key(filled),
        "json_field": Key(filled),
        "prefix_bytes": Key(integer),
        "bound": Key(number),
    },
)
HEDGING = Record(Hedging, {"after_ms": Key(number), "percentile": Key(number), "budget_percent": Key(number)})
DEPLOYMENT_EXTRAS = Record(
    DeploymentExtras,
    {
        "backend": Key(choice("local", "ray", "kubernetes", "memory")),
        "min_instances": Key(integer),
        "max_instances": Key(integer),
        "idle_seconds": Key(number),
        "slo": Key(SLO),
        "command": Key(ListOf(text)),
        "model_errors": Key(choice("map", "pass")),
        "protocol": Key(choice("http1", "http2")),
        "scheme": Key(choice("http", "https")),
        "server_name": Key(filled),
        "drain_seconds": Key(number),
        "slow_start_seconds": Key(number),
        "affinity": Key(AFFINITY),
        "hedging": Key(HEDGING),
    },
)


def _auth_mode(report: Report, path: str, found: Any) -> Any:
    mode = choice(*AuthMode)(report, path, found)
    return mode if mode is WRONG else AuthMode(mode)


ENDPOINT_KEYS = {
    "$schema": Key(text, "schema"),
    "name": Key(text, stand_in="stand-in"),
    **DESCRIBED,
    "auth_mode": Key(Likened(_auth_mode, (choice(*AuthMode),))),
    "compute": Key(filled),
    "identity": Key(IDENTITY),
    "traffic": Key(_shares(100, "")),
    "mirror_traffic": Key(_shares(50, "; tidegate.mirror takes larger and smaller shares")),
    "public_network_access": Key(SWITCH),
    "tidegate": Key(ENDPOINT_EXTRAS, "extras"),
}

DEPLOYMENT_KEYS = {
    "$schema": Key(text, "schema"),
    "name": Key(text, stand_in="stand-in"),
    "endpoint_name": Key(text, stand_in="stand-in"),
    "type": Key(choice(*Kind), "kind"),
    **DESCRIBED,
    "model": Key(Likened(_model, (filled, MODEL))),
    "model_mount_path": Key(filled),
    "code_configuration": Key(CODE),
    "environment": Key(Likened(_environment, (filled, ENVIRONMENT))),
    "environment_variables": Key(TEXTS),
    "instance_type": Key(filled),
    "instance_count": Key(integer),
    "app_insights_enabled": Key(boolean),
    "scale_settings": Key(_scale("default")),
    "request_settings": Key(REQUEST_SETTINGS),
    "liveness_probe": Key(PROBE),
    "readiness_probe": Key(PROBE),
    "startup_probe": Key(PROBE),
    "data_collector": Key(Likened(_collector, (COLLECTOR,))),
    "egress_public_network_access": Key(SWITCH),
    "resources": Key(RESOURCES),
    "tidegate": Key(DEPLOYMENT_EXTRAS, "extras"),
}
KUBERNETES_DEPLOYMENT_KEYS = {**DEPLOYMENT_KEYS, "scale_settings": Key(_scale("target_utilization"))}
