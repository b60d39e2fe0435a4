"""`make bench-gateway`: gateway workers beside their peers, interleaved in one run on loopback.

The proxies have core 0 to themselves, one at a time; the models, the load and the mirror process share core 1. `make bench` is the
same program with few rows and nginx alone. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from loadtests.choosing_sizes import add_size_arguments, chosen, progress
from loadtests.gateway.ground import OURS, Ground
from loadtests.gateway.peers import roster
from loadtests.gateway.plot import svg
from loadtests.gateway.rows import (
    bodies,
    first_answer,
    hostile,
    idle,
    isolation,
    latency,
    many,
    memory,
    open_streams,
    post,
    streams,
    tls,
    workers,
)
from loadtests.gateway.sizes import Sizes
from loadtests.scoreboard import Row, save, show

_ROWS: dict[str, Callable[[Ground], list[Row]]] = {
    "tls": tls.rows,
    "latency": latency.rows,
    "streams": streams.rows,
    "bodies": bodies.rows,
    "hostile": hostile.rows,
    "isolation": isolation.rows,
    "memory": memory.rows,
    "open-streams": open_streams.rows,
    "workers": workers.rows,
    "many": many.rows,
    "idle": idle.rows,
    "first": first_answer.rows,
}
NAMES = ("post", "heads", *_ROWS)
"""What `--row` may name."""
QUICK = Sizes(
    repetitions=1, seconds=1, streams=50, connections=200, open_streams=200, period_seconds=0.5, endpoints=50, slices=1
)
_HELP = {
    "repetitions": "interleaved rounds",
    "seconds": "of each measurement",
    "streams": "open SSE streams whose chunks are counted",
    "connections": "held open to tell what one of them takes",
    "open_streams": "SSE streams held at once",
    "period_seconds": "between two chunks of one of them",
    "endpoints": "in the snapshot",
    "slices": "of each case where latencies are compared",
}


def measure(ground: Ground, names: Collection[str]) -> list[Row]:
    """Everything that `names` asks for, one after another."""
    made: list[Row] = []
    if {"post", "heads"} & set(names):
        made += post.rows(ground, names)
    for name, rows in _ROWS.items():
        if name in names:
            made += rows(ground)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, optionally write JSON."""
    options = _parser().parse_args(arguments)
    names, peers = options.row or NAMES, options.peer or roster.NAMES
    if absent := roster.lacking(peers):
        print(f"not on the path: {', '.join(absent)}; make bench-gateway installs what Debian has", file=sys.stderr)
        return 1
    sizes = chosen(options, Sizes(), QUICK)
    started, load = time.monotonic(), os.getloadavg()[0]
    say = progress(started)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        rows = measure(Ground(Path(folder), sizes, peers, say), names)
    how = "compiled" if _compiled() else "interpreted"
    title = f"The gateway ({how}) beside its peers, {sizes.repetitions} interleaved rounds: median (least–most)"
    show(title, rows)
    print(f"took {time.monotonic() - started:.0f} s; load average before: {load:.1f}, now: {os.getloadavg()[0]:.1f}")
    if options.json:
        save(options.json, rows)
    if options.plot:
        options.plot.write_text(svg(title, rows, ours=OURS))
    return 1 if any(row.met is False for row in rows) else 0


def _compiled() -> bool:
    """Whether what is measured is the live path compiled ahead of time; its processes start where this one did."""
    found = importlib.util.find_spec("router.gateway.downstream")
    return found is not None and not str(found.origin).endswith(".py")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.gateway", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the rows, as SVG")
    parser.add_argument("--row", action="append", choices=NAMES, help="only this; may be repeated")
    parser.add_argument("--peer", action="append", choices=roster.NAMES, help="only this; may be repeated")
    add_size_arguments(parser, Sizes, _HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
