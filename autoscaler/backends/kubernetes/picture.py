"""What to tell of every deployment: its replicas and how it is doing, made anew only where something has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autoscaler.backends.base import Condition, DeploymentPlan, Observation, ObservedReplica, Target
from autoscaler.backends.kubernetes import conditions
from autoscaler.backends.kubernetes.diagnosis import Diagnosis
from autoscaler.backends.kubernetes.manifests import Manifest
from autoscaler.backends.kubernetes.user_images import own_image
from autoscaler.backends.kubernetes.view import View
from autoscaler.backends.local.launch import Unlaunchable
from router.contract.errors import TidegateError
from router.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a deployment's document."""

    plan: DeploymentPlan
    edition: int
    """Of the catalogue of instance types."""
    template: Manifest | None
    refusal: tuple[str, str] | None
    """(reason, message) why there is no template."""
    note: str
    """What the user should know all the same."""


class Picture:
    """The newest observation."""

    def __init__(self, view: View, diagnosis: Diagnosis, clock: Clock, patience_seconds: float) -> None:
        self.errors: dict[Target, tuple[TidegateError, int]] = {}
        """Why the last round of writes failed, and since when rounds do (Unix nanoseconds)."""
        self.made: dict[Target, Made] = {}
        self._view = view
        self._diagnosis = diagnosis
        self._clock = clock
        self._patience_ns = round(patience_seconds * 1e9)
        self._replicas: dict[Target, tuple[ObservedReplica, ...]] = {}
        self._conditions: dict[Target, Condition] = {}
        self._stale: set[Target] = set()

    def changed(self, targets: Iterable[Target]) -> None:
        """Something may be to tell about these."""
        self._stale.update(targets)

    def draw(self, plans: Mapping[Target, DeploymentPlan]) -> Observation:
        """Everything, conditions for what `plans` wishes."""
        stale, self._stale = self._stale, set()
        for target in stale:
            self._draw(target, plans.get(target))
        replicas = tuple(one for some in self._replicas.values() for one in some)
        return Observation(replicas, dict(self._conditions), self._view.generations())

    def is_settled(self, target: Target, plan: DeploymentPlan) -> bool:
        """Whether all that is wished is there, so that time alone changes nothing."""
        pods = self._view.pods_of(target)
        return (
            target not in self.errors and sum(one.ready and one.template == plan.template for one in pods) >= plan.count
        )

    def _draw(self, target: Target, plan: DeploymentPlan | None) -> None:
        alive = tuple(one.observed() for one in self._view.pods_of(target) if not one.ending)
        if alive:
            self._replicas[target] = alive
        else:
            self._replicas.pop(target, None)
        if plan is None:
            self._conditions.pop(target, None)
        else:
            scene = self._scene(target, plan)
            self._conditions[target] = conditions.condition(scene, self._clock.time_ns(), self._patience_ns)

    def _scene(self, target: Target, plan: DeploymentPlan) -> conditions.Scene:
        error = self.errors.get(target) or self._outage()
        workloads = [one for one in self._view.workloads_of(target) if one.template == plan.template]
        pods = [one for one in self._view.pods_of(target) if one.template == plan.template]
        made = self.made.get(target)
        made = made if made is not None and made.plan.template == plan.template else None
        return conditions.Scene(
            template=plan.template,
            count=plan.count,
            pods=[one for one in pods if not one.ending or one.over],
            workload=workloads[0] if workloads else None,
            code=_serves_code(plan.document),
            refusal=made.refusal if made is not None else None,
            error=error[0] if error else None,
            error_since_ns=error[1] if error else 0,
            probes=self._diagnosis.probes,
            tails=self._diagnosis.tails,
            note=made.note if made is not None else "",
        )

    def _outage(self) -> tuple[TidegateError, int] | None:
        trouble = self._view.trouble()
        if trouble is None:
            return None
        return trouble[0], self._clock.time_ns() - round((self._clock.monotonic() - trouble[1]) * 1e9)


def _serves_code(document: Mapping[str, Any]) -> bool:
    with suppress(Unlaunchable, TypeError, AttributeError):
        return bool((document.get("code_configuration") or {}).get("scoring_script")) and own_image(document) is None
    return False
