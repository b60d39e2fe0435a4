"""What an API server refuses or fails to do, as our errors: whose fault it is and what to do about it. Pure.

The server's own words are kept in the message; what has to be added to a Role is spelled out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.contract.errors import TidegateError
from router.runtime.kubernetes.resources import Resource

_USER = re.compile(r'User "([^"]+)" cannot')
_LOST_OUTPUT = re.compile(
    r'(unable to retrieve container logs for \S+://\S+|failed to try resolving symlinks in path "[^"\n]*": [^\n]*)\s*'
)
_CANNOT = re.compile(r'cannot ([a-z]+) resource "([^"]+)" in API group "([^"]*)"')


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as RBAC names it."""

    verb: str
    """get, list, watch, create, patch, update or delete."""
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        """`patch deployments shop-blue in namespace models`."""
        plural = f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural
        name = f" {self.name}" if self.name else ""
        return f"{self.verb} {plural}{name}" + (f" in namespace {self.namespace}" if self.namespace else "")


class KubernetesError(TidegateError):
    """The API server did not do what it was asked."""

    status = 502

    def __init__(self, message: str, *, asked: Asked | None = None, answered: int = 0) -> None:
        """`answered`: the HTTP status; 0 when there was no answer."""
        super().__init__(message)
        self.asked = asked
        self.answered = answered
        self.wait_seconds = 0.0
        """How long the server wants not to be asked."""


class Unreachable(KubernetesError):
    """There is no answer: the server is away, too slow, or not who it should be."""

    code = "KubernetesUnaccessible"
    status = 503
    retryable = True


class Busy(KubernetesError):
    """The server asks for patience (429) or has failed by itself (5xx)."""

    code = "KubernetesUnaccessible"
    status = 503
    retryable = True


class NotSignedIn(KubernetesError):
    """The server does not know us: credentials are missing, wrong or expired."""

    code = "TokenRefreshFailed"
    retryable = True


class Denied(KubernetesError):
    """We may not do that (RBAC); the message names the rule to add."""

    code = "AuthorizationFailed"


class OverQuota(KubernetesError):
    """A ResourceQuota or LimitRange of the namespace does not allow it."""

    code = "OutOfQuota"


class Rejected(KubernetesError):
    """The object is not acceptable: invalid, or refused by an admission rule."""

    code = "InvalidDeploymentSpec"


class Contested(KubernetesError):
    """Somebody else has changed the object meanwhile, or it is there already."""

    code = "Conflict"
    status = 409
    retryable = True


class Absent(KubernetesError):
    """There is no such object, kind or namespace."""

    code = "ResourceNotFound"
    status = 404


class Expired(KubernetesError):
    """What the watch wants to go on from is no longer remembered (410): list anew."""

    code = "Expired"
    status = 410
    retryable = True


def unreachable(asked: Asked, server: str, problem: str) -> Unreachable:
    """No answer came."""
    return Unreachable(f"the Kubernetes API server at {server} cannot be reached: {problem} ({asked})", asked=asked)


def lost_output(asked: Asked, text: str) -> Absent | None:
    """The error that `text`, read with status 200 as a container's output, in truth is: kubelets tell so, and in no other
    way, that the runtime has removed the container meanwhile. None where it is output.
    """
    if _LOST_OUTPUT.fullmatch(text) is None:
        return None
    return Absent(f"the node no longer has it: {text.strip()} ({asked})", asked=asked, answered=200)


def failure(
    asked: Asked, status: int, body: bytes | Mapping[str, Any], retry_after: str | None = None
) -> KubernetesError:
    """The error for an answer with `status` ≥ 400 and a `Status` object (or any text) as `body`."""
    told = _told(body)
    said = str(told.get("message") or f"HTTP {status}")
    error = _of(asked, status, said, str(told.get("reason") or ""))
    error.wait_seconds = _seconds(retry_after, told)
    return error


def _of(asked: Asked, status: int, said: str, reason: str) -> KubernetesError:
    kind: type[KubernetesError]
    if status == 403:
        return _forbidden(asked, said)
    if status == 401:
        kind, text = NotSignedIn, (
            f"the Kubernetes API server does not accept our credentials ({asked}): {said}; "
            "renew the token or certificate in the kubeconfig, or its exec command"
        )  # fmt: skip
    elif status == 404:
        kind, text = Absent, f"{said} ({asked})"
    elif status == 409:
        kind, text = Contested, f"{said} ({asked})"
    elif status == 410 or reason == "Expired":
        kind, text = Expired, f"{said} ({asked})"
    elif status == 429 or status >= 500:
        kind, text = Busy, f"the Kubernetes API server asks for patience ({asked}): {said}"
    else:
        kind, text = Rejected, f"{said} ({asked})"
    return kind(text, asked=asked, answered=status)


def _forbidden(asked: Asked, said: str) -> KubernetesError:
    if "exceeded quota" in said or re.search(r"maximum \S+ usage per", said):
        text = f"{said}; ask for less, or have the namespace's ResourceQuota raised ({asked})"
        return OverQuota(text, asked=asked, answered=403)
    found = _USER.search(said)
    if found is None:  # an admission rule, such as Pod Security or a namespace that is being deleted
        return Rejected(f"{said} ({asked})", asked=asked, answered=403)
    return Denied(f"{said}; {missing_rule(asked, said)}", asked=asked, answered=403)


def missing_rule(asked: Asked, said: str) -> str:
    """What has to stand in a Role for `asked` to be allowed; the server's own words go before ours."""
    verb, group = asked.verb, asked.resource.group
    plural = f"{asked.resource.plural}/{asked.subresource}" if asked.subresource else asked.resource.plural
    named = _CANNOT.search(said)
    if named is not None:
        verb, plural, group = named[1], named[2], named[3]
    user = _USER.search(said)
    who = f" that is bound to {user[1]}" if user else ""
    role = f"the Role in namespace {asked.namespace}" if asked.namespace else "the ClusterRole"
    rule = json.dumps({"apiGroups": [group], "resources": [plural], "verbs": [verb]})
    return f"add the rule {rule} to {role}{who}"


def _told(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(body, Mapping):
        return body
    try:
        told = json.loads(body)
    except ValueError:
        return {"message": body[:300].decode(errors="replace").strip()}
    return told if isinstance(told, dict) else {}


def _seconds(retry_after: str | None, told: Mapping[str, Any]) -> float:
    text = retry_after or str((told.get("details") or {}).get("retryAfterSeconds") or "")
    return min(60.0, float(text)) if text.isascii() and text.isdecimal() else 0.0
