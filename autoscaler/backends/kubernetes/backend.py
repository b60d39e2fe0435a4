"""The Kubernetes backend: one Deployment per template of an online deployment, usually one; the planner's hand on each pod.

`apply` records the wish. Workers make one deployment after the other so, woken by every change of what is watched and by
nothing else; what fails waits longer and longer. Level-triggered: a round looks at what is, never at what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from autoscaler.backends.base import Observation, Plan, Target
from autoscaler.backends.kubernetes import manifests
from autoscaler.backends.kubernetes.catalogue import Catalogue
from autoscaler.backends.kubernetes.diagnosis import Diagnosis
from autoscaler.backends.kubernetes.figures import families
from autoscaler.backends.kubernetes.instance_types import substitute
from autoscaler.backends.kubernetes.output import newest_lines
from autoscaler.backends.kubernetes.picture import Made, Picture
from autoscaler.backends.kubernetes.pods import pod_template
from autoscaler.backends.kubernetes.settings import KubernetesSettings
from autoscaler.backends.kubernetes.view import View, watch
from autoscaler.backends.kubernetes.writing import Wish, Writer
from autoscaler.backends.local.launch import Unlaunchable
from router.contract.errors import Fenced, TidegateError, Unavailable
from router.runtime.clock import Clock, SystemClock
from router.runtime.exposition import Family
from router.runtime.kubernetes import Cluster, KubernetesError
from router.runtime.kubernetes.pacing import Chance
from router.runtime.kubernetes.queue import Queue

MERGE_SECONDS = 0.02
"""Changes so close together are one observation: a hundred pods that start are not a hundred observations."""
MOST_MERGE_SECONDS = 0.5
"""Where looking at one takes long, the next waits as long, up to this."""
ROUND_SECONDS = 2.0
"""How often what only time changes is looked at: patience that is over, probes that keep failing, a server that is back."""
BLIND_SECONDS = 5.0
"""So long the first look may take before it is said that nothing can be seen."""
END_SECONDS = 45.0
"""Longest wait for pods to go when everything is to end."""

_LOG = logging.getLogger(__name__)


class KubernetesBackend:
    """See `autoscaler.backends.base.Backend`."""

    name = "kubernetes"

    def __init__(
        self, settings: KubernetesSettings, *, clock: Clock | None = None, chance: Chance = random.random
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._chance = chance
        self.cluster = Cluster(settings.cluster, clock=self._clock)
        self._namespace = settings.namespace or ""
        self._queue = Queue(self._clock, chance)
        self._catalogue = Catalogue(self.cluster, self._clock)
        self._wishes: dict[Target, Wish] = {}
        self._generations: dict[str, int] = {}
        """Endpoint → the newest ownership whose wish was taken."""
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._visible = False
        self._was_in_trouble = False
        self._closed = False
        self._view: View
        self._writer: Writer
        self._diagnosis: Diagnosis
        self._picture: Picture

    # the interface -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to watch. A server that is away is waited for behind the scenes; a wrong kubeconfig raises here."""
        self._catalogue.read_file(self._settings.instance_types)
        await self.cluster.open()
        self._namespace = self._settings.namespace or self.cluster.namespace
        self._view = View(self.cluster, self._namespace, self._on_change, self._clock, self._chance)
        self._writer = Writer(self.cluster, self._namespace, self._view)
        self._diagnosis = Diagnosis(self.cluster, self._namespace, self._clock)
        patience_seconds = self._settings.patience_seconds
        self._picture = Picture(self._view, self._diagnosis, self._clock, patience_seconds)
        work: Mapping[str, Any] = {
            "watch": watch(self._view),
            "see": self._see(),  # these two have their places: see `start` and `close`
            "rounds": self._rounds(),
            **{f"work {number}": self._work() for number in range(self._settings.parallel)},
        }
        self._tasks = [asyncio.create_task(one, name=f"kubernetes {name}") for name, one in work.items()]
        for task in self._tasks:
            task.add_done_callback(self._on_end)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BLIND_SECONDS):
                await asyncio.shield(self._tasks[1])

    async def observe(self) -> AsyncIterator[Observation]:
        """The whole state at once, then after every change; ends when the backend is closed.

        Raises what ended one of the backend's own tasks: better no autoscaler than half a one.
        """
        while not self._closed:
            changed = self._changed
            if self._failure is not None:
                raise self._failure
            observation, at = self._observation(), self._clock.monotonic()
            yield observation
            busy = self._clock.monotonic() - at  # whoever looks needs as long again for other things
            await changed.wait()
            await asyncio.sleep(max(MERGE_SECONDS, min(busy, MOST_MERGE_SECONDS)))

    async def apply(self, plan: Plan) -> None:
        """Record the wish. Raises `Fenced`, or `Unavailable` as long as nothing is known about what runs."""
        if self._closed or not self._visible:
            raise Unavailable(self._blindness() or "the Kubernetes backend is not running")
        for endpoint in sorted({target[0] for target in plan.deployments}):
            newest = max(self._view.generation(endpoint), self._generations.get(endpoint, 0))
            if plan.generation < newest:
                raise Fenced(f"generation {plan.generation} acts for {endpoint} after {newest} took over")
            self._generations[endpoint] = plan.generation
        for target, wish in plan.deployments.items():
            before = self._wishes.get(target)
            self._wishes[target] = Wish(wish, plan.generation)
            changed = before is None or before.plan != wish
            self._queue.add(target, urgent=changed and self._writer.is_pressing(self._wishes[target]))
        self._picture.changed(plan.deployments)
        self._say()

    async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
        """The newest lines of every pod of the deployment; those that end are over."""
        pods = [one for one in self._view.pods_of((endpoint, deployment)) if not one.ending]
        return await newest_lines(self.cluster, self._namespace, pods, lines)

    def figures(self) -> Iterator[Family]:
        """What the API server was asked, and whether what we watch is up to date."""
        return families(self.cluster.requests, self._view.parts)

    async def close(self, *, end_replicas: bool) -> None:
        """Let go. With `end_replicas` every Deployment of ours is deleted first, and its pods have begun to end."""
        if self._closed:
            return
        self._closed = True
        self._queue.close()
        await _cancel(self._tasks[1:])
        try:
            if end_replicas and self._visible:
                await self._end_all()
        finally:
            await _cancel(self._tasks[:1])  # the watch, which tells when the pods are gone
            self._say()
            await self.cluster.close()

    # seeing --------------------------------------------------------------------------------------------------------

    async def _see(self) -> None:
        await self._view.synced()
        await self._catalogue.refresh()
        self._visible = True
        for target in self._view.targets():
            self._on_change(target)
        self._say()

    def _on_change(self, target: Target) -> None:
        if not target[1]:  # the endpoint's account
            for one in [one for one in self._wishes if one[0] == target[0]]:
                self._queue.add(one)
            return
        self._picture.changed((target,))
        if target in self._wishes:
            self._queue.add(target)
        self._say()

    def _say(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _blindness(self) -> str:
        if self._visible:
            return ""
        trouble = self._view.trouble() if self._tasks else None
        return trouble[0].message if trouble else "what runs in the cluster is being listed"

    def _observation(self) -> Observation:
        if not self._visible:
            return Observation(blind=self._blindness())
        return self._picture.draw({target: wish.plan for target, wish in self._wishes.items()})

    async def _rounds(self) -> None:
        """What only time changes, for those that are not as they should be."""
        while True:
            await self._clock.sleep(ROUND_SECONDS)
            if not self._visible:
                self._say()
                continue
            await self._catalogue.refresh_if_old()
            wishes = self._wishes.items()
            unsettled = [target for target, wish in wishes if not self._picture.is_settled(target, wish.plan)]
            news = await self._diagnosis.look(one for target in unsettled for one in self._view.pods_of(target))
            in_trouble = self._view.trouble() is not None
            if in_trouble != self._was_in_trouble:
                unsettled = list(self._wishes)
            self._was_in_trouble = in_trouble
            if unsettled or news:
                self._picture.changed(unsettled)
                self._say()

    # doing ---------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            target = await self._queue.next()
            failed: TidegateError | None = None
            try:
                await self._make(target)
            except Fenced as error:
                _LOG.warning("%s/%s: %s", *target, error.message)
                self._wishes.pop(target, None)
            except TidegateError as error:
                failed = error
            except Exception as error:
                _LOG.exception("cannot work on %s/%s", *target)
                failed = TidegateError(f"{type(error).__name__}: {error}")
            self._note(target, failed)

    def _note(self, target: Target, failed: TidegateError | None) -> None:
        wait = failed.wait_seconds if isinstance(failed, KubernetesError) else 0.0
        pause = self._queue.done(target, failed=failed is not None, least_seconds=wait)
        before = self._picture.errors.pop(target, None)
        if failed is not None:
            self._picture.errors[target] = (failed, before[1] if before else self._clock.time_ns())
            if before is None or before[0].message != failed.message:
                _LOG.warning("%s/%s: %s", *target, failed.message, extra={"pause_seconds": round(pause, 1)})
        if failed is not None or before is not None or target not in self._wishes:
            self._picture.changed((target,))
            self._say()

    async def _make(self, target: Target) -> None:
        wish = self._wishes.get(target)
        if wish is None or not self._visible:
            return
        if wish.plan.gone and not self._runs(target):
            await self._forget(target)
            return
        await self._writer.claim(wish)
        await self._writer.make(wish, await self._template(target, wish))

    async def _template(self, target: Target, wish: Wish) -> manifests.Manifest | None:
        known, plan = self._picture.made.get(target), wish.plan
        same = known is not None and replace(known.plan, count=0, remove=frozenset()) == replace(
            plan, count=0, remove=frozenset()
        )
        if known is not None and same and known.edition == self._catalogue.edition:
            return known.template
        made, refusal, note = None, None, ""
        try:
            kind = await self._catalogue.choose(plan.document)
            made = pod_template(plan, kind, self._settings.pods)
            note = substitute(plan.document, kind)
        except Unlaunchable as error:
            refusal = (error.reason, error.message)
        except (TypeError, ValueError, AttributeError, TidegateError) as error:
            refusal = ("InvalidDeploymentSpec", f"the document cannot be read: {error}")
        self._picture.made[target] = Made(plan, self._catalogue.edition, made, refusal, note)
        self._picture.changed((target,))
        self._say()
        return made

    def _runs(self, target: Target) -> bool:
        """Whether there is more of it than pods that end. Those may take minutes, and nobody might be left by then who knows."""
        return bool(self._view.workloads_of(target)) or any(not one.ending for one in self._view.pods_of(target))

    def _stays(self, target: Target) -> bool:
        wish = self._wishes.get(target)
        return (wish is not None and not wish.plan.gone) or self._runs(target)

    async def _forget(self, target: Target) -> None:
        others = {one for one in (*self._wishes, *self._view.targets()) if one[0] == target[0] and one != target}
        wish = self._wishes[target]
        await self._writer.tidy(wish, endpoint_too=not any(map(self._stays, others)))
        if self._wishes.get(target) is wish:  # else it has been wished for again meanwhile
            del self._wishes[target]
            self._picture.made.pop(target, None)

    async def _end_all(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._writer.drop(list(self._wishes.values()))
                while any(not one.ending for target in self._wishes for one in self._view.pods_of(target)):
                    await self._changed.wait()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._say()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
