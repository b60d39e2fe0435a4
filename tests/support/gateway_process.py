"""One gateway worker as a process of its own: `python -m tests.support.gateway_process SETTINGS_JSON`.

Prints `ready` once it serves. SIGTERM drains.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from router.gateway.worker import run
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import DataLayout, GatewaySettings


async def _main(options: dict[str, Any]) -> None:
    settings = GatewaySettings(**{**options, "data": DataLayout(Path(options["data"]))})
    log = EmbeddedLog(settings.data.log)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run(settings, log, stop, lambda: print("ready", flush=True))  # noqa: T201 -- what the test waits for
    await log.close()


if __name__ == "__main__":
    uvloop.run(_main(json.loads(sys.argv[1])))
