"""With `--lease`, a role acts while it holds a Lease of the cluster, and waits for it before. Wiring only.

For the embedded log, which cannot say whose turn it is: its pod is the only one that acts. While it waits it is healthy, not ready.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from router.contract.errors import TidegateError
from router.runtime.exposition import served, single, text_of

if TYPE_CHECKING:
    from router.runtime.kubernetes.leases import Lease


def add_lease_argument(parser: argparse.ArgumentParser) -> None:
    """The flag."""
    parser.add_argument(
        "--lease",
        metavar="NAME",
        help="act only while holding this Lease of the pod's own namespace; TIDEGATE_HOLDER says who we are among all, the "
        "same for the containers of one pod",
    )


@contextlib.asynccontextmanager
async def leading(flags: argparse.Namespace, stop: asyncio.Event) -> AsyncIterator[bool]:
    """Whether it is our turn: at once without `--lease`, else once we hold it; False when told to stop meanwhile.

    When it is lost, `stop` is set.
    """
    if flags.lease is None:
        yield True
        return
    try:
        from router.runtime.kubernetes import Cluster, ClusterSettings
        from router.runtime.kubernetes.leases import Lease, holder_of, keeping
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("kubernetes_asyncio"):
            raise
        raise TidegateError("--lease needs more packages: pip install 'tidegate[kubernetes]'") from None
    cluster = Cluster(ClusterSettings(kubeconfig=flags.kubeconfig, context=flags.kubernetes_context))
    await cluster.open()
    try:
        lease = Lease(cluster, cluster.namespace, flags.lease, holder_of())
        if not await _acquired(lease, stop, flags.listen):
            yield False
            return
        async with keeping(lease, stop.set):
            yield True
    finally:
        await cluster.close()


async def _acquired(lease: Lease, stop: asyncio.Event, listen: tuple[str, int] | None) -> bool:
    """Wait for `lease`; False when told to stop first. Whoever asks for our health meanwhile is answered."""

    async def numbers() -> str:
        return text_of([single("tidegate_lease_held", "gauge", "Whether this process is the one that acts", 0.0)])

    async with served(listen, numbers):
        acquiring = asyncio.create_task(lease.acquire(), name="wait for the lease")
        stopping = asyncio.create_task(stop.wait(), name="stop while waiting for the lease")
        try:
            await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (acquiring, stopping):
                task.cancel()
            await asyncio.gather(acquiring, stopping, return_exceptions=True)
    if acquiring.cancelled():
        return False
    acquiring.result()
    return True
