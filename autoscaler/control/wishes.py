"""What each backend was told last, so that it is told only what it does not know yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoscaler.backends.base import DeploymentPlan, Plan
from autoscaler.policy.demand import Target


@dataclass(slots=True)
class Drafts:
    """The plans of one turn, before they are put together."""

    wishes: dict[tuple[str, int], dict[Target, DeploymentPlan]] = field(default_factory=dict)
    """(backend, generation) → what is wished."""

    def plans(self) -> dict[str, tuple[Plan, ...]]:
        """Backend → its plans, one for each generation."""
        found: dict[str, tuple[Plan, ...]] = {}
        for (backend, generation), wishes in self.wishes.items():
            found[backend] = (*found.get(backend, ()), Plan(generation, wishes))
        return found


class Wishes:
    """The last wish for every deployment, by backend."""

    def __init__(self) -> None:
        self._known: dict[Target, tuple[Mapping[str, Any], str]] = {}
        """Document and template of each deployment, the last ones of a deployment that is being deleted."""
        self._sent: dict[str, dict[tuple[str, str], tuple[int, DeploymentPlan]]] = {}
        """Endpoint → (backend, deployment) → what it was told last, with which generation."""

    def know(self, target: Target, document: Mapping[str, Any], template: str) -> None:
        """What `target` is, from now on."""
        self._known[target] = (document, template)

    def document(self, target: Target) -> Mapping[str, Any]:
        """The last one of `target`; empty when there was none."""
        return self._known.get(target, ({}, ""))[0]

    def plan(
        self,
        target: Target,
        count: int,
        remove: Collection[str],
        *,
        account: Mapping[str, str] | None = None,
        gone: bool = False,
    ) -> DeploymentPlan:
        """A wish for what `target` is known to be."""
        known = self._known.get(target, ({}, ""))
        return DeploymentPlan(*target, *known, count, frozenset(remove), account=account or {}, gone=gone)

    def tell(self, backend: str, generation: int, plan: DeploymentPlan, drafts: Drafts) -> None:
        """Put `plan` into `drafts`, unless `backend` knows it from the same generation."""
        sent, key = self._sent.setdefault(plan.endpoint, {}), (backend, plan.deployment)
        if sent.get(key) != (generation, plan):
            sent[key] = (generation, plan)
            drafts.wishes.setdefault((backend, generation), {})[plan.endpoint, plan.deployment] = plan

    def sent(self, backend: str, target: Target) -> bool:
        """Whether `backend` was told anything about `target`."""
        return (backend, target[1]) in self._sent.get(target[0], {})

    def withheld(self, backend: str, target: Target) -> None:
        """`backend` was not told about `target` after all."""
        self._sent.get(target[0], {}).pop((backend, target[1]), None)

    def not_applied(self, backend: str) -> set[str]:
        """`backend` may know nothing; returns the endpoints about which it was told."""
        endpoints = set()
        for endpoint, sent in self._sent.items():
            for key in [key for key in sent if key[0] == backend]:
                endpoints.add(endpoint)
                del sent[key]
        return endpoints

    def unsend(self, endpoint: str) -> None:
        """Backends are to be told about `endpoint` anew."""
        self._sent.pop(endpoint, None)

    def forget(self, target: Target) -> None:
        """`target` is gone for good."""
        self._known.pop(target, None)
        for key in [key for key in self._sent.get(target[0], {}) if key[1] == target[1]]:
            del self._sent[target[0]][key]

    def drop(self, endpoints: Collection[str]) -> None:
        """`endpoints` are somebody else's."""
        for endpoint in endpoints:
            self._sent.pop(endpoint, None)
        for target in [target for target in self._known if target[0] in endpoints]:
            del self._known[target]
