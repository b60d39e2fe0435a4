"""A control plane that follows objects on a real API server, with a fleet that does as it is told instead of pods."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtests.kubernetes.cluster.api import ApiFailed
from loadtests.kubernetes.cluster.cluster import Cluster
from router.contract import codec
from router.contract.azure import deployment_from_document
from router.contract.events import SPECS, DeploymentReplicas, EndpointRevision, Phase, ReplicaState
from router.control.resources.kinds import API_VERSION, GROUP
from router.runtime.log.base import Log
from router.runtime.settings import ObjectSettings
from tests.support.control_plane import FakeAutoscaler, Running, ready, running

CRDS = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds"
DEADLINE_SECONDS = 120.0
Manifest = dict[str, Any]
_OURS = f"/apis/{API_VERSION}"
_RESOURCES = {"oe": (_OURS, "onlineendpoints"), "od": (_OURS, "onlinedeployments"), "secret": ("/api/v1", "secrets")}
"""Short name → root and plural name."""


def endpoint(name: str = "shop", **spec: Any) -> Manifest:
    """An OnlineEndpoint."""
    return {"apiVersion": API_VERSION, "kind": "OnlineEndpoint", "metadata": {"name": name}, "spec": spec}


def deployment(name: str = "blue", endpoint_name: str = "shop", **spec: Any) -> Manifest:
    """An OnlineDeployment of a custom image; the object is called `<endpoint>-<deployment>`."""
    whole = {"name": name, "endpoint_name": endpoint_name, "environment": {"image": "x/y:1"}, **spec}
    metadata = {"name": f"{endpoint_name}-{name}".lower()}
    return {"apiVersion": API_VERSION, "kind": "OnlineDeployment", "metadata": metadata, "spec": whole}


@dataclass(frozen=True, slots=True)
class Said:
    """What a kubectl command came to."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Kubectl:
    """kubectl in one namespace, and short questions."""

    cluster: Cluster
    namespace: str

    async def __call__(self, *words: str, given: str = "") -> Said:
        """Run it, whatever comes of it."""
        command = [str(self.cluster.kubectl_program), f"--kubeconfig={self.cluster.kubeconfig}", "-n", self.namespace]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, *words, stdin=pipe, stdout=pipe, stderr=pipe)
        out, err = await process.communicate(given.encode())
        return Said(process.returncode or 0, out.decode(), err.decode())

    async def apply(self, *manifests: Manifest, words: tuple[str, ...] = ()) -> Said:
        """`kubectl apply -f -`."""
        return await self("apply", "-f", "-", *words, given=yaml.safe_dump_all(manifests))

    async def applied(self, *manifests: Manifest) -> None:
        """As `apply`, which must succeed."""
        said = await self.apply(*manifests)
        assert said.code == 0, said.err

    # Questions go to the API server itself: each kubectl is a tenth of a second of a core, and would be asked again and again.

    async def get(self, kind: str, name: str) -> Manifest | None:
        """An object; None when there is none."""
        try:
            return await self.cluster.api.get(f"{self._path(kind)}/{name}")
        except ApiFailed as refused:
            if refused.status == 404:
                return None
            raise

    async def until(self, kind: str, name: str, holds: Callable[[Manifest], Any]) -> Manifest:
        """The object once `holds` is true of it."""

        def wanted(found: Manifest) -> bool:
            return bool(holds(found))

        return await self.cluster.api.until(self._path(kind), name, wanted, deadline_seconds=DEADLINE_SECONDS)

    async def until_gone(self, kind: str, name: str) -> None:
        """Once there is no such object."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while (found := await self.get(kind, name)) is not None:
            assert time.monotonic() < ends, f"{kind} {name} stays: {json.dumps(found, indent=1)}"
            await asyncio.sleep(0.1)

    async def events(self, name: str) -> list[Manifest]:
        """Events about the object of this name, oldest first."""
        path = f"/api/v1/namespaces/{self.namespace}/events"
        items = (await self.cluster.api.get(path, fieldSelector=f"involvedObject.name={name}"))["items"]
        return sorted(items, key=lambda one: str(one["metadata"]["creationTimestamp"]))

    def _path(self, kind: str) -> str:
        root, plural = _RESOURCES[kind]
        return f"{root}/namespaces/{self.namespace}/{plural}"

    async def until_event(self, name: str, reason: str) -> Manifest:
        """The first event about `name` with this reason."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while True:
            events = await self.events(name)
            for one in events:
                if one["reason"] == reason:
                    return one
            assert time.monotonic() < ends, f"no event {reason}: {[(one['reason'], one['message']) for one in events]}"
            await asyncio.sleep(0.1)


def condition(found: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition; empty when it has none of that kind."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def says(kind: str, status: str = "True", reason: str | None = None) -> Callable[[Manifest], bool]:
    """Whether an object's condition has this status (and reason) for its newest generation."""

    def holds(found: Manifest) -> bool:
        now = condition(found, kind)
        newest = now.get("observedGeneration") == found["metadata"]["generation"]
        return newest and now.get("status") == status and reason in (None, now.get("reason"))

    return holds


def tells(kind: str, words: str) -> Callable[[Manifest], bool]:
    """Whether the message of an object's condition has these words."""
    return lambda found: words in condition(found, kind).get("message", "")


@dataclass(slots=True)
class Fleet:
    """Runs at once whatever the newest revision wants, unless a test says how a deployment does."""

    log: Log
    autoscaler: FakeAutoscaler
    states: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Deployment → fields of `DeploymentReplicas` that a test has chosen."""
    draining: set[str] = field(default_factory=set)
    """Deployments that have not drained once they are gone."""
    newest: dict[str, EndpointRevision] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled."""
        reader = await self.log.reader((SPECS,), "earliest")
        try:
            while True:
                for message in await reader.next(None):
                    event = codec.decode_specs(message.value)
                    before = self.newest.get(event.endpoint)
                    self.newest[event.endpoint] = event
                    await self.say(event.endpoint, before)
        finally:
            await reader.close()

    async def say(self, endpoint_name: str, before: EndpointRevision | None = None) -> None:
        """Publish what runs."""
        event = self.newest[endpoint_name]
        wanted = {} if event.deleted else event.deployments
        told = {name: self._state(name, document, event.revision) for name, document in wanted.items()}
        for name in (set(before.deployments) if before else set()) | self.draining:
            if name in self.draining and name not in told:
                one = ready(event.revision).replicas
                left = tuple(dataclasses.replace(replica, state=ReplicaState.DRAINING) for replica in one)
                told[name] = DeploymentReplicas(0, event.revision, Phase.DELETING, replicas=left)
        await self.autoscaler.say(endpoint_name, told)

    async def drained(self, endpoint_name: str, name: str) -> None:
        """The last request of a deployment has been answered."""
        self.draining.discard(name)
        await self.say(endpoint_name)

    def _state(self, name: str, document: Mapping[str, Any], revision: int) -> DeploymentReplicas:
        count = deployment_from_document(document).instance_count
        return dataclasses.replace(ready(revision, count), **self.states.get(name, {}))


@dataclass(slots=True)
class Objects:
    """What a test works with."""

    kubectl: Kubectl
    plane: Running
    fleet: Fleet

    async def rest(self, path: str) -> Any:
        """A GET of the control plane, None when there is nothing."""
        answer = await self.plane.call("GET", f"/v1/endpoints/{path}")
        return None if answer.status == 404 else answer.json

    async def shop(self, **spec: Any) -> None:
        """An endpoint `shop` with a deployment `blue` that has all traffic, ready."""
        await self.kubectl.applied(endpoint(traffic={"blue": 100}, **spec), deployment())
        await self.kubectl.until("oe", "shop", says("Ready"))
        await self.kubectl.until("od", "shop-blue", says("Ready"))


async def define(cluster: Cluster) -> None:
    """Have both kinds in the cluster; nothing to do where an earlier test has defined them."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    there = {one["metadata"]["name"]: one for one in (await cluster.api.get(definitions))["items"]}
    names = [f"{plural}.{GROUP}" for plural in ("onlineendpoints", "onlinedeployments")]
    if all(name in there and _established(there[name]) for name in names):
        return
    said = await Kubectl(cluster, "default")("apply", "-k", str(CRDS))
    assert said.code == 0, said.err
    for name in names:
        await cluster.api.until(definitions, name, _established, deadline_seconds=DEADLINE_SECONDS)


def _established(definition: Manifest) -> bool:
    return (
        condition(definition, "Established").get("status") == "True"
        and "deletionTimestamp" not in definition["metadata"]
    )


@contextlib.asynccontextmanager
async def following(
    folder: Path, cluster: Cluster, namespace: str, *, kubeconfig: Path | None = None
) -> AsyncIterator[Objects]:
    """A control plane over `folder` that follows the objects of a namespace."""
    settings = ObjectSettings(str(kubeconfig or cluster.kubeconfig), namespace=namespace)
    async with running(folder, objects=settings) as plane:
        fleet = Fleet(plane.log, plane.autoscaler)
        working = asyncio.create_task(fleet.run())
        try:
            yield Objects(Kubectl(cluster, namespace), plane, fleet)
        finally:
            working.cancel()
            await asyncio.wait([working])
