"""How a deployment may be sized: its document read into numbers, and the whole fleet's numbers as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoscaler.policy.windows import Bools, Floats, Ints
from router.contract.azure import deployment_from_document, endpoint_from_document, without_read_only
from router.contract.events import EndpointRevision
from router.contract.specs import DeploymentSpec, EndpointSpec, Kind, TargetUtilization, template_hash


@dataclass(frozen=True, slots=True)
class Sizing:
    """One deployment's numbers."""

    low: int
    high: int
    fixed: int
    """`instance_count` where the policy is a fixed number; -1 where replicas follow utilization."""
    initial: int
    """Replicas of a deployment that has just been created: it is tried out before it may idle."""
    capacity: int
    """Requests one replica serves at once."""
    target: float
    """0–1 of the capacity that should be busy."""
    polling_seconds: float
    idle_seconds: float
    backlog_seconds: float
    """Time in which what waits should be served."""
    drain_seconds: float
    candidate: bool
    """A mirror target without live traffic: shadow demand may size it."""
    template: str
    """Identity of what a replica runs, restarts included."""
    backend: str | None
    """Where it must run; None = wherever its kind runs."""
    kind: Kind
    """Which kind of document it is: names the backend it runs on where that one is there."""


def sizing_of(revision: EndpointRevision, deployment: str) -> Sizing:
    """The numbers of one deployment of `revision`. Raises `InvalidSpec` for a document that cannot be read."""
    endpoint = endpoint_from_document(without_read_only(revision.document))
    kind = Kind.KUBERNETES if endpoint.compute else Kind.MANAGED
    document = without_read_only(revision.deployments[deployment])
    spec = deployment_from_document(document, endpoint_name=revision.endpoint, kind=kind)
    rule = _rule(spec)
    low, high = spec.instance_bounds()
    fixed = max(low, min(high, spec.instance_count))
    polling = (rule or TargetUtilization()).polling_interval
    return Sizing(
        low=low,
        high=high,
        fixed=-1 if rule else fixed,
        initial=fixed,
        capacity=spec.request_settings.max_concurrent_requests_per_instance,
        target=(rule or TargetUtilization()).target_utilization_percentage / 100,
        polling_seconds=polling,
        idle_seconds=spec.extras.idle_seconds,
        backlog_seconds=max(polling, spec.request_settings.max_queue_wait_ms / 1000),
        drain_seconds=spec.extras.drain_seconds,
        candidate=_is_candidate(endpoint, deployment),
        template=template_of(revision, deployment),
        backend=spec.extras.backend,
        kind=spec.kind,
    )


def _rule(spec: DeploymentSpec) -> TargetUtilization | None:
    """Azure's rule where it is asked for, or where `tidegate.max_instances` opens a fixed count upwards; else None."""
    if isinstance(spec.scale_settings, TargetUtilization):
        return spec.scale_settings
    return TargetUtilization() if spec.extras.max_instances is not None else None


def _is_candidate(endpoint: EndpointSpec, deployment: str) -> bool:
    weights = {name.lower(): weight for name, weight in endpoint.traffic.items()}
    return not weights.get(deployment, 0) and any(one.deployment.lower() == deployment for one in endpoint.mirrors())


def template_of(revision: EndpointRevision, deployment: str) -> str:
    """`template_hash` of the document, with the restart count where replicas were asked to be replaced."""
    restarts = revision.restarts.get(deployment, 0)
    plain = template_hash(revision.deployments[deployment])
    return f"{plain}-{restarts}" if restarts else plain


@dataclass(frozen=True, slots=True)
class SpecTable:
    """`Sizing` of the whole fleet: one array per number, one row per deployment."""

    low: Ints
    high: Ints
    fixed: Ints
    initial: Ints
    capacity: Floats
    target: Floats
    polling_ns: Ints
    idle_ns: Ints
    backlog_seconds: Floats
    candidate: Bools


def table_of(sizings: Sequence[Sizing]) -> SpecTable:
    """The arrays, in the order of `sizings`."""

    def whole(name: str) -> Ints:
        return np.array([getattr(one, name) for one in sizings], np.int64)

    def real(name: str) -> Floats:
        return np.array([getattr(one, name) for one in sizings], np.float64)

    return SpecTable(
        low=whole("low"),
        high=whole("high"),
        fixed=whole("fixed"),
        initial=whole("initial"),
        capacity=real("capacity"),
        target=real("target"),
        polling_ns=np.maximum((real("polling_seconds") * 1e9).astype(np.int64), 1),
        idle_ns=(real("idle_seconds") * 1e9).astype(np.int64),
        backlog_seconds=real("backlog_seconds"),
        candidate=np.array([one.candidate for one in sizings], np.bool_),
    )
