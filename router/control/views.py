"""What a reader is shown: values of the store and the fleet as the JSON of `docs/rest-api.md`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from router.contract import azure
from router.contract.errors import Problem
from router.contract.events import DeploymentReplicas, Phase
from router.contract.frozen import thaw
from router.control import changes
from router.control.content import Content, Document, Standing
from router.control.fleet import Fleet, replica_counts
from router.control.operations import Operation, deployment_state, endpoint_state
from router.control.rates import View
from router.control.rows import Recorded

Json = dict[str, Any]


def time_text(at_ns: int) -> str:
    """Unix nanoseconds as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def endpoint(standing: Standing, newest: Operation | None, published: int, gateway_url: str) -> Json:
    """An endpoint's document with what only the control plane knows."""
    content = standing.content
    base = f"{gateway_url.rstrip('/')}/endpoints/{standing.endpoint}"
    return {
        **thaw(content.document),
        "auth_mode": content.document.get("auth_mode", "key"),
        "traffic": content.traffic,
        "mirror_traffic": content.mirror_traffic,
        "kind": changes.kind_of(content.document).value,
        "revision": standing.revision,
        "provisioning_state": endpoint_state(newest, published).value,
        "scoring_uri": base + scoring_path(content),
        "openapi_uri": f"{base}/swagger.json",
    }


def scoring_path(content: Content) -> str:
    """The scoring route of the deployment with most traffic, `/score` unless it serves another one."""
    traffic = content.traffic
    most = max(traffic, key=lambda name: (traffic[name], name), default=None)
    if most is None or not traffic[most]:
        return "/score"
    found: Any = content.deployments.get(most, {})
    for key in ("environment", "inference_config", "scoring_route", "path"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else "/score"


def deployment(
    standing: Standing, name: str, document: Document, newest: Operation | None, now: DeploymentReplicas | None
) -> Json:
    """A deployment's document with what only the control plane knows."""
    return {
        **thaw(document),
        "endpoint_name": document.get("endpoint_name", standing.endpoint),
        "name": document.get("name", name),
        "revision": standing.revision,
        "provisioning_state": deployment_state(newest, now).value,
        "phase": (now.phase if now else Phase.PENDING).value,
        "reason": now.reason if now else "",
        "message": now.message if now else "",
        "log_tail": now.log_tail if now else "",
        "replicas": replica_counts(now),
    }


def warnings(problems: Sequence[Problem]) -> Json:
    """The part of a PUT's answer that names known keys without effect."""
    return {"warnings": [thaw(problem.to_json()) for problem in problems]}


def revision(recorded: Recorded) -> Json:
    """One line of the list of revisions."""
    standing = recorded.standing
    return {
        "revision": standing.revision,
        "at": time_text(standing.at_ns),
        "change": recorded.change,
        "traffic": standing.content.traffic,
        "mirror_traffic": standing.content.mirror_traffic,
        "deployments": sorted(standing.content.deployments),
    }


def revision_content(recorded: Recorded) -> Json:
    """One revision, whole."""
    standing = recorded.standing
    return {
        "revision": standing.revision,
        "at": time_text(standing.at_ns),
        "document": thaw(standing.content.document),
        "deployments": thaw(standing.content.deployments),
    }


def operation(one: Operation) -> Json:
    """One operation."""
    return {
        "id": one.id,
        "kind": one.kind.value,
        "endpoint": one.endpoint,
        "deployment": one.deployment,
        "revision": one.revision,
        "status": one.status.value,
        "phase": str(one.phase),
        "progress": one.progress,
        "message": one.message,
        "started_at": time_text(one.started_ns),
        "finished_at": None if one.finished_ns is None else time_text(one.finished_ns),
        "error": None if one.error is None else one.error.to_json(),
    }


def status(standings: Sequence[Standing], fleet: Fleet, now_ns: int) -> Json:
    """Every endpoint at one moment."""
    return {"endpoints": [_endpoint_status(standing, fleet, now_ns) for standing in standings]}


def mirror_percents(document: Document) -> dict[str, float]:
    """Deployment → percent of the live traffic that is mirrored to it."""
    mirrors = azure.endpoint_from_document(document).mirrors()
    return {target.deployment.lower(): round(target.fraction * 100, 6) for target in mirrors}


def _endpoint_status(standing: Standing, fleet: Fleet, now_ns: int) -> Json:
    rows, together = [], None
    content, mirrored = standing.content, mirror_percents(standing.content.document)
    for name in sorted(content.deployments):
        view = fleet.demand((standing.endpoint, name), now_ns)
        if view is not None:
            together = view if together is None else together.plus(view)
        now = fleet.replicas(standing.endpoint).get(name)
        rates = _rates(view)
        del rates["errors_per_second"]
        rows.append(
            {
                "name": name,
                "weight": content.traffic[name],
                "mirror_percent": mirrored.get(name, 0),
                "phase": (now.phase if now else Phase.PENDING).value,
                "replicas": replica_counts(now),
                **rates,
                "shadows": fleet.shadow_counts((standing.endpoint, name)).to_json(),
            }
        )
    return {"name": standing.endpoint, "revision": standing.revision, **_rates(together), "deployments": rows}


def _rates(view: View | None) -> Json:
    if view is None:
        names = ("requests_per_second", "errors_per_second", "in_flight", "queued", "p50_ms", "p99_ms")
        return dict.fromkeys(names)
    return {
        "requests_per_second": round(view.requests_per_second, 3),
        "errors_per_second": round(view.errors_per_second, 3),
        "in_flight": view.in_flight,
        "queued": view.queued,
        "p50_ms": view.quantile_ms(0.5),
        "p99_ms": view.quantile_ms(0.99),
    }
