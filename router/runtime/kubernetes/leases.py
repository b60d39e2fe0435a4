"""One acts at a time: a Lease of the cluster, held by renewing it, taken over from whoever has stopped to.

Nobody's clock is compared with anybody else's: a holder counts as gone when the Lease has not changed for `duration_seconds` of
our own time. A holder gives itself up earlier than that, `deadline_seconds` after it sent its last renewal that was taken, so
what it did is over before another one begins. It is not released behind a holder's back: who held it says so at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router.contract.errors import TidegateError
from router.runtime.clock import Clock, SystemClock
from router.runtime.kubernetes.client import Cluster, Object
from router.runtime.kubernetes.failures import Absent, Contested, KubernetesError
from router.runtime.kubernetes.pacing import Chance
from router.runtime.kubernetes.resources import Resource
from router.runtime.telemetry import Limited

_LOG = logging.getLogger(__name__)

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
HOLDER = "TIDEGATE_HOLDER"
SAY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How long what takes. Unit, default and why under each field."""

    duration_seconds: float = 15.0
    """Without a renewal for so long, it is free; Kubernetes' own default."""
    deadline_seconds: float = 10.0
    """Without a renewal that was taken for so long, its holder stops; the rest of the duration is its time to."""
    renew_seconds: float = 2.0
    """Between two renewals, and between two looks of those who wait."""


class Lost(TidegateError):
    """Somebody else may hold the Lease by now."""

    code = "LeaseLost"
    status = 409


def holder_of(environ: Mapping[str, str] = os.environ) -> str:
    """Who we are among all: what the pod is told, so that its containers are one holder; else this process alone."""
    return environ.get(HOLDER) or f"{socket.gethostname()}_{uuid.uuid4().hex}"


class Lease:
    """One Lease, as one holder. `acquire`, then `keep` for as long as it is needed, then `release`."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        holder: str,
        settings: LeaseSettings | None = None,
        *,
        clock: Clock | None = None,
        chance: Chance = random.random,
    ) -> None:
        self.holder = holder
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._settings = settings or LeaseSettings()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._say = Limited(_LOG, seconds=SAY_SECONDS)
        self._seen: tuple[str, float] = ("", 0.0)
        """(resourceVersion, since when it is that)."""
        self._renewed = 0.0
        """When the last renewal was sent that was taken."""

    async def acquire(self) -> None:
        """Return as soon as we hold it. A server that is away is waited for; it is said why."""
        while True:
            try:
                if await self._take():
                    _LOG.info("holding lease %s/%s as %s", self._namespace, self._name, self.holder)
                    return
            except Contested:
                _LOG.debug("lease %s/%s was changed by another meanwhile", self._namespace, self._name)
            except KubernetesError as error:
                self._say.warning("lease", f"waiting for lease {self._namespace}/{self._name}: {error.message}")
            await self._pause()

    async def keep(self) -> None:
        """Renew until cancelled. Raises `Lost`."""
        while True:
            await self._pause()
            left = self._renewed + self._settings.deadline_seconds - self._clock.monotonic()
            if left <= 0:
                raise Lost(
                    f"lease {self._namespace}/{self._name} could not be renewed for {self._settings.deadline_seconds:g} s"
                )
            try:
                async with asyncio.timeout(left):
                    taken = await self._take()
            except Contested:
                continue  # a look at what it is now comes with the next turn
            except (KubernetesError, TimeoutError) as error:
                problem = error.message if isinstance(error, KubernetesError) else "no answer in time"
                self._say.warning("lease", f"lease {self._namespace}/{self._name} is not renewed: {problem}")
                continue
            if not taken:
                raise Lost(f"lease {self._namespace}/{self._name} is held by another")

    async def release(self) -> None:
        """Let the next one have it at once; what cannot be done now is done by time."""
        try:
            found = await self._cluster.get(LEASES, self._namespace, self._name)
            if _holder(found) == self.holder:
                await self._write(found, {"holderIdentity": "", "renewTime": self._now()})
        except KubernetesError as error:
            _LOG.debug("lease %s/%s ends by itself: %s", self._namespace, self._name, error.message)

    async def _take(self) -> bool:
        """Look, and take or renew it where we may; returns whether we hold it."""
        sent = self._clock.monotonic()
        try:
            found = await self._cluster.get(LEASES, self._namespace, self._name)
        except Absent:
            await self._cluster.create(LEASES, self._manifest())
            self._renewed = sent
            return True
        version, holder = str(found["metadata"]["resourceVersion"]), _holder(found)
        if self._seen[0] != version:
            self._seen = (version, self._clock.monotonic())
        ours = holder == self.holder
        free = not holder or self._clock.monotonic() - self._seen[1] >= self._settings.duration_seconds
        if not ours and not free:
            return False
        await self._write(found, self._spec() | ({} if ours else self._anew(found)))
        self._renewed = sent
        return True

    async def _write(self, found: Object, spec: Mapping[str, Any]) -> None:
        part = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "spec": dict(spec)}
        await self._cluster.merge(LEASES, self._namespace, self._name, part)

    def _manifest(self) -> Object:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {**self._spec(), "acquireTime": self._now(), "leaseTransitions": 0},
        }

    def _spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": round(self._settings.duration_seconds) or 1,
            "renewTime": self._now(),
        }

    def _anew(self, found: Object) -> dict[str, Any]:
        transitions = int((found.get("spec") or {}).get("leaseTransitions") or 0)
        return {"acquireTime": self._now(), "leaseTransitions": transitions + 1}

    def _now(self) -> str:
        """For people: nobody decides by it."""
        return datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def _pause(self) -> None:
        await self._clock.sleep(self._settings.renew_seconds * (0.5 + self._chance() / 2))


def _holder(found: Object) -> str:
    return str((found.get("spec") or {}).get("holderIdentity") or "")


@contextlib.asynccontextmanager
async def keeping(lease: Lease, lost: Callable[[], None]) -> AsyncIterator[None]:
    """Renew a `lease` that was acquired, while inside, and let go of it then. `lost` is called when it is lost meanwhile."""

    async def keep() -> None:
        try:
            await lease.keep()
        except Lost as error:
            _LOG.error("%s; ending", error.message)
            lost()

    task = asyncio.create_task(keep(), name="lease")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await lease.release()
