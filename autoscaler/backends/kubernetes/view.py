"""What runs in the namespace, as far as it is ours, by deployment: four watched collections and their indexes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from autoscaler.backends.base import Target
from autoscaler.backends.kubernetes import names, reading
from autoscaler.backends.kubernetes.reading import Account, Budget, Pod, Workload
from router.runtime.clock import Clock
from router.runtime.kubernetes import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    PODS,
    SERVICE_ACCOUNTS,
    Cluster,
    KubernetesError,
    Watched,
)
from router.runtime.kubernetes.pacing import Chance


class View:
    """The newest known of pods, Deployments, ServiceAccounts and PodDisruptionBudgets."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        changed: Callable[[Target], None],
        clock: Clock,
        chance: Chance = random.random,
    ) -> None:
        """`changed` hears of every deployment that something happened to; ("endpoint", "") when it was its account."""
        self._clock = clock
        self._tell = changed
        self._pods: dict[Target, set[str]] = {}
        self._workloads: dict[Target, set[str]] = {}
        self._accounts: dict[str, str] = {}
        about: dict[str, Any] = {"labels": names.OURS, "clock": clock, "chance": chance}
        self.pods = Watched(cluster, PODS, namespace, self._pod, self._on_pod, **about)
        self.workloads = Watched(cluster, DEPLOYMENTS, namespace, _workload, self._on_workload, **about)
        self.accounts = Watched(cluster, SERVICE_ACCOUNTS, namespace, _account, self._on_account, **about)
        self.budgets = Watched(cluster, DISRUPTION_BUDGETS, namespace, _budget, self._on_budget, **about)

    @property
    def parts(self) -> Mapping[str, Watched[Any]]:
        """Every watched collection, by name."""
        return {"pods": self.pods, "workloads": self.workloads, "accounts": self.accounts, "budgets": self.budgets}

    async def synced(self) -> None:
        """Return once everything was listed."""
        for part in self.parts.values():
            await part.synced.wait()

    def trouble(self) -> tuple[KubernetesError, float] | None:
        """(why this may be out of date, monotonic seconds since when); None while everything is watched."""
        found = [(part.trouble, part.trouble_since) for part in self.parts.values() if part.trouble is not None]
        return min(found, key=lambda one: one[1]) if found else None

    # by deployment -------------------------------------------------------------------------------------------------

    def pods_of(self, target: Target) -> list[Pod]:
        """Every pod of `target`, ending ones too, in the order of their names."""
        return [self.pods.items[name] for name in sorted(self._pods.get(target, ()))]

    def workloads_of(self, target: Target) -> list[Workload]:
        """Every Deployment of `target`, whatever template it runs."""
        return [self.workloads.items[name] for name in sorted(self._workloads.get(target, ()))]

    def targets(self) -> set[Target]:
        """Every deployment of which something is in the cluster."""
        return {*self._pods, *self._workloads}

    def account(self, endpoint: str) -> Account | None:
        """The ServiceAccount of `endpoint`."""
        return self.accounts.items.get(self._accounts.get(endpoint, ""))

    def generation(self, endpoint: str) -> int:
        """The highest ownership known to have acted for `endpoint`; 0 for none."""
        account = self.account(endpoint)
        return account.generation if account is not None else 0

    def generations(self) -> dict[str, int]:
        """Endpoint → the highest ownership known to have acted for it."""
        return {endpoint: self.accounts.items[name].generation for endpoint, name in self._accounts.items()}

    # inside --------------------------------------------------------------------------------------------------------

    def _pod(self, found: Mapping[str, Any], before: Pod | None, live: bool) -> Pod:
        return reading.pod(found, before, self._clock.time_ns() if live else 0)

    def _on_pod(self, name: str, before: Pod | None, now: Pod | None) -> None:
        _move(self._pods, name, _target(before), _target(now))
        self._changed(before, now)

    def _on_workload(self, name: str, before: Workload | None, now: Workload | None) -> None:
        _move(self._workloads, name, _target(before), _target(now))
        self._changed(before, now)

    def _changed(self, before: Pod | Workload | None, now: Pod | Workload | None) -> None:
        for target in {one.target for one in (before, now) if one is not None}:
            self._tell(target)

    def _on_budget(self, _: str, before: Budget | None, now: Budget | None) -> None:
        if before is not None and (now is None or now.spec != before.spec):
            self._tell(before.target)

    def _on_account(self, name: str, before: Account | None, now: Account | None) -> None:
        if before is not None and self._accounts.get(before.endpoint) == name:
            del self._accounts[before.endpoint]
        if now is not None:
            self._accounts[now.endpoint] = name
        for endpoint in {one.endpoint for one in (before, now) if one is not None}:
            self._tell((endpoint, ""))


def _target(one: Pod | Workload | None) -> Target | None:
    return None if one is None else one.target


def _move(index: dict[Target, set[str]], name: str, old: Target | None, new: Target | None) -> None:
    if old is not None and old != new:
        index[old].discard(name)
        if not index[old]:
            del index[old]
    if new is not None:
        index.setdefault(new, set()).add(name)


def _workload(found: Mapping[str, Any], _: Workload | None, __: bool) -> Workload:
    return reading.workload(found)


def _account(found: Mapping[str, Any], _: Account | None, __: bool) -> Account:
    return reading.account(found)


def _budget(found: Mapping[str, Any], _: Budget | None, __: bool) -> Budget:
    return reading.budget(found)


async def watch(view: View) -> None:
    """Keep `view` up to date until cancelled."""
    async with asyncio.TaskGroup() as group:
        for name, part in view.parts.items():
            group.create_task(part.run(), name=f"watch {name}")
