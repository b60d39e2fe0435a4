"""Tidegate's own image, built as anybody builds it, runs with the least that a container can have."""

from __future__ import annotations

import asyncio
import json
import tarfile
from typing import Any

import aiohttp

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_pods import RESTRICTED, is_ready, pod

SECONDS = 120


async def output_of(cluster: Cluster, namespace: str, document: dict[str, Any]) -> tuple[str, str]:
    """Phase in which a pod ended, and what it said."""
    path, name = f"/api/v1/namespaces/{namespace}/pods", document["metadata"]["name"]
    document["spec"]["restartPolicy"] = "Never"
    await cluster.api.post(path, document)
    ended = await cluster.api.until(
        path, name, lambda one: one["status"]["phase"] in {"Succeeded", "Failed"}, deadline_seconds=SECONDS
    )
    return ended["status"]["phase"], await cluster.api.text(f"{path}/{name}/log")


async def test_it_runs_where_nothing_is_allowed(cluster: Cluster, tidegate_image: str) -> None:
    async with cluster.namespace(labels=RESTRICTED) as namespace:
        phase, said = await output_of(cluster, namespace, pod("help", tidegate_image, args=["--help"]))
        assert phase == "Succeeded"
        assert said.startswith("usage: tidegate [-h] COMMAND")
        who = "import os; print(os.getuid(), os.getgid(), os.access('/', os.W_OK), os.access('.', os.W_OK))"
        phase, said = await output_of(cluster, namespace, pod("who", tidegate_image, command=["python3", "-c", who]))
        assert said == "10001 10001 False True\n"


async def test_a_role_starts_and_answers_in_it(cluster: Cluster, namespace: str, tidegate_image: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    words = ["control", "--host=0.0.0.0", "--port=8081"]
    asked = pod("control", tidegate_image, args=words, ready_path="/healthz", port=8081)
    asked["spec"]["containers"][0].setdefault("env", []).append({"name": "TIDEGATE_CONTROL_TOKEN", "value": "0" * 64})
    await cluster.api.post(path, asked)
    ready = await cluster.api.until(path, "control", is_ready, deadline_seconds=SECONDS)
    url = f"http://{ready['status']['podIP']}:8081/healthz"
    async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200


async def test_both_environments_are_whole_and_have_no_pip(
    cluster: Cluster, namespace: str, tidegate_image: str
) -> None:
    script = """
import importlib.metadata, importlib.util, os, subprocess
for package in ("tidegate", "kubernetes-asyncio", "uv"):
    importlib.metadata.version(package)
print(importlib.util.find_spec("pip"), importlib.util.find_spec("kubernetes_asyncio") is not None)
inner = "import azureml_inference_server_http, importlib.util; print(importlib.util.find_spec('pip'))"
print(subprocess.run(["/opt/inference/bin/python", "-c", inner], capture_output=True, text=True, check=True).stdout)
"""
    phase, said = await output_of(cluster, namespace, pod("whole", tidegate_image, command=["python3", "-c", script]))
    assert (phase, said.split()) == ("Succeeded", ["None", "True", "None"]), said


async def test_how_this_machine_builds_is_not_part_of_it(tidegate_image: str) -> None:
    path = await image.archive()
    with tarfile.open(path) as archive:

        def content(digest: str) -> Any:
            file = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert file is not None
            return file

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.load(content(json.load(index)["manifests"][0]["digest"]))
        config = json.load(content(manifest["config"]["digest"]))["config"]
        assert config["User"] == "10001:10001"
        assert config["Entrypoint"] == ["tidegate"]
        names = {entry.partition("=")[0] for entry in config["Env"]}
        assert not [name for name in names if name.startswith(("PIP_", "HTTP", "http", "SSL", "REQUESTS"))]
        sizes: dict[str, int] = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=content(layer["digest"])) as inner:
                sizes |= {entry.name.removeprefix("./"): entry.size for entry in inner}
    assert sizes["opt/tidegate/bin/tidegate"] > 0
    # Of what was lent to the build there is at most the name.
    lent = ("etc/pip.conf", "etc/resolv.conf", "etc/hosts", "root/.config/pip/pip.conf")
    assert not any(sizes.get(name, 0) for name in lent)
