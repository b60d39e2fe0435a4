"""One backend's two hands: its observations into the reconciler, the reconciler's plans into it.

What is no longer ours to do at the very moment of doing it is not done. A backend that fails is tried again with
everything it should know. One that has seen a newer owner ends us where we own all; where endpoints are shared we leave
those alone that it has seen somebody else act for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from autoscaler.backends.base import Backend, DeploymentPlan, Plan, Target
from autoscaler.control.reconciler import Reconciler
from router.contract.errors import Fenced
from router.runtime.clock import Clock

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Actuator:
    """Drives one backend. `observe` and `act` each run in a task of their own."""

    def __init__(
        self, name: str, backend: Backend, reconciler: Reconciler, wake: Callable[[], None], clock: Clock
    ) -> None:
        self.backend = backend
        self.seen = asyncio.Event()
        """Set once the backend has said what it runs."""
        self._name = name
        self._reconciler = reconciler
        self._wake = wake
        self._clock = clock
        self._wishes: dict[Target, tuple[int, DeploymentPlan]] = {}
        self._wished = asyncio.Event()

    async def observe(self) -> None:
        """Hand every observation over, until the backend is closed."""
        async for observation in self.backend.observe():
            self._reconciler.take_observation(self._name, observation)
            self.seen.set()
            self._wake()

    def wish(self, plan: Plan) -> None:
        """Apply `plan` soon. Of several that wait for a slow backend the newest of each deployment counts."""
        self._wishes.update({target: (plan.generation, wish) for target, wish in plan.deployments.items()})
        self._wished.set()

    async def act(self) -> None:
        """Apply what is wished, in order. Raises `Fenced` when somebody else has taken over all that we own."""
        while True:
            await self._wished.wait()
            self._wished.clear()
            wishes, self._wishes = self._wishes, {}
            by_generation: dict[int, dict[Target, DeploymentPlan]] = {}
            for target, (generation, wish) in wishes.items():
                by_generation.setdefault(generation, {})[target] = wish
            try:
                for generation, some in sorted(by_generation.items()):
                    await self._apply(generation, some)
            except Fenced:
                raise
            except Exception:
                _LOG.exception("backend %s did not take a plan; it is sent again", self._name)
                await self._clock.sleep(RETRY_SECONDS)
                self._reconciler.planner.not_applied(self._name)
                self._wake()

    async def _apply(self, generation: int, wishes: Mapping[Target, DeploymentPlan]) -> None:
        ours = {}
        for target, wish in wishes.items():
            if self._reconciler.planner.may_apply(target[0], generation):
                ours[target] = wish
            else:
                self._reconciler.planner.withheld(self._name, target)
        if not ours:
            return
        try:
            await self.backend.apply(Plan(generation, ours))
        except Fenced as error:
            if not self._reconciler.sharing:
                raise
            await self._fenced(generation, ours, error)

    async def _fenced(self, generation: int, wishes: Mapping[Target, DeploymentPlan], error: Fenced) -> None:
        """Somebody acts for an endpoint of these: find out which, and leave only that one alone."""
        endpoints = {target[0] for target in wishes}
        if len(endpoints) > 1:
            for endpoint in sorted(endpoints):
                await self._apply(generation, {key: wish for key, wish in wishes.items() if key[0] == endpoint})
            return
        (endpoint,) = endpoints
        _LOG.warning("backend %s follows another owner of %s: %s", self._name, endpoint, error.message)
        self._reconciler.fence(endpoint)
        self._wake()
