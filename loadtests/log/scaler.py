"""The real autoscaler over backends that run nothing: every replica it makes is one of two ports that answer already."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path

from autoscaler.backends.base import Condition, Observation
from autoscaler.backends.memory import MemoryBackend
from autoscaler.control.service import run
from router.app import Stopping, report_ready
from router.contract.events import Phase, ReplicaState
from router.runtime import telemetry
from router.runtime.log.opening import open_log
from router.runtime.settings import AutoscalerSettings, DataLayout

QUICK, SLOW = "memory", "local"
"""Names of backends that documents may ask for."""
READY_SECONDS = 0.2
"""From a plan to a ready replica."""


class Backend(MemoryBackend):
    """Many deployments at once: each looks at its own replicas, not at everybody's."""

    def _observation(self) -> Observation:
        world = self.world
        ready = Counter(
            (one.endpoint, one.deployment, one.template)
            for one in world.replicas.values()
            if one.state is ReplicaState.READY
        )
        phases = {
            target: Phase.READY if ready[*target, wish.template] >= wish.count else Phase.STARTING
            for target, wish in world.wishes.items()
        }
        conditions = {target: Condition(phase, world.wishes[target].template) for target, phase in phases.items()}
        return Observation(tuple(world.replicas.values()), conditions)


async def _scale(flags: argparse.Namespace) -> None:
    data = DataLayout(flags.data)
    data.create()
    stopping = Stopping(asyncio.Event())
    stopping.listen()
    backends = {
        name: Backend(name=name, ready_seconds=READY_SECONDS, port=port)
        for name, port in ((QUICK, flags.quick), (SLOW, flags.slow))
    }
    log = open_log(flags.log, spool=data.spool, role="autoscaler")
    try:
        settings = AutoscalerSettings(data, data.root / "cache")
        ready = lambda: report_ready(flags.ready_fd)  # noqa: E731 -- said once, when everything is known
        await run(settings, backends, log, stopping.stop, ready, default_backend=QUICK)
    finally:
        for backend in backends.values():
            await backend.close(end_replicas=True)
        await log.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.log.scaler", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--quick", type=int, required=True, help="port of what answers at once")
    parser.add_argument("--slow", type=int, required=True, help="port of what takes its time")
    flags = parser.parse_args()
    telemetry.configure("autoscaler")
    asyncio.run(_scale(flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
