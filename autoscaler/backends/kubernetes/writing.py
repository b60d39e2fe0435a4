"""Making one deployment so: the writes, each of them harmless to repeat and refused when somebody newer has taken over.

The ownership's generation stands on the endpoint's ServiceAccount, written once per take-over on the condition that nobody
else has changed it, and on every Deployment, where each change of the count tests it. Of the whole object only what we
say is ours (server-side apply): a foreign change to that is put back, everything else is left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoscaler.backends.base import DeploymentPlan, Target
from autoscaler.backends.kubernetes import accounts, manifests, names
from autoscaler.backends.kubernetes.manifests import Manifest
from autoscaler.backends.kubernetes.reading import Account, Pod, Workload
from autoscaler.backends.kubernetes.steps import VICTIM_COST, Work, step
from autoscaler.backends.kubernetes.view import View
from router.contract.errors import Fenced
from router.runtime.kubernetes import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    SERVICE_ACCOUNTS,
    Absent,
    Cluster,
    Contested,
    Rejected,
)
from router.runtime.kubernetes.resources import Resource

HEARD_SECONDS = 1.0
"""Longest wait for the watch to tell of a deletion cost; what goes wrong without is put right by the next round."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wished of one deployment, and by which ownership."""

    plan: DeploymentPlan
    generation: int

    @property
    def target(self) -> Target:
        """Whose wish it is."""
        return self.plan.endpoint, self.plan.deployment


class Writer:
    """Writes for one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, view: View) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._view = view
        self._claims: dict[str, asyncio.Lock] = {}
        self._edits: dict[str, int] = {}
        """Deployment or budget → `metadata.generation` after our last write: a higher one is somebody else's change."""
        self._accounts: dict[str, str] = {}
        """Endpoint → the version of its account after our last write."""

    # ownership -----------------------------------------------------------------------------------------------------

    async def claim(self, wish: Wish) -> None:
        """Write our generation, and what the endpoint says, to its account, once. Raises `Fenced` for a higher one there."""
        endpoint, generation = wish.plan.endpoint, wish.generation
        lock = self._claims.setdefault(endpoint, asyncio.Lock())
        async with lock:
            account = self._view.account(endpoint)
            owned = self._owned(account, endpoint, generation)
            if owned and account is not None and self._is_our_account(account, wish.plan.account):
                return
            try:
                await self._write_account(wish, account)
            except Contested:
                self._owned(await self._read_account(endpoint), endpoint, generation)
                raise

    def _owned(self, account: Account | None, endpoint: str, generation: int) -> bool:
        if account is not None and account.generation > generation:
            raise Fenced(f"generation {generation} acts for {endpoint} after {account.generation} took over")
        return account is not None and account.generation == generation

    def _is_our_account(self, account: Account, wanted: Mapping[str, str]) -> bool:
        """Whether it says what it should, or what an admission rule has made of it."""
        if account.manifest != accounts.fingerprint(wanted):
            return False
        return self._accounts.get(account.endpoint) == account.version or accounts.is_whole(account, wanted)

    async def _write_account(self, wish: Wish, account: Account | None) -> None:
        plan = wish.plan
        manifest = accounts.service_account(plan.endpoint, plan.account, wish.generation, self._namespace)
        if account is None:
            found = await self._cluster.create(SERVICE_ACCOUNTS, manifest)
        else:
            manifest["metadata"]["resourceVersion"] = account.version
            found = await self._cluster.apply(SERVICE_ACCOUNTS, manifest)
        self._accounts[plan.endpoint] = str(found["metadata"].get("resourceVersion") or "")
        self._view.accounts.put(found)

    async def _read_account(self, endpoint: str) -> Account | None:
        """As it is now, whatever the watch has told so far."""
        try:
            found = await self._cluster.get(SERVICE_ACCOUNTS, self._namespace, names.account_name(endpoint))
        except Absent:
            return None
        self._view.accounts.put(found)
        return self._view.account(endpoint)

    # one deployment ------------------------------------------------------------------------------------------------

    async def make(self, wish: Wish, template: Manifest | None) -> None:
        """One round of writes towards `wish`. `template` is None where the document cannot become a pod.

        What is to go goes first, so that a quota or a full node lets go of its share.
        """
        plan = wish.plan
        current = names.deployment_name(*wish.target, plan.template) if plan.template else ""
        live = {one.name: one for one in self._view.workloads_of(wish.target)}
        newest = max((one.generation for one in live.values()), default=0)
        if newest > wish.generation:
            raise Fenced(f"generation {wish.generation} acts for {plan.endpoint} after {newest} took over")
        for workload in live.values():
            if workload.name != current:
                work = step(workload, self._pods(wish.target, workload.name), 0, plan.remove, keep=False)
                await self._do(work, workload, wish)
        await self._end_orphans(wish, live.keys())
        if current and not plan.gone:
            await self._make_current(wish, template, live.get(current))
        elif current in live:
            work = step(live[current], self._pods(wish.target, current), plan.count, plan.remove, keep=False)
            await self._do(work, live[current], wish)

    async def tidy(self, wish: Wish, *, endpoint_too: bool) -> None:
        """Remove what stands around a deployment that is gone, and around its endpoint when that was its last one."""
        endpoint = wish.plan.endpoint
        account = self._view.account(endpoint)
        if account is not None:
            self._owned(account, endpoint, wish.generation)
        budget = names.budget_name(*wish.target)
        if budget in self._view.budgets.items:
            await self._cluster.delete(DISRUPTION_BUDGETS, self._namespace, budget)
        if endpoint_too and account is not None:
            only = {"resourceVersion": account.version}
            await self._cluster.delete(SERVICE_ACCOUNTS, self._namespace, account.name, preconditions=only)
        if endpoint_too:
            self._claims.pop(endpoint, None)
            self._accounts.pop(endpoint, None)

    async def drop(self, wishes: Sequence[Wish]) -> None:
        """End every Deployment and budget of these; accounts stay and remember whose the endpoints were."""
        deployments, budgets = [], []
        for wish in wishes:
            if self._view.generation(wish.plan.endpoint) <= wish.generation:
                deployments += [one.name for one in self._view.workloads_of(wish.target)]
                budgets.append(names.budget_name(*wish.target))
        await asyncio.gather(*(self._delete(DEPLOYMENTS, name) for name in deployments))
        await asyncio.gather(*(self._delete(DISRUPTION_BUDGETS, name) for name in budgets))

    def is_pressing(self, wish: Wish) -> bool:
        """Whether pods have to come or go for it; what only has to be written down can wait."""
        plan, current = wish.plan, names.deployment_name(*wish.target, wish.plan.template)
        live = {one.name: one for one in self._view.workloads_of(wish.target)}
        counts = {name: plan.count if name == current else 0 for name in live}
        keep = {name: name == current and not plan.gone for name in live}
        steps = (
            step(one, self._pods(wish.target, name), counts[name], plan.remove, keep=keep[name])
            for name, one in live.items()
        )
        return any(steps) or (current not in live and plan.count > 0)

    async def _make_current(self, wish: Wish, template: Manifest | None, live: Workload | None) -> None:
        plan = wish.plan
        if live is None or live.ending:
            if template is not None and live is None:
                await self._apply(wish, template, plan.count, None)
                await self._ensure_budget(wish.target)
            return
        work = step(live, self._pods(wish.target, live.name), plan.count, plan.remove, keep=True)
        if not self._is_ours(live, wish.generation):
            before = Work(price=work.price, delete_first=work.delete_first)
            await self._do(before, live, wish)
            wanted = live.replicas if work.scale is None else work.scale
            if template is not None and live.manifest in ("", manifests.fingerprint(template)):
                await self._apply(wish, template, wanted, live)
            else:
                await self._stamp(wish, wanted, live)
            work = Work(delete_then=work.delete_then)
        await self._do(work, live, wish)
        await self._ensure_budget(wish.target)

    def _is_ours(self, live: Workload, generation: int) -> bool:
        """Whether it is as we left it, count and all."""
        return live.generation == generation and live.labelled and self._edits.get(live.name) == live.edits

    # writes --------------------------------------------------------------------------------------------------------

    async def _do(self, work: Work, live: Workload, wish: Wish) -> None:
        if work.drop:
            await self._delete(DEPLOYMENTS, live.name, preconditions={"resourceVersion": live.version})
            return
        if work.price:
            await asyncio.gather(*(self._price(one) for one in work.price))
        if work.delete_first:
            await self._end(work.delete_first, wish)
        if work.scale is not None:
            await self._scale(live, wish, work.scale)
        if work.delete_then:
            await self._end(work.delete_then, wish)

    async def _apply(self, wish: Wish, template: Manifest, replicas: int, live: Workload | None) -> None:
        """The whole Deployment, as we want it."""
        manifest = manifests.deployment(wish.plan, template, replicas, wish.generation, self._namespace)
        if live is not None:
            manifest["metadata"]["resourceVersion"] = live.version
            _LOG.info("deployment %s is put (back) in order", live.name, extra={"edits": live.edits})
        try:
            found = await self._cluster.apply(DEPLOYMENTS, manifest)
        except Contested:
            await self._look_again(manifest["metadata"]["name"])
            raise
        self._edits[manifest["metadata"]["name"]] = int(found["metadata"].get("generation") or 0)
        self._view.workloads.put(found)

    async def _stamp(self, wish: Wish, replicas: int, live: Workload) -> None:
        """Generation, labels and count of a Deployment whose pod template was made differently: it runs on as it is."""
        about = {names.GENERATION: str(wish.generation), names.MANIFEST: live.manifest}
        metadata = {
            "resourceVersion": live.version,
            "labels": names.workload_labels(*wish.target, live.template),
            "annotations": about,
        }
        part = {"metadata": metadata, "spec": {"replicas": replicas}}
        try:
            found = await self._cluster.merge(DEPLOYMENTS, self._namespace, live.name, part)
        except Contested:
            await self._look_again(live.name)
            raise
        self._edits[live.name] = int(found["metadata"].get("generation") or 0)
        self._view.workloads.put(found)

    async def _scale(self, live: Workload, wish: Wish, replicas: int) -> None:
        """The count alone, and only where no other ownership has written since."""
        stamp = f"/metadata/annotations/{names.GENERATION.replace('/', '~1')}"
        operations: list[Mapping[str, Any]] = [
            {"op": "test", "path": stamp, "value": str(live.generation)},
            {"op": "replace", "path": stamp, "value": str(wish.generation)},
            {"op": "replace", "path": "/spec/replicas", "value": replicas},
        ]
        try:
            found = await self._cluster.change(DEPLOYMENTS, self._namespace, live.name, operations)
        except Rejected as error:
            await self._look_again(live.name)
            raise Contested(error.message, asked=error.asked, answered=error.answered) from error
        edits = int(found["metadata"].get("generation") or 0)
        if edits == live.edits + 1 and self._edits.get(live.name) == live.edits:
            self._edits[live.name] = edits  # else somebody has changed it in between: it is put back at the next look
        self._view.workloads.put(found)

    async def _price(self, one: Pod) -> None:
        """The lowest deletion cost, so that a ReplicaSet takes this pod."""
        part = {"metadata": {"uid": one.uid, "annotations": {names.COST: str(VICTIM_COST)}}}
        try:
            found = await self._cluster.merge(PODS, self._namespace, one.name, part)
        except Absent:
            return
        self._view.pods.put(found)
        # The ReplicaSet's controller reads pods by a watch of its own: it must not hear of the new count first.
        await self._view.pods.told(found, HEARD_SECONDS)

    async def _end(self, pods: Sequence[Pod], wish: Wish) -> None:
        """Delete pods by name. Deleting tests nothing, so ask first whose the endpoint is."""
        account = await self._read_account(wish.plan.endpoint)
        self._owned(account, wish.plan.endpoint, wish.generation)
        await asyncio.gather(*(self._delete(PODS, one.name, preconditions={"uid": one.uid}) for one in pods))

    async def _end_orphans(self, wish: Wish, workloads: Collection[str]) -> None:
        """Named pods whose Deployment is gone."""
        pods = self._view.pods_of(wish.target)
        left = [one for one in pods if one.workload not in workloads and one.name in wish.plan.remove]
        left = [one for one in left if not one.ending]
        if left:
            await self._end(left, wish)

    async def _delete(self, resource: Resource, name: str, **options: object) -> None:
        try:
            found = await self._cluster.delete(resource, self._namespace, name, **options)
        except Contested:
            if resource is DEPLOYMENTS:
                await self._look_again(name)
                raise
            return  # another pod has this name now
        if resource is PODS and found is not None and "deletionTimestamp" in found.get("metadata", {}):
            self._view.pods.put(found)

    async def _ensure_budget(self, target: Target) -> None:
        name = names.budget_name(*target)
        live = self._view.budgets.items.get(name)
        if live is not None and self._edits.get(name) == live.edits:
            return
        manifest = manifests.disruption_budget(*target, self._namespace)
        if live is not None and live.spec == manifest["spec"]:
            return
        if live is None:
            found = await self._cluster.apply(DISRUPTION_BUDGETS, manifest)
        else:  # the whole of it: a field that others have set beside ours may exclude ours
            whole = [{"op": "replace", "path": "/spec", "value": manifest["spec"]}]
            found = await self._cluster.change(DISRUPTION_BUDGETS, self._namespace, name, whole)
        self._edits[name] = int(found["metadata"].get("generation") or 0)
        self._view.budgets.put(found)

    async def _look_again(self, name: str) -> None:
        """What the watch has not told yet."""
        try:
            self._view.workloads.put(await self._cluster.get(DEPLOYMENTS, self._namespace, name))
        except Absent:
            return

    def _pods(self, target: Target, workload: str) -> list[Pod]:
        return [one for one in self._view.pods_of(target) if one.workload == workload]
