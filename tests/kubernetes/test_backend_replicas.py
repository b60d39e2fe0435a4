"""The Kubernetes backend's hand on single pods: exactly the named ones go, what others do is seen, few writes do it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from autoscaler.backends.base import DeploymentPlan
from autoscaler.backends.kubernetes import names
from router.contract.events import ReplicaState
from tests.support.backend_rigs import DEADLINE_SECONDS, TARGET, fetch, ids, plan, ready, until, wish
from tests.support.kubernetes_rig import NEW, KubernetesRig, server_document, writes, written

DEPLOYMENTS, BUDGETS = "apps/v1/deployments", "policy/v1/poddisruptionbudgets"
NAME = names.deployment_name(*TARGET, "t1")
ONE_MORE = Counter({"patch deployments": 1})
ONE_LESS = Counter({"patch pods": 1, "patch deployments": 1})


def probed(image: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """The test server with a health route that can be made to fail."""
    document = server_document(image, *arguments, **more)
    route = {"path": "/health", "port": 5001}
    alive = {"path": "/", "port": 5001}
    routes = {"liveness_route": alive, "readiness_route": route, "scoring_route": alive}
    return {**document, "environment": {"image": image, "inference_config": routes}}


async def test_one_more_replica_is_one_write_and_one_less_is_two(rig: KubernetesRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    await until(backend, ready(1))
    before = await written(backend, NEW)
    await backend.apply(plan(wish(rig.document, 2)))
    seen = await until(backend, ready(2))
    out = await written(backend, before + ONE_MORE)
    assert out - before == ONE_MORE
    await backend.apply(plan(wish(rig.document, 1, remove=frozenset({min(ids(seen))}))))
    await until(backend, ready(1))
    assert await written(backend, out + ONE_LESS) - out == ONE_LESS


async def test_from_zero_is_one_write(rig: KubernetesRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 0)))
    before = await written(backend, NEW)
    await backend.apply(plan(wish(rig.document, 1)))
    await until(backend, ready(1))
    assert await written(backend, before + ONE_MORE) - before == ONE_MORE


async def test_exactly_the_named_ones_of_many_go(rig: KubernetesRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 5)))
    five = sorted(ids(await until(backend, ready(5))))
    victims = frozenset(five[1::2])
    await backend.apply(plan(wish(rig.document, 3, remove=victims)))
    assert ids(await until(backend, ready(3))) == set(five) - victims


async def test_a_sibling_that_is_not_ready_does_not_go_instead(rig: KubernetesRig) -> None:
    document = probed(rig.image)
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 3)))
    seen = await until(backend, ready(3))
    sick, victim, _ = sorted(seen.replicas, key=lambda one: one.id)
    await fetch(sick, "/sick")
    await until(backend, lambda o: ReplicaState.UNREADY in {one.state for one in o.replicas})
    await backend.apply(plan(wish(document, 2, remove=frozenset({victim.id}))))
    await until(backend, lambda o: victim.id not in ids(o) and len(ids(o)) == 2)
    await fetch(sick, "/well")
    assert ids(await until(backend, ready(2))) == ids(seen) - {victim.id}


async def test_a_replica_that_fails_its_probe_is_unready_and_comes_back(rig: KubernetesRig) -> None:
    document = probed(rig.image)
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    await fetch(one, "/sick")
    seen = await until(backend, lambda o: o.replicas[0].state is ReplicaState.UNREADY)
    assert seen.replicas[0].restarts == 0
    await fetch(one, "/well")
    assert ids(await until(backend, ready(1))) == {one.id}


async def test_a_pod_that_somebody_deletes_is_out_of_sight_at_once_and_replaced(rig: KubernetesRig) -> None:
    document = {**rig.document, "tidegate": {**rig.document["tidegate"], "drain_seconds": 30}}
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 2)))
    two = ids(await until(backend, ready(2)))
    gone = min(two)
    await rig.cluster.api.delete(rig.path("pods", gone))
    assert gone not in ids(await until(backend, lambda o: gone not in ids(o)))
    pods = {one["metadata"]["name"]: one for one in await rig.list("pods")}
    assert "deletionTimestamp" in pods[gone]["metadata"]  # it still ends, with all the time it was given
    assert pods[gone]["spec"]["terminationGracePeriodSeconds"] == 31
    assert len(ids(await until(backend, ready(2))) & two) == 1


async def test_a_deployment_that_somebody_deletes_is_made_again(rig: KubernetesRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    one = ids(await until(backend, ready(1)))
    await rig.cluster.api.delete(rig.path(DEPLOYMENTS, NAME))
    assert one.isdisjoint(ids(await until(backend, lambda o: ready(1)(o) and one.isdisjoint(ids(o)))))


async def test_foreign_changes_to_what_is_ours_are_put_back_and_others_left_alone(rig: KubernetesRig) -> None:
    backend, api, path = rig.backend(), rig.cluster.api, rig.path(DEPLOYMENTS)
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    two = ids(await until(backend, ready(2)))
    await api.patch(f"{path}/{NAME}", {"metadata": {"annotations": {"somebody": "else"}, "labels": {"team": "blue"}}})
    await api.patch(f"{path}/{NAME}", {"spec": {"replicas": 1, "progressDeadlineSeconds": 77}})
    back = await api.until(path, NAME, lambda one: one["spec"]["replicas"] == 2)
    assert back["spec"]["progressDeadlineSeconds"] == 77
    assert back["metadata"]["annotations"]["somebody"] == "else"
    assert back["metadata"]["labels"]["team"] == "blue"
    assert len(ids(await until(backend, ready(2))) & two) >= 1
    grace = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 999}}}}
    await api.patch(f"{path}/{NAME}", grace)
    spec = "terminationGracePeriodSeconds"
    await api.until(path, NAME, lambda one: one["spec"]["template"]["spec"][spec] != 999)
    await api.patch(f"{path}/{NAME}", {"metadata": {"labels": {names.TEMPLATE: None}}})
    await api.until(path, NAME, lambda one: one["metadata"]["labels"].get(names.TEMPLATE) == "t1")
    await until(backend, ready(2))


async def test_foreign_changes_to_what_stands_around_a_deployment_are_put_back(rig: KubernetesRig) -> None:
    """The budget as a whole, of the account what is ours; somebody who restarts looks at both too."""
    wished = replace(wish(rig.document, 1), account={"serviceaccount.eks.amazonaws.com/role-arn": "arn:1"})
    backend, api = rig.backend(), rig.cluster.api
    budgets, accounts = rig.path("policy/v1/poddisruptionbudgets"), rig.path("serviceaccounts")
    budget, account = names.budget_name(*TARGET), names.account_name(TARGET[0])
    await backend.start()
    await backend.apply(plan(wished))
    await until(backend, ready(1))
    ours = (await api.until(budgets, budget, lambda _: True))["spec"]
    foreign = {"maxUnavailable": None, "minAvailable": 1, "selector": {"matchLabels": {"app": "another"}}}

    async def spoil() -> None:
        await api.patch(f"{budgets}/{budget}", {"spec": foreign})
        annotations = {"eks.amazonaws.com/role-arn": "arn:2", "somebody": "else"}
        about = {"metadata": {"annotations": annotations}, "automountServiceAccountToken": True}
        await api.patch(f"{accounts}/{account}", about)

    def whole(one: dict[str, Any]) -> bool:
        said = one["metadata"]["annotations"]
        return said["eks.amazonaws.com/role-arn"] == "arn:1" and one["automountServiceAccountToken"] is False

    async def back() -> None:
        await api.until(budgets, budget, lambda one: one["spec"] == ours)
        seen = await api.until(accounts, account, whole)
        assert seen["metadata"]["annotations"]["somebody"] == "else"

    await spoil()
    await back()
    await backend.close(end_replicas=False)
    await spoil()
    following = rig.backend()
    await following.start()
    await following.apply(plan(wished, generation=2))
    await back()
    await following.close(end_replicas=True)


async def test_a_change_of_the_template_leaves_one_deployment(rig: KubernetesRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    old = ids(await until(backend, ready(1)))
    await backend.apply(plan(wish(rig.document, 1, template="t2")))
    await until(backend, lambda o: ready(1)(o) and ready(1, "t2")(o))
    assert len(await rig.list(DEPLOYMENTS)) == 2
    await backend.apply(plan(wish(rig.document, 1, template="t2", remove=frozenset(old))))
    await until(backend, lambda o: ready(0)(o) and ready(1, "t2")(o))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while [one["metadata"]["labels"][names.TEMPLATE] for one in await rig.list(DEPLOYMENTS)] != ["t2"]:
            await asyncio.sleep(0.1)


async def test_what_is_gone_leaves_nothing_in_the_cluster(rig: KubernetesRig) -> None:
    green = ("shop", "green")
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1), wish(rig.document, 1, target=green, template="g")))
    seen = await until(backend, lambda o: ready(1)(o) and ready(1, "g")(o))
    await backend.apply(plan(wish(rig.document, 0, remove=frozenset(ids(seen)), gone=True)))
    await until(backend, lambda o: TARGET not in o.conditions)
    assert len(await rig.list(BUDGETS)) == 1  # green's
    assert len(await rig.list("serviceaccounts")) == 2
    await backend.apply(plan(wish(rig.document, 0, remove=frozenset(ids(seen)), target=green, template="g", gone=True)))
    await until(backend, lambda o: not o.conditions)
    for resource in (DEPLOYMENTS, BUDGETS):
        assert await rig.list(resource) == []
    assert [one["metadata"]["name"] for one in await rig.list("serviceaccounts")] == ["default"]


async def test_who_goes_before_the_last_pod_has_ended_leaves_nothing_either(rig: KubernetesRig) -> None:
    document = {**rig.document, "tidegate": {**rig.document["tidegate"], "drain_seconds": 3600}}
    blue, green = (DeploymentPlan("shop", name, document, name, 1) for name in ("blue", "green"))
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(blue, green))
    seen = await until(backend, lambda o: ready(1, "blue")(o) and ready(1, "green")(o))
    await backend.apply(plan(*(replace(one, count=0, remove=frozenset(ids(seen)), gone=True) for one in (blue, green))))
    await until(backend, lambda o: not o.conditions)
    await backend.close(end_replicas=False)
    for resource in (DEPLOYMENTS, BUDGETS):
        assert await rig.list(resource) == []
    assert [one["metadata"]["name"] for one in await rig.list("serviceaccounts")] == ["default"]
    assert {one["metadata"]["name"] for one in await rig.list("pods")} == ids(seen)  # as long as their server takes


async def test_of_two_owners_the_newer_one_acts_and_the_older_one_finds_out(rig: KubernetesRig) -> None:
    older, newer = rig.backend(), rig.backend()
    await older.start()
    await older.apply(plan(wish(rig.document, 1), generation=1))
    one = ids(await until(older, ready(1)))
    await newer.start()
    await newer.apply(plan(wish(rig.document, 2), generation=2))
    two = ids(await until(newer, ready(2)))
    assert one < two
    before = writes(older)
    await rig.cluster.api.until(
        rig.path(DEPLOYMENTS), NAME, lambda d: d["metadata"]["annotations"][names.GENERATION] == "2"
    )
    with pytest.raises(Exception, match="after 2 took over"):
        async with asyncio.timeout(DEADLINE_SECONDS):  # as soon as its watch has told it
            while True:
                await older.apply(plan(wish(rig.document, 1, remove=frozenset(one)), generation=1))
                await asyncio.sleep(0.05)
    assert ids(await until(newer, ready(2))) == two
    assert not (writes(older) - before)["delete pods"]
