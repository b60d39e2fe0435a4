"""Apache Kafka for tests, the demo and benches: `Broker`, `Cluster`, and a command that runs one broker.

    python -m loadtests.broker --data DIR --port N     prints the address when ready, runs until SIGTERM or SIGINT

Needs Java and, the first time, Maven; `missing()` says in words what is not there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtests.kafka.cluster import Cluster
from loadtests.kafka.distribution import Unresolved, distribution, missing
from loadtests.kafka.node import Broker, BrokerFailed
from loadtests.kafka.security import Certificates, Security

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = [
    "Broker",
    "BrokerFailed",
    "Certificates",
    "Cluster",
    "Security",
    "Unresolved",
    "distribution",
    "missing",
    "running_broker",
]


@contextlib.asynccontextmanager
async def running_broker(folder: Path, **options: Any) -> AsyncIterator[Broker]:
    """A broker on what `folder` holds, ready; stopped at the end. `options` are those of Broker."""
    broker = Broker(folder, **options)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def _serve(folder: Path, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_broker(folder, port=port) as broker:
        print(broker.servers, flush=True)
        ended = asyncio.create_task(broker.ended(), name="watch the broker")
        stopping = asyncio.create_task(stop.wait(), name="until told to stop")
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, stopping):
            task.cancel()
        if not stop.is_set():
            raise BrokerFailed(f"the broker ended by itself; its words are in {broker.output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.broker", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the broker's data, output and settings")
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1; 0 picks one (default: %(default)s)")
    flags = parser.parse_args(arguments)
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 1
    try:
        asyncio.run(_serve(flags.data, flags.port))
    except (BrokerFailed, Unresolved) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
