"""What goes wrong in a cluster is said in Azure's words, with the next step, and harms nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoscaler.backends.base import Condition, Observation
from router.contract.events import Phase, ReplicaState
from tests.support.backend_rigs import TARGET, plan, ready, until, wish
from tests.support.kubernetes_pods import RESTRICTED
from tests.support.kubernetes_rig import KubernetesRig, server_document, writes

OTHER = ("shop", "other")


async def failing(rig: KubernetesRig, document: dict[str, Any], reason: str) -> Condition:
    """The condition of a deployment of `document` once it has failed by `reason`, beside another one that is ready all the while.

    Nodes do not always know at the first time why a container has ended.
    """
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1, target=OTHER, template="good")))
    await until(backend, ready(1, "good"))
    await backend.apply(plan(wish(document, 1)))

    def has_failed(seen: Observation) -> bool:
        told = seen.conditions.get(TARGET)
        return told is not None and (told.phase, told.reason) == (Phase.FAILED, reason)

    seen = await until(backend, has_failed)
    assert seen.conditions[OTHER].phase is Phase.READY
    assert ready(1, "good")(seen)
    return seen.conditions[TARGET]


async def test_an_image_that_cannot_be_pulled(rig: KubernetesRig) -> None:
    image = "127.0.0.1:1/no/such:1"  # nobody listens there, and says so at once
    seen = await failing(rig, server_document(image), "ImagePullLoopBackOff")
    assert image in seen.message
    assert "--kubernetes-pull-secret" in seen.message


async def test_a_server_that_needs_more_memory_than_it_may_have(rig: KubernetesRig) -> None:
    seen = await failing(rig, server_document(rig.image, "--eat", "600"), "PodOutOfMemory")
    assert "instance_type with more memory" in seen.message


async def test_a_server_that_never_gets_ready(rig: KubernetesRig) -> None:
    document = server_document(rig.image)
    route = {"path": "/nothing", "port": 4444}
    routes = {"liveness_route": route, "readiness_route": route, "scoring_route": {"path": "/", "port": 5001}}
    document["environment"] = {"image": rig.image, "inference_config": routes}
    document["readiness_probe"] = {"period": 1, "timeout": 1, "failure_threshold": 3, "initial_delay": 1}
    seen = await failing(rig, document, "ReadinessProbeFailed")
    assert ":4444" in seen.message
    assert "check the route and the port" in seen.message


async def test_no_node_fits(rig: KubernetesRig) -> None:
    seen = await failing(rig, {**server_document(rig.image), "instance_type": "elsewhere"}, "PodUnschedulable")
    assert "node" in seen.message
    assert "add nodes" in seen.message


async def test_more_gpus_than_there_are(rig: KubernetesRig) -> None:
    seen = await failing(rig, {**server_document(rig.image), "instance_type": "many-gpus"}, "PodUnschedulable")
    assert "nvidia.com/gpu" in seen.message


async def test_as_many_gpus_as_there_are_and_one_more(rig: KubernetesRig) -> None:
    document = {**server_document(rig.image), "instance_type": "one-gpu"}
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 3)))

    def two_of_three(seen: Observation) -> bool:
        return sorted(one.state for one in seen.replicas) == [ReplicaState.READY] * 2 + [ReplicaState.STARTING]

    seen = await until(backend, lambda o: two_of_three(o) and "nvidia.com/gpu" in o.conditions[TARGET].message)
    assert seen.conditions[TARGET].phase is Phase.SCALING
    (pod, *_) = await rig.list("pods")
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    tolerated = [one["key"] for one in pod["spec"]["tolerations"]]
    assert "nvidia.com/gpu" in tolerated


async def test_an_instance_type_that_nobody_knows(rig: KubernetesRig) -> None:
    seen = await failing(rig, {**server_document(rig.image), "instance_type": "huge"}, "ResourceNotFound")
    assert "elsewhere, many-gpus, one-gpu, small" in seen.message


async def test_a_namespace_that_has_no_room_for_more(rig: KubernetesRig) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    await rig.cluster.api.post(rig.path("resourcequotas"), quota)
    seen = await failing(rig, server_document(rig.image), "OutOfQuota")
    assert "exceeded quota: few" in seen.message


async def test_pods_ask_for_no_more_than_a_restricted_namespace_gives(rig: KubernetesRig) -> None:
    await rig.cluster.api.patch(f"/api/v1/namespaces/{rig.namespace}", {"metadata": {"labels": RESTRICTED}})
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    await until(backend, ready(1))


async def test_a_pod_security_that_refuses_says_so(rig: KubernetesRig) -> None:
    await rig.cluster.api.patch(f"/api/v1/namespaces/{rig.namespace}", {"metadata": {"labels": RESTRICTED}})
    backend = rig.backend(rig.settings(allow_root=True))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    seen = await until(backend, lambda o: TARGET in o.conditions and o.conditions[TARGET].phase is Phase.FAILED)
    assert seen.conditions[TARGET].reason == "InvalidDeploymentSpec"
    assert "violates PodSecurity" in seen.conditions[TARGET].message


RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log", "events"], "verbs": ["get", "list"]},
    {
        "apiGroups": [""],
        "resources": ["serviceaccounts"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {
        "apiGroups": ["policy"],
        "resources": ["poddisruptionbudgets"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
]
"""All that the backend needs in its namespace."""


async def test_these_rights_are_enough(rig: KubernetesRig) -> None:
    kubeconfig = await rig.cluster.account(rig.namespace, "scaler", RULES)
    backend = rig.backend(rig.settings(kubeconfig=kubeconfig))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    seen = await until(backend, ready(2))
    victim = frozenset({seen.replicas[0].id})
    await backend.apply(plan(wish(rig.document, 1, remove=victim)))
    seen = await until(backend, lambda o: ready(1)(o) and victim.isdisjoint(one.id for one in o.replicas))
    assert await backend.logs(*TARGET, 10)
    gone = frozenset({seen.replicas[0].id})
    await backend.apply(plan(wish(rig.document, 0, remove=gone, gone=True)))
    await until(backend, lambda o: not o.conditions)
    codes = {code for _, _, code in backend.cluster.requests}
    assert codes <= {"200", "201", "404", "409"}


async def test_a_right_that_is_missing_is_named_and_asked_for_less_and_less_often(rig: KubernetesRig) -> None:
    rules = [dict(rule) for rule in RULES]
    rules[3] = {**rules[3], "verbs": ["get", "list", "watch"]}
    kubeconfig = await rig.cluster.account(rig.namespace, "scaler", rules)
    backend = rig.backend(rig.settings(kubeconfig=kubeconfig))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    seen = await until(backend, lambda o: TARGET in o.conditions and o.conditions[TARGET].phase is Phase.FAILED)
    told = seen.conditions[TARGET]
    assert told.reason == "AuthorizationFailed"
    assert '{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}' in told.message
    assert f"Role in namespace {rig.namespace}" in told.message
    assert f"system:serviceaccount:{rig.namespace}:scaler" in told.message
    before = writes(backend)["patch deployments"]
    for _ in range(30):
        await backend.apply(plan(wish(rig.document, 1)))
    assert writes(backend)["patch deployments"] - before <= 2


async def test_what_may_not_be_seen_is_no_reason_to_say_that_nothing_runs(rig: KubernetesRig, tmp_path: Path) -> None:
    kubeconfig = await rig.cluster.account(rig.namespace, "scaler", RULES[1:])
    backend = rig.backend(rig.settings(kubeconfig=kubeconfig))
    await backend.start()
    seen = await until(backend, lambda o: "list" in o.blind)
    assert '{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}' in seen.blind
    with pytest.raises(Exception, match="cannot list"):
        await backend.apply(plan(wish(rig.document, 1)))
