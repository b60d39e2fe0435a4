"""Phase, reason and next step from what is known of a deployment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from autoscaler.backends.kubernetes.conditions import Scene, condition
from autoscaler.backends.kubernetes.reading import Pod, Workload
from autoscaler.backends.kubernetes.troubles import Trouble
from router.contract.events import Phase
from router.runtime.kubernetes import DEPLOYMENTS, Asked, Denied, Unreachable

S = 10**9
NOW, PATIENCE = 1000 * S, 60 * S
ASKED = Asked("patch", DEPLOYMENTS, "models", "d")


def pod(trouble: Trouble | None = None, *, ready: bool = False, **changes: Any) -> Pod:
    made = Pod(
        name="p", uid="u", endpoint="e", deployment="d", template="t", workload="w", ending=False, over=False,
        scheduled=True, running=True, ready=ready, lapsed=False, preparing=False, host="h", port=1, instance_type="",
        restarts=0, created_ns=0, ready_ns=0, cost=0, trouble=trouble,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def told(**scene: Any) -> tuple[Phase, str, str]:
    found = condition(Scene(**{"template": "t", "count": 1, **scene}), NOW, PATIENCE)
    assert found.template == "t"
    return found.phase, found.reason, found.message


def test_the_phases_of_a_good_life() -> None:
    assert told()[0] is Phase.PENDING
    assert told(pods=[pod(preparing=True)])[0] is Phase.BUILDING
    assert told(pods=[pod()])[0] is Phase.STARTING
    assert told(pods=[pod(ready=True)], count=2)[0] is Phase.SCALING
    assert told(pods=[pod(ready=True)])[0] is Phase.READY
    assert told(count=0)[0] is Phase.READY
    assert told(pods=[pod(ready=True, note="left out: mkl")], note="other size")[2] == "other size; left out: mkl"


@pytest.mark.parametrize(
    ("trouble", "reason", "hint"),
    [
        (Trouble("Unschedulable", "0/3 nodes", since_ns=S), "PodUnschedulable", "add nodes"),
        (Trouble("Image", "ImagePullBackOff: x"), "ImagePullLoopBackOff", "--kubernetes-pull-secret"),
        (Trouble("Config", "container has runAsNonRoot and …"), "InvalidDeploymentSpec", "--kubernetes-allow-root"),
        (Trouble("Init", "ImageBuildFailure: no such package"), "ImageBuildFailure", "no such package"),
        (Trouble("OutOfMemory", "exit status 137"), "PodOutOfMemory", "instance_type with more memory"),
        (Trouble("Crash", "exit status 3"), "ResourceNotReady", "the server ended 1 times in a row"),
        (Trouble("Killed", "exit status 137"), "ResourceNotReady", "exit status 137"),
        (Trouble("Lost", "Evicted: memory"), "ResourceNotReady", "Evicted"),
    ],
)
def test_troubles_in_azures_words(trouble: Trouble, reason: str, hint: str) -> None:
    phase, said, message = told(pods=[pod(trouble)])
    assert (phase, said) == (Phase.FAILED, reason)
    assert hint in message
    assert told(pods=[pod(trouble), pod(ready=True, name="q")], count=2)[0] is Phase.SCALING
    assert told(pods=[pod(trouble), pod(ready=True, name="q")], count=1)[0] is Phase.READY


def test_a_scoring_script_that_fails_is_the_users() -> None:
    assert told(pods=[pod(Trouble("Crash", "exit status 3"))], code=True)[1] == "UserScriptInitFailed"


def test_what_may_mend_by_itself_is_waited_for() -> None:
    young = Trouble("Unschedulable", "0/3 nodes", since_ns=NOW - PATIENCE)
    assert told(pods=[pod(young)])[0] is Phase.STARTING
    assert told(pods=[pod(Trouble("Image", "ErrImagePull", final=False))])[0] is Phase.STARTING
    assert "0/3 nodes" in told(pods=[pod(young)])[2]


def test_a_probe_that_fails_is_told_from_a_server_that_ends() -> None:
    probes = {"p": "Readiness probe failed: HTTP probe failed with statuscode: 503"}
    assert told(pods=[pod()], probes=probes)[0] is Phase.STARTING
    phase, reason, message = told(pods=[pod(restarts=1)], probes=probes)
    assert (phase, reason) == (Phase.FAILED, "ReadinessProbeFailed")
    assert "statuscode: 503; check the route" in message
    assert told(pods=[pod(Trouble("Killed"), restarts=1)], probes=probes)[1] == "ReadinessProbeFailed"
    assert told(pods=[pod(Trouble("Crash", "exit status 1"), restarts=1)], probes=probes)[1] == "ResourceNotReady"


def test_a_failed_servers_last_words_are_as_long_as_known() -> None:
    failed = pod(Trouble("Crash", "exit status 3", "short"))
    scene = Scene("t", 1, [failed])
    assert condition(scene, NOW, PATIENCE).log_tail == "short"
    assert condition(dataclasses.replace(scene, tails={"p": "long"}), NOW, PATIENCE).log_tail == "long"


def live(failure: str, since_ns: int = S) -> Workload:
    return Workload(
        name="w", uid="w", version="1", endpoint="e", deployment="d", template="t", generation=1, manifest="m", edits=1,
        labelled=True, replicas=1, running=0, failure=failure, failure_since_ns=since_ns, ending=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ('pods "p" is forbidden: exceeded quota: few, requested: pods=1', "OutOfQuota"),
        ('pods "p" is forbidden: violates PodSecurity "restricted:latest": …', "InvalidDeploymentSpec"),
        ('admission webhook "policy.example.com" denied the request', "InvalidDeploymentSpec"),
        ('error looking up service account models/x: serviceaccount "x" not found', "ResourceNotReady"),
    ],
)
def test_pods_that_cannot_be_created(failure: str, reason: str) -> None:
    phase, said, message = told(workload=live(failure))
    assert (phase, said) == (Phase.FAILED, reason)
    assert failure in message


def test_a_full_quota_may_get_room_again() -> None:
    assert told(workload=live("exceeded quota: few", NOW))[0] is Phase.PENDING or Phase.STARTING
    assert told(workload=live("exceeded quota: few", NOW))[0] is not Phase.FAILED


def test_a_server_that_is_away_is_told_without_taking_anything_down() -> None:
    away = Unreachable("the API server cannot be reached", asked=ASKED)
    phase, reason, message = told(pods=[pod(ready=True)], error=away, error_since_ns=S)
    assert (phase, reason) == (Phase.READY, "")
    assert "cannot be reached" in message
    assert told(error=away, error_since_ns=NOW)[0] is Phase.STARTING
    assert told(error=away, error_since_ns=S)[:2] == (Phase.FAILED, "KubernetesUnaccessible")


def test_what_is_not_allowed_has_failed_at_once() -> None:
    denied = Denied("add the rule …", asked=ASKED)
    assert told(error=denied, error_since_ns=NOW)[:2] == (Phase.FAILED, "AuthorizationFailed")


def test_a_document_that_cannot_become_a_pod_has_failed_even_at_zero() -> None:
    assert told(refusal=("ResourceNotFound", "no such type"))[:2] == (Phase.FAILED, "ResourceNotFound")
    assert told(refusal=("ResourceNotFound", "no such type"), count=0)[0] is Phase.FAILED
