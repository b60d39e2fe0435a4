"""Open-loop load: requests leave when the clock says so, whether or not earlier ones have been answered."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
local ffi = require("ffi")
ffi.cdef[[ typedef struct {{ long seconds; long nanoseconds; }} bench_time; int clock_gettime(int, bench_time *); ]]
local read, due = ffi.new("bench_time"), nil
local function now()
  ffi.C.clock_gettime(1, read)
  return tonumber(read.seconds) * 1000 + tonumber(read.nanoseconds) / 1e6
end
function delay()
  local at = now()
  due = (due or at) - math.log(1 - math.random()) * {gap_ms}
  return due > at and math.floor(due - at + math.random()) or 0
end
wrk.method = "POST"
wrk.body = string.rep("x", {size})
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.errors.status, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """What became of the load. Latencies as wrk counts them: corrected for requests that left late."""

    rate: float
    """Answered requests per second."""
    requests: int
    failed: int
    """Connections cut or timed out, and answers other than 2xx and 3xx."""
    p50_ms: float
    p99_ms: float


async def paced(
    url: str, *, key: str, rate: float, seconds: float, connections: int = 64, body_bytes: int = 1024
) -> Pace:
    """POST at `rate` per second on average, with the gaps of a Poisson process, for `seconds`, rounded up."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "pace.lua"
        script.write_text(_SCRIPT.format(gap_ms=1000 / rate, size=body_bytes, key=key))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", str(script), url]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            async with asyncio.timeout(seconds + 60):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    found = re.search(rb"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", said)
    if found is None:
        raise RuntimeError(f"wrk gave no result: {said.decode(errors='replace')}")
    requests, micros, broken, refused, p50, p99 = map(int, found.groups())
    return Pace(requests / (micros / 1e6), requests, broken + refused, p50 / 1000, p99 / 1000)
