"""`make bench-kubernetes`: what Kubernetes as compute promises, measured on real Kubernetes programs on this machine.

API server, controllers, scheduler, etcd and, for starts from zero, kubelet and containers are the real ones; the fleet's
nodes are make-believe (KWOK). Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.choosing_sizes import add_size_arguments, chosen, progress
from loadtests.kubernetes import image
from loadtests.kubernetes.bench import from_zero, scale_rows
from loadtests.kubernetes.bench.sizes import Sizes
from loadtests.kubernetes.cluster.missing import missing
from loadtests.scoreboard import Row, save, show

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

NAMES = ("zero", "fleet", "hpa")
"""What `--row` may name: one row, four rows, one row."""
QUICK = Sizes(repetitions=1, deployments=20, pods=60, seconds=1.0, rest_seconds=16.0)
_HELP = {
    "repetitions": "starts from zero of each kind",
    "deployments": "of the fleet",
    "pods": "of the fleet, all together",
    "decisions_per_second": "at which counts change",
    "seconds": "so long they go up, and then down",
    "rest_seconds": "after each of the two",
}


async def measure(folder: Path, names: Collection[str], sizes: Sizes, say: Callable[[str], None]) -> list[Row]:
    """Everything that `names` asks for, one after another. SIGTERM ends it in good order: CancelledError."""
    work = asyncio.current_task()
    if work is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    rows: list[Row] = []
    if "zero" in names:
        (zero := folder / "zero").mkdir()
        rows.append(await from_zero.row(zero, sizes.repetitions, say))
    if {"fleet", "hpa"} & set(names):
        (fleet := folder / "fleet").mkdir()
        rows += await scale_rows.rows(fleet, sizes, names, say)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, optionally write JSON."""
    options = _parser().parse_args(arguments)
    names, real = options.row or NAMES, "zero" in (options.row or NAMES)
    if reason := missing(nodes=int(real)) or (image.missing() if real else None):
        print(reason, file=sys.stderr)
        return 1
    sizes = chosen(options, Sizes(), QUICK)
    started, load = time.monotonic(), os.getloadavg()[0]
    say = progress(started)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        try:
            rows = asyncio.run(measure(Path(folder), names, sizes, say))
        except asyncio.CancelledError:
            print("told to end; nothing is left running", file=sys.stderr)
            return 143
    show("Kubernetes as compute, on real Kubernetes programs on this machine", rows, beside="beside it")
    print(f"took {time.monotonic() - started:.0f} s; load average before: {load:.1f}, now: {os.getloadavg()[0]:.1f}")
    if options.json:
        save(options.json, rows)
    return 1 if any(row.met is False for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.kubernetes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--row", action="append", choices=NAMES, help="only this; may be repeated")
    add_size_arguments(parser, Sizes, _HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
