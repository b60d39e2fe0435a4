"""`make bench`: one gateway worker beside nginx, interleaved in one run on loopback.

The proxy under test has core 0 to itself; the models, the load generator and the mirror process share core 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.gateway.first_answer import seconds_to_first_answer
from loadtests.gateway.peers import model_body, nginx, proxy_body, wait_for_port
from loadtests.gateway.subject import ENDPOINT, publish, tidegate
from loadtests.load import post
from loadtests.measure import Spread, cpu_seconds, resident_bytes
from loadtests.scoreboard import Row, save, show
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "0123456789abcdef0123456789abcdef"
PROXY_CORE, OTHER_CORE = 0, 1
CONNECTIONS, BODY_BYTES = 64, 1024


def micros_per_request(pids: Sequence[int], url: str, seconds: float, *, traced: bool) -> float:
    """CPU of the proxy's processes per answered request, µs; fails when a single request failed."""
    before = cpu_seconds(pids)
    result = post(
        url, key=KEY, seconds=seconds, connections=CONNECTIONS, body_bytes=BODY_BYTES, cpu=OTHER_CORE, traced=traced
    )
    used = cpu_seconds(pids) - before
    if result.broken or result.refused or not result.requests:
        raise RuntimeError(f"{url}: {result.broken} broken and {result.refused} refused of {result.requests}")
    return used / result.requests * 1e6


def compare(folder: Path, repetitions: int, seconds: float) -> list[Row]:
    """The rows that compare with nginx, and the idle worker's memory."""
    models = {name: free_port() for name in ("blue", "green", "candidate")}
    data = DataLayout(folder / "data")
    data.create()
    asyncio.run(publish(data, models, KEY))
    ports = {name: free_port() for name in ("tidegate", "nginx+mirror", "nginx")}
    paths = {"tidegate": f"/endpoints/{ENDPOINT}/score", "nginx+mirror": "/score", "nginx": "/score"}
    measured: dict[tuple[str, bool], list[float]] = {(name, traced): [] for name in ports for traced in (False, True)}
    with contextlib.ExitStack() as running:
        for name, port in models.items():
            running.enter_context(nginx(folder / name, port, model_body(port), OTHER_CORE))
        pids: dict[str, list[int]] = {}
        for name in ("nginx", "nginx+mirror"):
            body = proxy_body(folder / name, ports[name], models, KEY, mirror=name == "nginx+mirror")
            pids[name] = running.enter_context(nginx(folder / name, ports[name], body, PROXY_CORE))
        worker = running.enter_context(tidegate(data, ports["tidegate"], gateway_cpu=PROXY_CORE, other_cpu=OTHER_CORE))
        pids["tidegate"] = [worker]
        wait_for_port(ports["tidegate"])
        idle = resident_bytes(worker) / 1e6
        for turn in range(repetitions + 1):
            for (name, traced), values in measured.items():
                url = f"http://127.0.0.1:{ports[name]}{paths[name]}"
                figure = micros_per_request(pids[name], url, seconds if turn else 1, traced=traced)
                if turn:  # the first round only warms up
                    values.append(figure)
                    heads = "all heads differ" if traced else "heads alike"
                    print(
                        f"  round {turn}/{repetitions}  {name:13} {heads:16} {figure:6.1f} µs/request", file=sys.stderr
                    )
    spreads = {case: Spread.of(values) for case, values in measured.items()}
    return [
        _cpu_row({name: spread.median for (name, kind), spread in spreads.items() if kind == traced}, traced=traced)
        for traced in (False, True)
    ] + [Row("one idle gateway worker: resident memory", "MB", idle, {}, None, "< 60 MB", idle < 60)]


def _cpu_row(medians: dict[str, float], *, traced: bool) -> Row:
    work = "1 KB JSON POST, 64 keep-alive connections, key, split 90/10, mirror 10 %, events: proxy CPU per request"
    ours, peer = medians.pop("tidegate"), medians["nginx+mirror"]
    if traced:
        work += "; a traceparent of its own in every request"
        return Row(work, "µs", ours, medians, ours / peer, "watched", None)
    return Row(work, "µs", ours, medians, ours / peer, "≤ 1.5 × nginx+mirror", ours <= 1.5 * peer)


def main() -> int:
    """Run, print the table, optionally write JSON; exit code 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gateway", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        rows = compare(Path(folder), options.repetitions, options.seconds)
        first = seconds_to_first_answer(Path(folder) / "up")
    work = "tidegate up → first answered request, environment cached"
    rows.append(Row(work, "s", first, {}, None, "< 5 s", first < 5))
    show(f"Tidegate beside nginx ({options.repetitions} interleaved rounds, medians)", rows)
    print(f"took {time.monotonic() - started:.0f} s")
    if options.json:
        save(options.json, rows)
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
