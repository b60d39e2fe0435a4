"""How an operation is doing, decided from what is published and what the autoscaler says it runs.

An operation is over when the world has caught up with its revision: an endpoint's change when it is published, a
deployment's when every replica of that revision is ready (or failed), a deletion when nothing of it is left.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.contract.events import DeploymentReplicas, Phase
from router.control.content import OperationKind

Replicas = Mapping[str, DeploymentReplicas]


class Status(enum.StrEnum):
    """Azure's words for where an operation is."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation or a deployment failed."""

    code: str
    message: str
    log_tail: str = ""

    def to_json(self) -> dict[str, Any]:
        """`{"code", "message", "log_tail"}`."""
        return {"code": self.code, "message": self.message, "log_tail": self.log_tail}


@dataclass(frozen=True, slots=True)
class Operation:
    """One asynchronous operation, as stored."""

    id: str
    kind: OperationKind
    endpoint: str
    deployment: str | None
    revision: int
    started_ns: int
    status: Status = Status.IN_PROGRESS
    phase: str = Phase.PENDING
    progress: float = 0.0
    """0–1."""
    message: str = ""
    finished_ns: int | None = None
    error: Failure | None = None
    all_traffic: bool = False
    await_revision: int = 0

    @property
    def open(self) -> bool:
        """Whether it is still under way."""
        return self.status is Status.IN_PROGRESS


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an operation is right now."""

    status: Status
    phase: str
    progress: float
    message: str
    error: Failure | None = None


def progress_of(operation: Operation, replicas: Replicas, published: int, wanted: Sequence[str]) -> Progress:
    """Where an open `operation` is.

    `replicas` is what the autoscaler last said of the endpoint, `published` the newest revision that is committed to
    the log, `wanted` the deployments of the newest revision (for operations about a whole endpoint).
    """
    if published < operation.await_revision:
        return _waiting("waiting for the log to accept the revision")
    if operation.kind is OperationKind.DELETE:
        left = sorted(replicas) if operation.deployment is None else [operation.deployment]
        return _deletion([replicas[name] for name in left if name in replicas])
    if operation.deployment is not None:
        return _provisioning(operation.revision, replicas.get(operation.deployment))
    if operation.kind is OperationKind.ROLLBACK:
        return _slowest([_provisioning(operation.revision, replicas.get(name)) for name in wanted])
    return _DONE


_DONE = Progress(Status.SUCCEEDED, Phase.READY, 1.0, "")


def _waiting(message: str) -> Progress:
    return Progress(Status.IN_PROGRESS, Phase.PENDING, 0.0, message)


def _deletion(left: Sequence[DeploymentReplicas]) -> Progress:
    count = sum(len(one.replicas) for one in left)
    if not left:
        return Progress(Status.SUCCEEDED, Phase.DELETING, 1.0, "")
    return Progress(Status.IN_PROGRESS, Phase.DELETING, 0.0, f"{count} replicas still to drain and end")


def _provisioning(revision: int, now: DeploymentReplicas | None) -> Progress:
    if now is None or now.revision < revision:
        return _waiting("waiting for the autoscaler to take up the revision")
    if now.phase is Phase.READY:
        return Progress(Status.SUCCEEDED, now.phase, 1.0, now.message)
    if now.phase is Phase.FAILED:
        failure = Failure(now.reason or "InternalServerError", now.message or "the deployment failed", now.log_tail)
        return Progress(Status.FAILED, now.phase, now.progress, now.message, failure)
    return Progress(Status.IN_PROGRESS, now.phase, now.progress, now.message)


def _slowest(parts: Sequence[Progress]) -> Progress:
    """The part that a rollback waits for: a failed one, else the one furthest behind."""
    for status in (Status.FAILED, Status.IN_PROGRESS):
        chosen = [part for part in parts if part.status is status]
        if chosen:
            return min(chosen, key=lambda part: part.progress)
    return _DONE


class ProvisioningState(enum.StrEnum):
    """Azure's words for where an endpoint or a deployment is."""

    CREATING = "Creating"
    UPDATING = "Updating"
    SCALING = "Scaling"
    DELETING = "Deleting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_WHILE_OPEN = {
    OperationKind.CREATE: ProvisioningState.CREATING,
    OperationKind.DELETE: ProvisioningState.DELETING,
}


def endpoint_state(newest: Operation | None, published: int) -> ProvisioningState:
    """An endpoint's state, from the newest operation about the endpoint itself and the newest published revision."""
    if newest is None or not newest.open:
        return ProvisioningState.SUCCEEDED
    if newest.kind in (OperationKind.CREATE, OperationKind.UPDATE) and published >= newest.await_revision:
        return ProvisioningState.SUCCEEDED
    return _WHILE_OPEN.get(newest.kind, ProvisioningState.UPDATING)


def deployment_state(newest: Operation | None, now: DeploymentReplicas | None) -> ProvisioningState:
    """A deployment's state, from the newest operation that touches it and what the autoscaler says of it.

    What runs wins over how the last operation ended: a deployment that recovered by itself is `Succeeded`, one that
    broke since is `Failed`, and one whose count changes without an operation is `Scaling`.
    """
    if newest is not None and newest.open:
        return _WHILE_OPEN.get(newest.kind, ProvisioningState.UPDATING)
    if now is None:
        failed = newest is not None and newest.status is Status.FAILED
        return ProvisioningState.FAILED if failed else ProvisioningState.SUCCEEDED
    if now.phase is Phase.READY:
        return ProvisioningState.SUCCEEDED
    if now.phase is Phase.FAILED:
        return ProvisioningState.FAILED
    if newest is not None and newest.status is Status.FAILED:
        return ProvisioningState.FAILED
    return ProvisioningState.DELETING if now.phase is Phase.DELETING else ProvisioningState.SCALING
