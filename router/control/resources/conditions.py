"""The status of an object: what it agrees with, how it is doing, and why. Pure.

`Accepted` is about the spec, `Progressing` about what is still under way, `Ready` about requests: they are answered as
the spec says. A message says what is so and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.contract.events import DeploymentReplicas, Phase
from router.control import views
from router.control.content import Standing
from router.control.fleet import replica_counts
from router.control.resources.agreement import Replicas, Told, serves
from router.control.resources.kinds import DEPLOYMENT_LABEL, ENDPOINT_LABEL
from router.control.resources.objects import ACCEPTED, PROGRESSING, READY, Found, Json

Status = dict[str, Any]
MESSAGE_CHARACTERS = 8000
"""Of a condition; what a deployment says can be long."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an object's spec."""

    accepted: bool
    told: Told
    revision: int | None = None
    """The revision that it agrees with, when accepted."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Key that names a ConfigMap → the asset that was made of it."""
    final: bool = True
    """Whether nothing of it is under way; one that waits is not."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known about an endpoint besides its objects."""

    standing: Standing | None
    """None when there never was one."""
    published: int
    """The newest revision that is in force."""
    replicas: Replicas
    governing: Mapping[str, int]
    """Deployment → the revision of the last change that its replicas have to follow."""
    gateway_url: str
    keys_secret: str = ""


def endpoint_status(found: Found, verdict: Verdict, around: Surroundings, now: str) -> Status:
    """The whole status of an OnlineEndpoint at `now`, an RFC 3339 time."""
    status: Status = {"observedGeneration": found.generation}
    revision = verdict.revision if verdict.accepted else found.revision
    status |= {} if revision is None else {"revision": revision}
    standing = around.standing
    if standing is not None and not standing.deleted:
        shown = views.endpoint(standing, None, around.published, around.gateway_url)
        mirrors = views.mirror_percents(standing.content.document)
        counts = [replica_counts(around.replicas.get(name)) for name in standing.content.deployments]
        ready, desired = (sum(count[key] for count in counts) for key in ("ready", "desired"))
        status |= {
            "scoring_uri": shown["scoring_uri"],
            "traffic": _shares(standing.content.traffic),
            "mirror": _shares({name: percent for name, percent in mirrors.items() if percent}),
            "ready": f"{ready}/{desired}",
        }
    if around.keys_secret:
        status["keys_secret"] = around.keys_secret
    told = [_accepted(verdict), *_endpoint_health(verdict, around)]
    return {**status, "conditions": _conditions(found, told, now)}


def deployment_status(found: Found, verdict: Verdict, around: Surroundings, now: str) -> Status:
    """The whole status of an OnlineDeployment at `now`, an RFC 3339 time."""
    name, standing = found.deployment, around.standing
    status: Status = {"observedGeneration": found.generation}
    revision = verdict.revision if verdict.accepted else found.revision
    status |= {} if revision is None else {"revision": revision}
    replicas = around.replicas.get(name) if verdict.accepted or found.revision is not None else None
    counts = replica_counts(replicas)
    status |= {
        "replicas": counts["observed"],
        "ready": counts["ready"],
        "desired": counts["desired"],
        "selector": f"{ENDPOINT_LABEL}={found.endpoint},{DEPLOYMENT_LABEL}={name}",
    }
    if standing is not None and not standing.deleted and name in standing.content.deployments:
        shown = views.endpoint(standing, None, around.published, around.gateway_url)
        status |= {
            "scoring_uri": shown["scoring_uri"],
            "weight": standing.content.traffic.get(name, 0),
            "mirror": views.mirror_percents(standing.content.document).get(name, 0),
        }
    if replicas is not None:
        status |= {"phase": str(replicas.phase), "reason": replicas.reason, "message": _cut(replicas.message)}
    status |= {"files": dict(verdict.files)} if verdict.files else {}
    told = [_accepted(verdict), *_deployment_health(found, verdict, around)]
    return {**status, "conditions": _conditions(found, told, now)}


def changed(found: Found, status: Status) -> dict[str, Any] | None:
    """JSON merge patch of the object's status that makes it `status`; None when it is so already."""
    patch: dict[str, Any] = {name: value for name, value in status.items() if found.status.get(name) != value}
    patch |= {name: None for name in found.status if name not in status}
    if isinstance(patch.get("files"), dict):  # merged key by key
        patch["files"] |= {key: None for key in found.status.get("files") or {} if key not in patch["files"]}
    return patch or None


def happenings(found: Found, status: Status) -> list[tuple[bool, str, str]]:
    """What the new status of an object says that the old one did not: (whether it is bad, reason, message)."""
    now = {one["type"]: one for one in status["conditions"]}
    told = []
    accepted, was = now[ACCEPTED], found.condition(ACCEPTED) or {}
    if accepted["status"] != "True":
        if any(accepted[key] != was.get(key) for key in ("status", "reason", "message")):
            told.append((accepted["reason"] not in _HARMLESS, accepted["reason"], accepted["message"]))
        return told
    ready, was = now[READY], found.condition(READY) or {}
    if any(ready[key] != was.get(key) for key in ("status", "reason")):
        told.append((ready["reason"] not in _HARMLESS, ready["reason"], ready["message"]))
    return told


# the three conditions -----------------------------------------------------------------------------------------------

Condition = tuple[str, str, Told]
"""(type, status, what it is told)"""


def _accepted(verdict: Verdict) -> Condition:
    return ACCEPTED, "True" if verdict.accepted else "False", verdict.told


def _both(progressing: bool, ready: bool, told: Told) -> list[Condition]:
    return [(PROGRESSING, _word(progressing), told), (READY, _word(ready), told)]


def _endpoint_health(verdict: Verdict, around: Surroundings) -> list[Condition]:
    standing = around.standing
    if not verdict.accepted:
        return _both(not verdict.final, False, verdict.told)
    if standing is None or standing.deleted or around.published < standing.revision:
        return _both(True, False, Told("Publishing", "the log has not taken the revision yet"))
    weighted = {name: share for name, share in standing.content.traffic.items() if share}
    if not weighted:
        return _both(False, True, Told("NoTraffic", "no deployment gets traffic yet: requests are answered 404"))
    for name, share in weighted.items():
        told, ready, progressing = _state(around, name)
        if not ready:
            message = f"{name}, which gets {share} % of the traffic: {told.message}"
            return _both(progressing, False, Told(told.reason, _cut(message)))
    return _both(False, True, Told("Serving", f"requests are answered as the spec says: {_shares(weighted)}"))


def _deployment_health(found: Found, verdict: Verdict, around: Surroundings) -> list[Condition]:
    if not verdict.accepted:
        return _both(not verdict.final, False, verdict.told)
    told, ready, progressing = _state(around, found.deployment)
    return _both(progressing, ready, told)


def _state(around: Surroundings, name: str) -> tuple[Told, bool, bool]:
    """(what to say, ready, progressing) of one deployment."""
    now, revision = around.replicas.get(name), around.governing.get(name, 0)
    if now is None or now.revision < revision:
        message = f"waiting for the autoscaler to take up revision {revision}; `tidegate status` shows whether one runs"
        return Told("WaitingForAutoscaler", message), False, True
    if now.phase is Phase.READY:
        return Told("Ready", _running(now)), True, False
    if now.phase is Phase.FAILED:
        return Told(now.reason or "InternalServerError", _cut(now.message or "the deployment failed")), False, False
    if now.phase is Phase.SCALING and serves(now):
        return Told("Scaling", _running(now)), True, True
    words = now.message or f"{now.phase}: {_running(now)}"
    return Told(now.reason or _PHASE_REASONS.get(now.phase, "Starting"), _cut(words)), False, True


_PHASE_REASONS: Mapping[Phase, str] = {
    Phase.PENDING: "Pending",
    Phase.BUILDING: "Building",
    Phase.STARTING: "Starting",
    Phase.SCALING: "Scaling",
    Phase.DELETING: "Deleting",
}


_HARMLESS = frozenset({
    "Draining", "EndpointDeleting", "NoTraffic", "Publishing", "Ready", "Serving", "WaitingForAutoscaler",
    "WaitingForDeployment", "WaitingForEndpoint", *_PHASE_REASONS.values(),
})  # fmt: skip
"""Reasons that are no trouble."""


def _running(now: DeploymentReplicas) -> str:
    counts = replica_counts(now)
    if not counts["desired"] and not counts["ready"]:
        return "scaled to zero; the next request starts a replica"
    return f"{counts['ready']} of {counts['desired']} replicas are ready"


def _conditions(found: Found, told: Sequence[Condition], now: str) -> list[Json]:
    made: list[Json] = []
    for kind, status, words in told:
        before = found.condition(kind)
        same = before is not None and before.get("status") == status
        since = before["lastTransitionTime"] if before is not None and same else now
        made.append({
            "type": kind,
            "status": status,
            "reason": words.reason,
            "message": _cut(words.message),
            "lastTransitionTime": since,
            "observedGeneration": found.generation,
        })  # fmt: skip
    return made


def _word(flag: bool) -> str:
    return "True" if flag else "False"


def _shares(shares: Mapping[str, float]) -> str:
    return " ".join(f"{name}={share:g}" for name, share in shares.items() if share)


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 1] + "…"
