"""Watched collections against a real API server: what changes is told, whatever happens to the server meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.kubernetes.cluster.cluster import Cluster as Bed
from router.runtime.kubernetes import (
    Cluster,
    ClusterSettings,
    Contested,
    Denied,
    KubernetesError,
    Rejected,
    Resource,
    Watched,
)

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECONDS = 90


class Kept:
    """ConfigMaps of one namespace with the label `kept`, as name → the value of `x`; and the path of every change."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.told: list[tuple[str, str | None, str | None]] = []
        self._news = asyncio.Event()
        self.watched: Watched[str] = Watched(
            cluster, CONFIG_MAPS, namespace, _x, self._changed, labels="kept=yes", chance=random.Random(1).random
        )

    def _changed(self, name: str, before: str | None, now: str | None) -> None:
        self.told.append((name, before, now))
        self._news.set()

    async def trouble(self) -> KubernetesError:
        async with asyncio.timeout(SECONDS):
            while self.watched.trouble is None:
                await asyncio.sleep(0.02)
        return self.watched.trouble

    def is_healthy(self) -> bool:
        return self.watched.trouble is None

    async def until(self, wanted: Mapping[str, str]) -> None:
        async with asyncio.timeout(SECONDS):
            while self.watched.items != wanted:
                self._news.clear()
                await self._news.wait()


def _x(found: Mapping[str, Any], _: str | None, __: bool) -> str:
    return str((found.get("data") or {}).get("x"))


def config_map(name: str, namespace: str, x: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"kept": "yes"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": x}}


@asynccontextmanager
async def opened(kubeconfig: Path, **settings: Any) -> AsyncIterator[Cluster]:
    cluster = Cluster(ClusterSettings(kubeconfig=str(kubeconfig), **settings))
    await cluster.open()
    try:
        yield cluster
    finally:
        await cluster.close()


@asynccontextmanager
async def kept(cluster: Cluster, namespace: str) -> AsyncIterator[Kept]:
    made = Kept(cluster, namespace)
    task = asyncio.create_task(made.watched.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_there_and_every_change_is_told(api_cluster: Bed, namespace: str) -> None:
    async with opened(api_cluster.kubeconfig) as cluster:
        for number in range(7):
            await cluster.create(CONFIG_MAPS, config_map(f"c{number}", namespace, "1"))
        async with kept(cluster, namespace) as seen:
            await seen.until({f"c{number}": "1" for number in range(7)})
            await cluster.merge(CONFIG_MAPS, namespace, "c1", {"data": {"x": "2"}})
            await cluster.delete(CONFIG_MAPS, namespace, "c2")
            unlabelled = {"metadata": {"labels": {"kept": None}}}
            await cluster.merge(CONFIG_MAPS, namespace, "c3", unlabelled)
            await cluster.apply(CONFIG_MAPS, config_map("new", namespace, "5"))
            await seen.until({"c0": "1", "c1": "2", "c4": "1", "c5": "1", "c6": "1", "new": "5"})
            assert seen.watched.lists == 1
            assert ("c2", "1", None) in seen.told


async def test_a_long_list_comes_in_pages_of_one_moment(api_cluster: Bed, namespace: str) -> None:
    async with opened(api_cluster.kubeconfig, writes_per_second=1000, writes_burst=1000) as cluster:
        await asyncio.gather(*(cluster.create(CONFIG_MAPS, config_map(f"c{n}", namespace, "1")) for n in range(25)))
        sizes, versions = [], set()
        async for page in cluster.pages(CONFIG_MAPS, namespace, labels="kept=yes", limit=10):
            sizes.append(len(page["items"]))
            versions.add(page["metadata"]["resourceVersion"])
        assert sizes == [10, 10, 5]
        assert len(versions) == 1


async def test_an_answer_to_our_own_write_is_known_before_the_watch_tells_it(api_cluster: Bed, namespace: str) -> None:
    async with opened(api_cluster.kubeconfig) as cluster:
        made = await cluster.create(CONFIG_MAPS, config_map("c", namespace, "1"))
        async with kept(cluster, namespace) as seen:
            await seen.until({"c": "1"})
            seen.watched.put(await cluster.merge(CONFIG_MAPS, namespace, "c", {"data": {"x": "2"}}))
            assert seen.watched.items == {"c": "2"}
            seen.watched.put(made)  # an older answer that comes late
            assert seen.watched.items == {"c": "2"}
            await cluster.delete(CONFIG_MAPS, namespace, "c")
            await seen.until({})
            seen.watched.put(made)
            assert seen.watched.items == {}
            assert [one[1:] for one in seen.told] == [(None, "1"), ("1", "2"), ("2", None)]


async def test_a_server_that_was_away_goes_on_where_it_was(rough_control_plane: Bed) -> None:
    bed = rough_control_plane
    async with opened(bed.kubeconfig) as cluster, bed.namespace() as namespace, kept(cluster, namespace) as seen:
        await cluster.create(CONFIG_MAPS, config_map("before", namespace, "1"))
        await seen.until({"before": "1"})
        await bed.control.api_server.kill()
        assert "cannot be reached" in (await seen.trouble()).message
        assert seen.watched.items == {"before": "1"}
        await bed.control.api_server.start()
        await cluster.create(CONFIG_MAPS, config_map("after", namespace, "2"))
        await seen.until({"before": "1", "after": "2"})
        assert seen.is_healthy()
        assert seen.watched.lists == 1
        asked = sum(count for (verb, _, _), count in cluster.requests.items() if verb == "watch")
        assert asked < 20


async def test_a_history_that_is_forgotten_is_listed_anew(rough_control_plane: Bed) -> None:
    bed = rough_control_plane
    async with opened(bed.kubeconfig) as cluster, bed.namespace() as namespace:
        for name in ("stays", "goes"):
            await cluster.create(CONFIG_MAPS, config_map(name, namespace, "1"))
        async with kept(cluster, namespace) as seen:
            await seen.until({"stays": "1", "goes": "1"})
            version = str((await cluster.get(CONFIG_MAPS, namespace, "stays"))["metadata"]["resourceVersion"])
            await cluster.delete(CONFIG_MAPS, namespace, "goes")
            await seen.until({"stays": "1"})
        await bed.compact()
        await bed.control.api_server.kill()
        await bed.control.api_server.start()
        late = Kept(cluster, namespace)
        late.watched.items["goes"] = "1"  # as one knew it who was away when it went
        late.watched._versions["goes"] = int(version)
        follow = asyncio.create_task(late.watched._follow(version))
        with pytest.raises(Exception, match="too old"):
            await asyncio.wait_for(follow, SECONDS)
        task = asyncio.create_task(late.watched.run())
        await late.until({"stays": "1"})
        assert ("goes", "1", None) in late.told
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_may_not_be_watched_says_which_rule_is_missing_until_it_is_there(
    api_cluster: Bed, namespace: str
) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    limited = await api_cluster.account(namespace, "reader", rules)
    async with opened(api_cluster.kubeconfig) as admin, opened(limited) as cluster:
        await admin.create(CONFIG_MAPS, config_map("c", namespace, "1"))
        async with kept(cluster, namespace) as seen:
            await seen.until({"c": "1"})
            trouble = await seen.trouble()
            assert isinstance(trouble, Denied)
            rule = '{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["watch"]}'
            assert f"add the rule {rule} to the Role in namespace {namespace}" in trouble.message
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/reader"
            await api_cluster.api.patch(path, {"rules": [{**rules[0], "verbs": ["list", "watch"]}]})
            await admin.merge(CONFIG_MAPS, namespace, "c", {"data": {"x": "2"}})
            await seen.until({"c": "2"})
            assert seen.is_healthy()


async def test_credentials_are_read_again_when_they_are_refused(
    api_cluster: Bed, namespace: str, tmp_path: Path
) -> None:
    good = await api_cluster.account(
        namespace, "reader", [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
    )
    token = next(line.split()[-1] for line in good.read_text().splitlines() if "token" in line).strip("\"',")
    changed = tmp_path / "kubeconfig"
    changed.write_text(good.read_text().replace(token, "expired"))
    async with opened(changed) as cluster:
        with pytest.raises(Exception, match="does not accept our credentials"):
            await anext(cluster.pages(CONFIG_MAPS, namespace))
        changed.write_text(good.read_text())
        assert await anext(cluster.pages(CONFIG_MAPS, namespace))
        codes = [code for (verb, _, code), count in cluster.requests.items() for _ in range(count) if verb == "list"]
        assert sorted(codes) == ["200", "401", "401"]


async def test_a_command_that_gives_credentials_is_asked_again_when_they_are_refused(
    api_cluster: Bed, namespace: str, tmp_path: Path
) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    document = yaml.safe_load((await api_cluster.account(namespace, "reader", rules)).read_text())
    (user,) = document["users"]
    said = tmp_path / "credentials.json"
    kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    said.write_text(json.dumps({**kind, "status": {"token": "expired"}}))
    token, command = user["user"]["token"], {"command": "cat", "args": [str(said)]}
    user["user"] = {"exec": {"apiVersion": kind["apiVersion"], "interactiveMode": "Never", **command}}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    async with opened(kubeconfig) as cluster:
        said.write_text(json.dumps({**kind, "status": {"token": token}}))
        assert await anext(cluster.pages(CONFIG_MAPS, namespace))
        assert cluster.requests["list", "configmaps", "401"] == 1


async def test_a_server_that_is_slow_counts_as_away(rough_control_plane: Bed) -> None:
    bed = rough_control_plane
    async with opened(bed.kubeconfig, request_seconds=0.5) as cluster:
        await bed.control.api_server.freeze()
        with pytest.raises(Exception, match=r"no answer within 0.5 s \(list configmaps in namespace default\)"):
            await anext(cluster.pages(CONFIG_MAPS, "default"))
        await bed.control.api_server.thaw()


async def test_a_change_that_lost_the_race_is_contested(api_cluster: Bed, namespace: str) -> None:
    async with opened(api_cluster.kubeconfig) as cluster:
        first = await cluster.create(CONFIG_MAPS, config_map("c", namespace, "1"))
        with pytest.raises(Contested):
            await cluster.create(CONFIG_MAPS, config_map("c", namespace, "1"))
        await cluster.merge(CONFIG_MAPS, namespace, "c", {"data": {"x": "2"}})
        late = config_map("c", namespace, "3")
        late["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
        with pytest.raises(Contested):
            await cluster.apply(CONFIG_MAPS, late)
        test = {"op": "test", "path": "/data/x", "value": "1"}
        with pytest.raises(Rejected):
            await cluster.change(CONFIG_MAPS, namespace, "c", [test, {**test, "op": "replace", "value": "3"}])
        assert (await cluster.get(CONFIG_MAPS, namespace, "c"))["data"]["x"] == "2"
        with pytest.raises(Contested):
            await cluster.delete(CONFIG_MAPS, namespace, "c", preconditions={"uid": "another"})
        assert await cluster.delete(CONFIG_MAPS, namespace, "never") is None
