"""What is kept of a pod's JSON, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autoscaler.backends.kubernetes import names, reading
from autoscaler.backends.kubernetes.facts import nanoseconds
from autoscaler.backends.kubernetes.troubles import Trouble
from router.contract.events import ReplicaState

NAME = names.deployment_name("Shop", "blue", "t1")
LABELS = {names.WORKLOAD: NAME, **names.labels("Shop", "blue", "t1")}
S = 10**9
T0 = nanoseconds("2026-01-31T12:00:00Z")


def pod(*, ready: str = "True", server: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    running = {"name": "inference-server", "restartCount": 0, "state": {"running": {"startedAt": at(5)}}}
    return {
        "metadata": {
            "name": "p",
            "uid": "u",
            "resourceVersion": "5",
            "creationTimestamp": at(0),
            "labels": LABELS,
            "annotations": {names.PORT: "5001", names.INSTANCE_TYPE: "small", names.COST: "-7"},
        },
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(9)}],
            "containerStatuses": [{**running, **(server or {})}],
            **status,
        },
    }


def at(second: int) -> str:
    return f"2026-01-31T12:00:{second:02}Z"


def test_a_ready_pod() -> None:
    found = reading.pod(pod())
    assert found.observed().state is ReplicaState.READY
    assert (found.target, found.template, found.workload) == (("Shop", "blue"), "t1", NAME)
    assert (found.host, found.port, found.instance_type, found.cost) == ("10.0.0.1", 5001, "small", -7)
    assert (found.created_ns, found.ready_ns) == (T0, T0 + 9 * S)
    assert found.trouble is None


def test_a_pods_zone_is_what_the_api_server_put_there() -> None:
    assert reading.pod(pod()).observed().zone == ""
    zoned = pod()
    zoned["metadata"] = {**zoned["metadata"], "labels": {**LABELS, "topology.kubernetes.io/zone": "west-2"}}
    assert reading.pod(zoned).observed().zone == "west-2"


def test_what_we_see_happen_has_our_clocks_time() -> None:
    before = reading.pod(pod(ready="False"))
    assert before.observed().state is ReplicaState.UNREADY  # its condition changed after its server was started
    found = reading.pod(pod(), before, T0 + 10 * S + 123)
    assert found.ready_ns == T0 + 10 * S + 123
    assert reading.pod(pod(), found, T0 + 20 * S).ready_ns == found.ready_ns


def test_a_server_that_was_never_ready_is_starting() -> None:
    fresh = pod(ready="False", server={"state": {"running": {"startedAt": at(9)}}})
    assert reading.pod(fresh).observed().state is ReplicaState.STARTING
    was_ready = reading.pod(pod())
    assert reading.pod(fresh, was_ready, T0).observed().state is ReplicaState.UNREADY


def test_a_pod_that_somebody_deletes_takes_no_requests() -> None:
    deleted = pod()
    deleted["metadata"]["deletionTimestamp"] = at(10)
    found = reading.pod(deleted)
    assert found.ending
    assert not found.ready
    assert found.trouble is None


def test_an_evicted_pod_is_over() -> None:
    found = reading.pod(pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."))
    assert found.over
    assert found.ending
    assert found.trouble == Trouble("Lost", "Evicted: The node was low on resource: memory.")


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}, **more}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("server", "trouble"),
    [
        (waiting("ErrImagePull", "no such"), Trouble("Image", "ErrImagePull: no such", final=False)),
        (waiting("ImagePullBackOff"), Trouble("Image", "ImagePullBackOff")),
        (waiting("CreateContainerConfigError", "bad"), Trouble("Config", "CreateContainerConfigError: bad")),
        (
            waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
            Trouble(
                "Config",
                "CreateContainerConfigError: failed to sync secret cache: timed out waiting for the condition",
                final=False,
            ),
        ),
        (waiting("ContainerCreating"), None),
        (
            waiting("CrashLoopBackOff", restartCount=1, lastState=ended(3, message="no weights")),
            Trouble("Crash", "exit status 3", "no weights"),
        ),
        (
            {"restartCount": 1, "lastState": ended(3, message="no weights")},
            Trouble("Crash", "exit status 3", "no weights", final=False),
        ),
        ({"restartCount": 3, "lastState": ended(137)}, Trouble("Killed", "exit status 137")),
        (
            {"restartCount": 1, "lastState": ended(137, "OOMKilled")},
            Trouble("OutOfMemory", "exit status 137"),
        ),
        ({"restartCount": 1, "lastState": ended(0, "Completed")}, None),
    ],
)
def test_what_keeps_a_server_from_being_ready(server: dict[str, Any], trouble: Trouble | None) -> None:
    assert reading.pod(pod(ready="False", server=server)).trouble == trouble
    assert reading.pod(pod(server=server)).trouble is None  # a ready one has none


def test_no_node_for_it() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes", "lastTransitionTime": at(1)}
    found = reading.pod(pod(conditions=[condition], phase="Pending", containerStatuses=[]))
    assert found.trouble == Trouble("Unschedulable", "0/3 nodes", since_ns=T0 + S)
    assert found.observed().state is ReplicaState.STARTING


def initialized(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    status = [{"name": "storage-initializer", "state": state, **more}]
    return pod(ready="False", phase="Pending", initContainerStatuses=status, containerStatuses=[])


def test_a_preparation_that_runs_failed_or_has_something_to_say() -> None:
    assert reading.pod(initialized({"running": {}})).preparing
    told = json.dumps({"reason": "ImageBuildFailure", "message": "no such package", "log_tail": "× no"})
    found = reading.pod(initialized(waiting("CrashLoopBackOff")["state"], lastState=ended(1, message=told)))
    assert found.trouble == Trouble("Init", "ImageBuildFailure: no such package", "× no")
    found = reading.pod(initialized(ended(137, "OOMKilled")))
    assert found.trouble is not None
    assert found.trouble.message.startswith("PodOutOfMemory: ")
    noted = pod(initContainerStatuses=[{"name": "i", "state": ended(0, "Completed", '{"note": "left out: mkl"}')}])
    assert reading.pod(noted).note == "left out: mkl"


def deployment(**metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": NAME,
            "uid": "u",
            "resourceVersion": "9",
            "generation": 4,
            "labels": LABELS,
            "annotations": {names.GENERATION: "3", names.MANIFEST: "abc"},
            **metadata,
        },
        "spec": {"replicas": 2},
        "status": {"replicas": 1},
    }


def test_a_deployment_as_we_left_it_and_not() -> None:
    found = reading.workload(deployment())
    assert (found.generation, found.manifest, found.edits, found.replicas, found.running) == (3, "abc", 4, 2, 1)
    assert found.labelled
    for labels in ({}, {**LABELS, names.TEMPLATE: "t2"}, {**LABELS, names.WORKLOAD: "x"}):
        assert not reading.workload(deployment(labels=labels)).labelled
    assert not reading.workload(deployment(annotations={})).labelled


def test_why_pods_could_not_be_created() -> None:
    failed = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: few", "lastTransitionTime": at(2)}
    found = reading.workload({**deployment(), "status": {"conditions": [failed]}})
    assert (found.failure, found.failure_since_ns) == ("exceeded quota: few", T0 + 2 * S)


@pytest.mark.parametrize("text", [None, "", "yesterday", 7])
def test_no_time_is_zero(text: Any) -> None:
    assert nanoseconds(text) == 0
