"""Closed-loop load from wrk, read back as numbers."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
wrk.method = "POST"
wrk.body = string.rep("x", {size})
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
{request}
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.errors.status))
end
"""


_NEW_TRACE_EACH_TIME = """
local sent = 0
request = function()
  sent = sent + 1
  wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", sent * 2654435761, sent)
  return wrk.format(nil, {path})
end
"""


_TIMEOUT_SECONDS = 30
"""Of one request: a big one through a busy machine takes longer than wrk's two seconds."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run of the load generator."""

    requests: int
    seconds: float
    broken: int
    """Connections refused, cut or timed out."""
    refused: int
    """Answers other than 2xx and 3xx."""


def post(
    url: str,
    *,
    key: str,
    seconds: float,
    connections: int,
    body_bytes: int,
    cpu: int | None,
    traced: bool = False,
    numbered: tuple[str, int] | None = None,
) -> LoadResult:
    """POST `body_bytes` again and again over keep-alive connections for `seconds`, from one thread on core `cpu`.

    With `traced`, every request carries a `traceparent` of its own, so that no two heads are alike; its path is then one of
    `numbered`, a path with %d in it and how many there are, by chance.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        path = f'string.format("{numbered[0]}", math.random({numbered[1]}))' if numbered else "nil"
        request = _NEW_TRACE_EACH_TIME.format(path=path) if traced else ""
        script.write_text(_SCRIPT.format(size=body_bytes, key=key, request=request))
        pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
        command = [*pin, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", f"{_TIMEOUT_SECONDS}s"]
        command += ["-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk gave no result: {done.stdout}{done.stderr}")
    requests, micros, broken, refused = map(int, found.groups())
    return LoadResult(requests, micros / 1e6, broken, refused)
