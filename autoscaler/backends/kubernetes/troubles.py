"""What keeps a pod from being ready, read from its status. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoscaler.backends.kubernetes.facts import condition_of, container_of, nanoseconds, text_of
from autoscaler.backends.kubernetes.layout import SERVER

FAILURES_TO_TELL = 3
"""A server that ended so often is reported also while it is tried once more."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a pod from being ready, in Kubernetes' words."""

    kind: str
    """Unschedulable, Image, Config, Init, OutOfMemory, Crash, Killed or Lost."""
    message: str = ""
    log_tail: str = ""
    since_ns: int = 0
    """Of something that may mend by itself: since when it is so."""
    final: bool = True
    """Whether it has failed, not only begun to."""


_IMAGE = frozenset({
    "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
    "RegistryUnavailable", "SignatureValidationFailed",
})  # fmt: skip
_SIGNALLED = frozenset({137, 143})
"""By SIGKILL or SIGTERM: most likely by the kubelet, because a probe failed."""
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"})

_NOT_YET_HEARD = ("failed to sync secret cache", "failed to sync configmap cache")
"""The kubelet has waited a second for what the API server has; it asks again by itself."""


def trouble_of(status: Mapping[str, Any]) -> Trouble | None:
    """What is wrong with a pod that is not ready; None when nothing is, or not yet."""
    if status.get("phase") == "Failed":
        said = f"{status.get('reason') or 'Failed'}: {status.get('message') or 'the pod has ended'}"
        return Trouble("Lost", text_of(said))
    scheduled = condition_of(status, "PodScheduled")
    if scheduled.get("status") == "False":
        since = nanoseconds(scheduled.get("lastTransitionTime"))
        return Trouble("Unschedulable", text_of(scheduled.get("message")), since_ns=since)
    for one in status.get("initContainerStatuses") or ():
        found = _of_container(one, init=True)
        if found is not None:
            return found
    return _of_container(container_of(status.get("containerStatuses"), SERVER), init=False)


def _of_container(one: Mapping[str, Any], *, init: bool) -> Trouble | None:
    state, last = one.get("state") or {}, (one.get("lastState") or {}).get("terminated") or {}
    waiting = state.get("waiting") or {}
    reason, said = str(waiting.get("reason") or ""), text_of(waiting.get("message"))
    if reason in _IMAGE:
        return Trouble("Image", f"{reason}: {said}" if said else reason, final=reason != "ErrImagePull")
    if reason in _CONFIG:
        return Trouble("Config", f"{reason}: {said}", final=not said.startswith(_NOT_YET_HEARD))
    ended = state.get("terminated") or last
    if not ended or not ended.get("exitCode") or (not init and not one.get("restartCount") and "running" in state):
        return None
    again = reason == "CrashLoopBackOff"
    if init:
        return Trouble("Init", *_told(ended), final=True)
    if ended.get("reason") == "OOMKilled":
        return Trouble("OutOfMemory", f"exit status {ended['exitCode']}", text_of(ended.get("message")), final=True)
    message = f"exit status {ended['exitCode']}" + (f" ({ended['reason']})" if ended.get("reason") != "Error" else "")
    final = again or int(one.get("restartCount") or 0) >= FAILURES_TO_TELL
    kind = "Killed" if ended["exitCode"] in _SIGNALLED else "Crash"
    return Trouble(kind, message, text_of(ended.get("message")), final=final)


def _told(ended: Mapping[str, Any]) -> tuple[str, str]:
    """(message, end of the log) of our own init container; the message begins with the reason and a colon."""
    text = str(ended.get("message") or "")
    try:
        told = json.loads(text)
        return f"{told['reason']}: {told['message']}", text_of(told.get("log_tail"))
    except (ValueError, KeyError, TypeError):
        out_of_memory = ended.get("reason") == "OOMKilled"
        reason = "PodOutOfMemory" if out_of_memory else "ImageBuildFailure"
        return f"{reason}: the init container ended with exit status {ended.get('exitCode')}", text_of(text)


def note_of(status: Mapping[str, Any]) -> str:
    """What the preparation had to say although it worked."""
    for one in status.get("initContainerStatuses") or ():
        ended = (one.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode") == 0 and ended.get("message"):
            try:
                return text_of(json.loads(ended["message"]).get("note"))
            except (ValueError, AttributeError):
                return ""
    return ""


def is_preparing(status: Mapping[str, Any]) -> bool:
    """Whether the pod's init container runs."""
    return any("running" in (one.get("state") or {}) for one in status.get("initContainerStatuses") or ())
