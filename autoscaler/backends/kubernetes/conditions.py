"""How a deployment is doing, in Azure's words, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoscaler.backends.base import Condition
from autoscaler.backends.kubernetes.reading import Pod, Workload
from autoscaler.backends.kubernetes.troubles import Trouble
from router.contract.errors import TidegateError
from router.contract.events import Phase


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of the newest template of one deployment."""

    template: str
    count: int
    pods: Sequence[Pod] = ()
    """Of this template."""
    workload: Workload | None = None
    code: bool = False
    """Whether a scoring script is served, not a server of the user's own."""
    refusal: tuple[str, str] | None = None
    """(reason, message) why the document cannot become a pod."""
    error: TidegateError | None = None
    """Why the last write failed, or why nothing can be seen."""
    error_since_ns: int = 0
    probes: Mapping[str, str] = field(default_factory=dict)
    """Pod → what its failing probe said."""
    tails: Mapping[str, str] = field(default_factory=dict)
    """Pod → the end of its failed server's output, where more is known than its status says."""
    note: str = ""


def condition(scene: Scene, now_ns: int, patience_ns: int) -> Condition:
    """What to say. What may mend by itself is a failure only after `patience_ns`."""
    ready = sum(1 for one in scene.pods if one.ready)
    notes = [scene.note, *sorted({one.note for one in scene.pods})]
    reason, message, log_tail, final = _worst(scene, now_ns, patience_ns)
    if ready >= scene.count and not (scene.count == 0 and final and reason):
        outage = message if scene.error is not None else ""
        text = "; ".join(one for one in (*notes, outage) if one)
        return Condition(Phase.READY, scene.template, message=text)
    if reason and final and not ready:
        return Condition(Phase.FAILED, scene.template, reason, message, log_tail)
    if reason:
        phase = Phase.SCALING if ready else Phase.STARTING
        return Condition(phase, scene.template, message=message, log_tail=log_tail)
    if any(one.preparing for one in scene.pods):
        text = "files and environment are being prepared"
        return Condition(Phase.SCALING if ready else Phase.BUILDING, scene.template, message=text, progress=0.0)
    text = "; ".join(one for one in notes if one)
    if ready:
        return Condition(Phase.SCALING, scene.template, message=text)
    return Condition(Phase.STARTING if scene.pods else Phase.PENDING, scene.template, message=text)


Finding = tuple[str, str, str, bool]
"""(reason, message, log tail, whether it has failed for good); an empty reason = nothing is wrong."""
_NOTHING: Finding = ("", "", "", False)


def _worst(scene: Scene, now_ns: int, patience_ns: int) -> Finding:
    if scene.refusal is not None:
        return (*scene.refusal, "", True)
    if scene.error is not None:
        late = now_ns - scene.error_since_ns > patience_ns
        message = f"{scene.error.message}; what runs is left as it is, and the server is asked again"
        return scene.error.code, message, "", late or not scene.error.retryable
    live = scene.workload
    found = [_of_pod(scene, one, now_ns, patience_ns) for one in scene.pods if not one.ready]
    found = sorted((one for one in found if one[0]), key=lambda one: not one[3])
    if found and (found[0][3] or live is None or not live.failure):
        return found[0]
    if live is not None and live.failure:
        late = now_ns - live.failure_since_ns > patience_ns
        return (*_creation(live.failure), "", late or "exceeded quota" not in live.failure)
    return found[0] if found else _NOTHING


def _creation(said: str) -> tuple[str, str]:
    """Why the ReplicaSet could not create a pod."""
    if "exceeded quota" in said:
        return "OutOfQuota", f"{said}; raise the namespace's ResourceQuota, or ask for less with instance_type"
    if "violates PodSecurity" in said:
        return (
            "InvalidDeploymentSpec",
            f"{said}; the namespace's Pod Security level does not allow this image to run so",
        )
    if "serviceaccount" in said.lower() and "not found" in said:
        return "ResourceNotReady", said
    return "InvalidDeploymentSpec", f"{said}; an admission rule of the cluster refuses these pods"


def _of_pod(scene: Scene, one: Pod, now_ns: int, patience_ns: int) -> Finding:
    trouble, probe = one.trouble, scene.probes.get(one.name)
    log_tail = scene.tails.get(one.name) or (trouble.log_tail if trouble is not None else "")
    if trouble is None or (trouble.kind == "Killed" and probe):
        if not probe:
            return _NOTHING
        message = f"{probe}; check the route and the port, or give the server more time with readiness_probe"
        return "ReadinessProbeFailed", message, log_tail, one.restarts > 0
    final = trouble.final
    if trouble.since_ns:
        final = now_ns - trouble.since_ns > patience_ns
    return (*_explained(scene, trouble, one), log_tail, final)


def _explained(scene: Scene, trouble: Trouble, one: Pod) -> tuple[str, str]:
    said = trouble.message
    if trouble.kind == "Unschedulable":
        hint = "add nodes, or name an instance_type that asks for less"
        return "PodUnschedulable", f"no node has room for a replica: {said}; {hint}"
    if trouble.kind == "Image":
        hint = "check its name, and that the cluster may pull it (--kubernetes-pull-secret)"
        return "ImagePullLoopBackOff", f"the image cannot be pulled: {said}; {hint}"
    if trouble.kind == "Config":
        return "InvalidDeploymentSpec", f"the container cannot be started: {said}{_root_hint(said)}"
    if trouble.kind == "Init":
        reason, _, message = said.partition(": ")
        return reason, message
    if trouble.kind == "OutOfMemory":
        hint = "name an instance_type with more memory, or raise resources.limits.memory"
        return "PodOutOfMemory", f"the server used more memory than its limit and was killed ({said}); {hint}"
    if trouble.kind == "Lost":
        return "ResourceNotReady", f"replica {one.name} was lost: {said}"
    what = "the scoring script's init()" if scene.code else "the server"
    message = f"{what} ended {one.restarts + 1} times in a row before it was healthy: {said}"
    return ("UserScriptInitFailed" if scene.code else "ResourceNotReady"), message


def _root_hint(said: str) -> str:
    if "runAsNonRoot" not in said:
        return ""
    return "; give the image a numeric USER, or let users' images run as root with --kubernetes-allow-root"
