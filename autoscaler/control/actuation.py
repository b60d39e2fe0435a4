"""One backend's two hands: its observations into the reconciler, the reconciler's plans into it.

A backend that fails is tried again with everything it should know; a backend that has seen a newer owner ends us.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

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
        self._wishes: dict[Target, DeploymentPlan] = {}
        self._generation = 0
        self._wished = asyncio.Event()

    async def observe(self) -> None:
        """Hand every observation over, until the backend is closed."""
        async for observation in self.backend.observe():
            self._reconciler.take_observation(self._name, observation)
            self.seen.set()
            self._wake()

    def wish(self, plan: Plan) -> None:
        """Apply `plan` soon. Several plans that wait for a slow backend become one."""
        self._generation = plan.generation
        self._wishes.update(plan.deployments)
        self._wished.set()

    async def act(self) -> None:
        """Apply what is wished, in order. Raises `Fenced` when somebody else has taken over."""
        while True:
            await self._wished.wait()
            self._wished.clear()
            wishes, self._wishes = self._wishes, {}
            try:
                await self.backend.apply(Plan(self._generation, wishes))
            except Fenced:
                raise
            except Exception:
                _LOG.exception("backend %s did not take a plan; it is sent again", self._name)
                await self._clock.sleep(RETRY_SECONDS)
                self._reconciler.not_applied(self._name)
                self._wake()
