"""What is kept of pods and of the objects around them: small values, read from the API server's JSON. Pure.

A pod has some 8 KB of JSON; a fleet of thousands must not stay in memory as that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoscaler.backends.base import ObservedReplica, Target
from autoscaler.backends.kubernetes import names
from autoscaler.backends.kubernetes.facts import condition_of, container_of, cost, count, nanoseconds, text_of
from autoscaler.backends.kubernetes.layout import SERVER
from autoscaler.backends.kubernetes.troubles import Trouble, is_preparing, note_of, trouble_of
from router.contract.events import ReplicaState

MOST_TEXT = 2000
"""Characters kept of any message or end of a log."""

FAILURES_TO_TELL = 3
"""A server that ended so often is reported also while it is tried once more."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod that runs, is to run, or has just run."""

    name: str
    uid: str
    endpoint: str
    deployment: str
    template: str
    workload: str
    """Name of the Deployment it belongs to."""
    ending: bool
    """Somebody has deleted it, or it is over: no request may go there."""
    over: bool
    """It has ended for good (evicted, out of its node's resources) and only its object is left."""
    scheduled: bool
    running: bool
    ready: bool
    lapsed: bool
    """Its server was ready since it was started, and is not now."""
    preparing: bool
    """Its init container runs."""
    host: str
    port: int
    instance_type: str
    restarts: int
    created_ns: int
    ready_ns: int
    cost: int
    """Pod deletion cost; lower ones go first."""
    trouble: Trouble | None
    note: str = ""
    """What a user should know although it works."""
    zone: str = ""

    @property
    def target(self) -> Target:
        """Whose replica it is."""
        return self.endpoint, self.deployment

    def observed(self) -> ObservedReplica:
        """As the backend's interface says it."""
        state = ReplicaState.READY if self.ready else ReplicaState.UNREADY if self.lapsed else ReplicaState.STARTING
        return ObservedReplica(
            id=self.name,
            endpoint=self.endpoint,
            deployment=self.deployment,
            template=self.template,
            state=state,
            host=self.host,
            port=self.port,
            instance_type=self.instance_type,
            restarts=self.restarts,
            created_ns=self.created_ns,
            ready_ns=self.ready_ns,
            zone=self.zone,
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """One Deployment in the cluster: one template of one online deployment."""

    name: str
    uid: str
    version: str
    """`resourceVersion`."""
    endpoint: str
    deployment: str
    template: str
    generation: int
    """Ownership that last wrote."""
    manifest: str
    """Fingerprint of the pod template that was asked for."""
    edits: int
    """`metadata.generation`: counts up with every change of the spec, whoever's."""
    labelled: bool
    """Whether its labels and its annotations are as we left them."""
    replicas: int
    """Asked for."""
    running: int
    """Pods as its controller last counted them, those that end not among them."""
    failure: str
    """Why the controller could not create pods."""
    failure_since_ns: int
    ending: bool

    @property
    def target(self) -> Target:
        """Whose template it runs."""
        return self.endpoint, self.deployment


@dataclass(frozen=True, slots=True)
class Account:
    """The ServiceAccount of one endpoint, which also keeps the ownership's generation."""

    name: str
    version: str
    endpoint: str
    generation: int
    manifest: str
    """Fingerprint of what the endpoint said about it."""
    annotations: Mapping[str, str]
    """Those that are not Tidegate's own."""
    mounts_token: bool
    """Whether pods get a token for the cluster's API by it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The PodDisruptionBudget of one deployment."""

    endpoint: str
    deployment: str
    edits: int
    """`metadata.generation`: counts up with every change of the spec, whoever's."""
    spec: Mapping[str, Any]

    @property
    def target(self) -> Target:
        """Whose replicas it protects."""
        return self.endpoint, self.deployment


def budget(found: Mapping[str, Any]) -> Budget:
    """From the JSON of a PodDisruptionBudget."""
    metadata = found["metadata"]
    labels = metadata.get("labels") or {}
    identity = str(labels.get(names.ENDPOINT)), str(labels.get(names.DEPLOYMENT))
    return Budget(*identity, int(metadata.get("generation") or 0), found.get("spec") or {})


def account(found: Mapping[str, Any]) -> Account:
    """From the JSON of a ServiceAccount."""
    metadata = found["metadata"]
    labels, about = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return Account(
        metadata["name"],
        str(metadata.get("resourceVersion") or ""),
        labels.get(names.ENDPOINT, ""),
        count(about.get(names.GENERATION)),
        about.get(names.MANIFEST, ""),
        {name: text for name, text in about.items() if name not in {names.GENERATION, names.MANIFEST}},
        found.get("automountServiceAccountToken") is not False,
    )


def workload(found: Mapping[str, Any]) -> Workload:
    """From the JSON of a Deployment."""
    metadata, spec, status = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    labels, about = metadata.get("labels") or {}, metadata.get("annotations") or {}
    identity = labels.get(names.ENDPOINT, ""), labels.get(names.DEPLOYMENT, ""), labels.get(names.TEMPLATE, "")
    ours = {names.WORKLOAD: metadata["name"], **names.labels(*identity)}
    named = all(identity) and metadata["name"] == names.deployment_name(*identity)
    failed = condition_of(status, "ReplicaFailure")
    return Workload(
        metadata["name"],
        metadata.get("uid", ""),
        str(metadata.get("resourceVersion") or ""),
        *identity,
        generation=count(about.get(names.GENERATION)),
        manifest=about.get(names.MANIFEST, ""),
        edits=int(metadata.get("generation") or 0),
        labelled=named and all(labels.get(name) == value for name, value in ours.items()) and names.GENERATION in about,
        replicas=int(spec.get("replicas") or 0),
        running=int(status.get("replicas") or 0),
        failure=text_of(failed.get("message")) if failed.get("status") == "True" else "",
        failure_since_ns=nanoseconds(failed.get("lastTransitionTime")),
        ending="deletionTimestamp" in metadata,
    )


def pod(found: Mapping[str, Any], before: Pod | None = None, now_ns: int = 0) -> Pod:
    """From the JSON of a pod. `now_ns`: the time if the change was seen as it happened, else 0."""
    metadata, spec, status = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    labels, about = metadata.get("labels") or {}, metadata.get("annotations") or {}
    server = container_of(status.get("containerStatuses"), SERVER)
    readiness = condition_of(status, "Ready")
    over = status.get("phase") in ("Succeeded", "Failed")
    ending = over or "deletionTimestamp" in metadata
    ready = readiness.get("status") == "True" and not ending
    started = (server.get("state") or {}).get("running") or {}
    created_ns = nanoseconds(metadata.get("creationTimestamp"))
    changed_ns = nanoseconds(readiness.get("lastTransitionTime"))
    lapsed = not ready and bool(started) and 0 < nanoseconds(started.get("startedAt")) < changed_ns
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        endpoint=labels.get(names.ENDPOINT, ""),
        deployment=labels.get(names.DEPLOYMENT, ""),
        template=labels.get(names.TEMPLATE, ""),
        workload=labels.get(names.WORKLOAD, ""),
        ending=ending,
        over=over,
        scheduled=bool(spec.get("nodeName")),
        running=status.get("phase") == "Running",
        ready=ready,
        lapsed=lapsed or (before is not None and before.ready and not ready and bool(started)),
        preparing=is_preparing(status),
        host=status.get("podIP") or "",
        port=count(about.get(names.PORT)),
        instance_type=about.get(names.INSTANCE_TYPE, ""),
        restarts=int(server.get("restartCount") or 0),
        created_ns=created_ns,
        ready_ns=_ready_ns(before, ready=ready, changed_ns=changed_ns, now_ns=now_ns, created_ns=created_ns),
        cost=cost(about.get(names.COST)),
        trouble=None if ready or ("deletionTimestamp" in metadata) else trouble_of(status),
        note=note_of(status),
        zone=labels.get(names.ZONE, ""),
    )


def _ready_ns(before: Pod | None, *, ready: bool, changed_ns: int, now_ns: int, created_ns: int) -> int:
    """When it became ready: the server's clock counts whole seconds, ours is finer for what we saw happen."""
    known = before.ready_ns if before is not None else 0
    if not ready:
        return known
    if before is not None and before.ready and before.ready_ns:
        return known
    return max(now_ns or changed_ns, created_ns)
