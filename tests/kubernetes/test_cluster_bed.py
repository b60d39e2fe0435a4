"""The cluster that the Kubernetes tests stand on does what they take for granted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtests.kubernetes.cluster.api import AGENT, Api, ApiFailed
from loadtests.kubernetes.cluster.audit import Asked
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.part import ClusterFailed
from loadtests.made_once import Unmade, run
from tests.support.kubernetes_pods import condition, is_ready, pod

SECONDS = 120
"""For anything that a cluster has to get over."""


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


async def fetch(url: str) -> tuple[int, str]:
    """Status and body, from whoever takes the connection first; a service needs a moment after its first pod is ready."""
    async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as response:
                    return response.status, await response.text()
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)


SCRIPT = """
import json

def init():
    global greeting
    greeting = "hello"

def run(data):
    return {"answer": greeting, "got": json.loads(data)}
"""


async def serving(cluster: Cluster, namespace: str, image: str) -> dict[str, Any]:
    """A scoring script in a pod of Tidegate's image, ready."""
    config = {"metadata": {"name": "code"}, "data": {"score.py": SCRIPT}}
    await cluster.api.post(f"/api/v1/namespaces/{namespace}/configmaps", config)
    words = ["/opt/inference/bin/azmlinfsrv", "--entry_script", "/files/score.py", "--port", "5001"]
    server = pod("scorer", image, command=words, labels={"app": "scorer"}, ready_path="/", port=5001, files="code")
    server["spec"]["containers"][0]["env"] = [{"name": "AZUREML_MODEL_DIR", "value": "/tmp"}]
    await cluster.api.post(pods(namespace), server)
    return await cluster.api.until(pods(namespace), "scorer", is_ready, deadline_seconds=SECONDS)


async def test_a_pod_of_the_image_answers_on_its_own_address_and_on_its_services(
    cluster: Cluster, namespace: str, tidegate_image: str
) -> None:
    ready = await serving(cluster, namespace, tidegate_image)
    service = {
        "metadata": {"name": "scorer"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "scorer"}, "ports": [{"port": 80, "targetPort": 5001}]},
    }
    services = f"/api/v1/namespaces/{namespace}/services"
    await cluster.api.post(services, service)
    given = await cluster.api.until(services, "scorer", lambda one: bool(one["status"].get("loadBalancer")))
    for host in (
        f"{ready['status']['podIP']}:5001",
        given["spec"]["clusterIP"],
        given["status"]["loadBalancer"]["ingress"][0]["ip"],
    ):
        assert (await fetch(f"http://{host}/"))[0] == 200
    url = f"http://{ready['status']['podIP']}:5001/score"
    async with aiohttp.ClientSession() as session, session.post(url, json=[1]) as response:
        assert await response.json() == {"answer": "hello", "got": [1]}


async def test_a_pod_finds_a_service_and_the_api_server_by_name(
    cluster: Cluster, namespace: str, tidegate_image: str
) -> None:
    await serving(cluster, namespace, tidegate_image)
    service = {"metadata": {"name": "scorer"}, "spec": {"selector": {"app": "scorer"}, "ports": [{"port": 5001}]}}
    await cluster.api.post(f"/api/v1/namespaces/{namespace}/services", service)
    script = """
import http.client, ssl, time
authority = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
api = http.client.HTTPSConnection("kubernetes.default.svc", context=ssl.create_default_context(cafile=authority))
api.request("GET", "/version")
print(api.getresponse().status)
while True:
    try:
        scorer = http.client.HTTPConnection("scorer", 5001, timeout=5)
        scorer.request("GET", "/")
        print(scorer.getresponse().status)
        break
    except OSError:
        time.sleep(0.1)
"""
    asks = pod("asks", tidegate_image, command=["python3", "-c", script], restartPolicy="Never")
    await cluster.api.post(pods(namespace), asks)
    ended = await cluster.api.until(
        pods(namespace), "asks", lambda one: one["status"]["phase"] in {"Succeeded", "Failed"}, deadline_seconds=SECONDS
    )
    assert await cluster.api.text(f"{pods(namespace)}/asks/log") == "200\n200\n"
    assert ended["status"]["phase"] == "Succeeded"


async def test_more_gpus_than_the_node_has_are_not_to_be_had(cluster: Cluster, namespace: str) -> None:
    one_gpu = {"limits": {"nvidia.com/gpu": "1"}}
    for number in range(3):
        await cluster.api.post(pods(namespace), pod(f"p{number}", resources=one_gpu))
    for number in range(2):
        await cluster.api.until(pods(namespace), f"p{number}", is_ready)
    left = await cluster.api.until(
        pods(namespace), "p2", lambda one: condition(one, "PodScheduled").get("status") == "False"
    )
    assert condition(left, "PodScheduled")["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(left, "PodScheduled")["message"]
    await cluster.api.delete(f"{pods(namespace)}/p0")
    await cluster.api.until(pods(namespace), "p2", is_ready)


async def test_an_account_may_do_what_its_rules_say_and_nothing_else(api_cluster: Cluster, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    kubeconfig = await api_cluster.account(namespace, "reader", rules)
    listing = [str(api_cluster.kubectl_program), f"--kubeconfig={kubeconfig}", "get"]
    assert "No resources found" in await run(*listing, "pods", nice=False)
    with pytest.raises(Unmade, match=r"cannot list resource .secrets."):
        await run(*listing, "secrets", nice=False)


async def test_what_the_api_server_was_asked_is_counted_by_who_asked(api_cluster: Cluster, namespace: str) -> None:
    def ours() -> Counter[Asked]:
        return Counter({
            one: count for one, count in api_cluster.requests().items()
            if (one.agent, one.resource) == (AGENT, "configmaps")
        })  # fmt: skip

    before = ours()
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    await api_cluster.api.post(path, {"metadata": {"name": "a"}})
    with pytest.raises(ApiFailed):
        await api_cluster.api.post(path, {"metadata": {"name": "a"}})
    for _ in range(3):
        await api_cluster.api.get(f"{path}/a")
    async with asyncio.timeout(SECONDS):
        while sum((ours() - before).values()) < 5:
            await asyncio.sleep(0.02)
    found = {(one.verb, one.code): count for one, count in (ours() - before).items()}
    assert found == {("create", 201): 1, ("create", 409): 1, ("get", 200): 3}


async def test_a_namespace_takes_everything_with_it(api_cluster: Cluster) -> None:
    async with api_cluster.namespace() as name:
        await api_cluster.api.post(pods(name), pod("p"))
        await api_cluster.api.post(f"/api/v1/namespaces/{name}/configmaps", {"metadata": {"name": "a"}})
        assert (await api_cluster.api.get(f"/api/v1/namespaces/{name}"))["status"]["phase"] == "Active"
    assert not await api_cluster.api.exists(f"{pods(name)}/p")
    async with asyncio.timeout(SECONDS):
        while await api_cluster.api.exists(f"/api/v1/namespaces/{name}"):
            await asyncio.sleep(0.1)


async def test_a_killed_api_server_comes_back_under_its_address_with_what_it_knew(rough_control_plane: Cluster) -> None:
    bed = rough_control_plane
    await bed.api.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "kept"}})
    server = bed.server
    await bed.control.api_server.kill()
    assert not await bed.api.answers()
    await bed.control.api_server.start()
    assert bed.server == server
    assert await bed.api.exists("/api/v1/namespaces/default/configmaps/kept")
    async with bed.namespace() as name:  # the controllers have found it again
        await bed.api.post(pods(name), pod("p"))


async def test_a_frozen_api_server_answers_nothing_until_it_is_thawed(rough_control_plane: Cluster) -> None:
    bed = rough_control_plane
    await bed.control.api_server.freeze()
    asking = asyncio.create_task(bed.api.get("/version"))
    done, _ = await asyncio.wait([asking], timeout=1)
    assert not done
    await bed.control.api_server.thaw()
    assert (await asking)["gitVersion"] == "v1.34.4"


async def test_history_that_was_compacted_cannot_be_watched(rough_control_plane: Cluster) -> None:
    bed, path = rough_control_plane, "/api/v1/namespaces/default/configmaps"
    old = (await bed.api.get(path))["metadata"]["resourceVersion"]
    names = {f"c{number}" for number in range(3)}
    for name in sorted(names):
        await bed.api.post(path, {"metadata": {"name": name}})
    seen: set[str] = set()
    async with asyncio.timeout(SECONDS), contextlib.aclosing(bed.api.watch(path, resourceVersion=old)) as events:
        async for event in events:
            seen.add(event["object"]["metadata"]["name"])
            if seen >= names:
                break
    assert await bed.compact() > int(old)
    await bed.control.api_server.kill()
    await bed.control.api_server.start()
    async with asyncio.timeout(SECONDS), contextlib.aclosing(bed.api.watch(path, resourceVersion=old)) as events:
        first = await anext(events)
    assert (first["type"], first["object"]["code"]) == ("ERROR", 410)


async def test_nodes_that_are_only_made_believe_carry_hundreds_of_pods(cluster_here: None, tmp_path: Path) -> None:
    bed = Cluster(tmp_path / "kwok", kwok=True)
    await bed.start()
    try:
        assert bed.fake is not None
        await bed.fake.add(20)
        template = pod("p", tolerations=[{"operator": "Exists"}], resources={"limits": {"nvidia.com/gpu": "1"}})
        labels = {"app": "p"}
        deployment = {
            "metadata": {"name": "many"},
            "spec": {
                "replicas": 150,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": template["spec"] | {"terminationGracePeriodSeconds": 1},
                },
            },
        }
        deployments = "/apis/apps/v1/namespaces/default/deployments"
        await bed.api.post(deployments, deployment)
        await bed.api.until(deployments, "many", lambda one: one["status"].get("readyReplicas") == 150)
        nodes = {one["spec"]["nodeName"] for one in (await bed.api.get(pods("default")))["items"]}
        assert nodes <= {f"fake-{number}" for number in range(1, 21)}
        assert len(nodes) > 15
    finally:
        await bed.stop()


async def test_a_part_that_cannot_start_is_named_with_its_words_and_nothing_stays(
    cluster_here: None, tmp_path: Path
) -> None:
    bed = Cluster(tmp_path / "bad", api_server_flags=["--no-such-flag"])
    with pytest.raises(ClusterFailed, match=r"the API server ended with 1 .*\n(.*\n)*.*unknown flag: --no-such-flag"):
        await bed.start()
    assert bed.control.etcd.pid is None


async def test_a_way_in_with_a_wrong_token_is_refused(api_cluster: Cluster) -> None:
    stranger = Api(api_cluster.server, api_cluster.control.authority.certificate, token="wrong")
    with pytest.raises(ApiFailed) as refused:
        await stranger.get("/api/v1/namespaces")
    assert refused.value.status == 401
