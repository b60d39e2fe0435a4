"""`tidegate up --backend kubernetes`, by its commands: an endpoint served by pods, split, mirrored, scaled, to zero and back."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
import yaml

from loadtests.kubernetes.cluster.cluster import Cluster
from router.runtime.login import new_token
from tests.support.cli_tree import UpTree
from tests.support.kubernetes_rig import TYPES

pytestmark = pytest.mark.timeout(900)  # all of Tidegate has to start in pods, on whatever machine
SCORE = """
import json, os, time

def init():
    pass

def run(data):
    time.sleep(0.05)
    return {"version": os.environ["VERSION"], "pod": os.environ["HOSTNAME"]}
"""


@pytest.fixture
def tree(cluster: Cluster, namespace: str, tidegate_image: str, tmp_path: Path) -> Iterator[UpTree]:
    types = tmp_path / "types.yaml"
    types.write_text(TYPES)
    made = UpTree(
        tmp_path,
        "--backend=kubernetes",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--kubernetes-namespace={namespace}",
        f"--kubernetes-image={tidegate_image}",
        "--kubernetes-pull-policy=Never",
        f"--kubernetes-instance-types={types}",
        f"--control-host={urlsplit(cluster.server).hostname}",
        environment={"TIDEGATE_CONTROL_TOKEN": new_token(), "TIDEGATE_ASSETS_KEY": new_token()},
    )
    try:
        yield made
    finally:
        made.end()


def documents(folder: Path) -> Path:
    """An endpoint and two deployments of it, written for Kubernetes as for Azure."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "score.py").write_text(SCORE)
    (folder / "endpoint.yml").write_text(yaml.safe_dump({"name": "shop", "compute": "azureml:cluster"}))
    probe = {"period": 1, "timeout": 5}
    for name in ("blue", "green"):
        document = {
            "name": name,
            "endpoint_name": "shop",
            "type": "kubernetes",
            "code_configuration": {"code": "./code", "scoring_script": "score.py"},
            "environment_variables": {"VERSION": name},
            "instance_type": "small",
            "instance_count": 1,
            "readiness_probe": probe,
            "liveness_probe": probe,
            "request_settings": {"max_concurrent_requests_per_instance": 2, "request_timeout_ms": 30_000},
            "tidegate": {"drain_seconds": 10},
        }
        (folder / f"{name}.yml").write_text(yaml.safe_dump(document))
    return folder


class Callers:
    """Asks all the time; counts what it gets."""

    def __init__(self, url: str, key: str) -> None:
        self.answers: list[str] = []
        self.lost: list[str] = []
        self._request = urllib.request.Request(
            url, b"{}", {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        )
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            try:
                with urllib.request.urlopen(self._request, timeout=60) as answer:
                    self.answers.append(json.load(answer)["version"])
            except urllib.error.HTTPError as error:
                self.lost.append(f"{error.code} {error.read()[:200]!r}")
            except OSError as error:
                self.lost.append(repr(error))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


async def test_an_endpoint_lives_on_a_cluster(tree: UpTree, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    folder = documents(tmp_path / "docs")

    async def run(*words: str) -> str:
        return (await asyncio.to_thread(tree.run, *words, cwd=folder)).stdout

    about = await asyncio.to_thread(tree.about)
    await run("online-endpoint", "create", "-f", "endpoint.yml")
    await run("online-deployment", "create", "-f", "blue.yml", "--all-traffic")
    key = (await run("online-endpoint", "get-credentials", "-n", "shop", "--query", "primaryKey", "-o", "tsv")).strip()
    with Callers(f"{about['gateway_url']}/endpoints/shop/score", key) as callers:
        await run("online-deployment", "create", "-f", "green.yml")
        await run("online-endpoint", "update", "-n", "shop", "--mirror-traffic", "green=50")
        await run("online-deployment", "update", "-n", "blue", "-e", "shop", "--set", "instance_count=3")
        await run("online-deployment", "update", "-n", "blue", "-e", "shop", "--set", "instance_count=1")
        changed = "environment_variables.VERSION=blue2"
        await run("online-deployment", "update", "-n", "blue", "-e", "shop", "--set", changed)
        await run("online-endpoint", "update", "-n", "shop", "--mirror-traffic", "green=0")
        await run("online-endpoint", "update", "-n", "shop", "--traffic", "blue=0 green=100")
        await run("online-deployment", "delete", "-n", "blue", "-e", "shop", "--yes")
        seen = len(callers.answers)
        async with asyncio.timeout(120):
            while len(callers.answers) < seen + 20:
                await asyncio.sleep(0.1)
    assert callers.lost == []
    assert set(callers.answers) == {"blue", "blue2", "green"}
    assert set(callers.answers[-10:]) == {"green"}
    assert "green" in await run("online-deployment", "get-logs", "-n", "green", "-e", "shop", "-l", "5")

    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    async with asyncio.timeout(120):
        while len((await cluster.api.get(path))["items"]) != 1:
            await asyncio.sleep(0.1)
    status = await asyncio.to_thread(tree.end)
    assert status == 0, tree.words()
    assert (await cluster.api.get(path))["items"] == []
