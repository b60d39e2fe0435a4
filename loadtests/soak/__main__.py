"""`make soak`: all of Tidegate for some minutes under mixed load while everything is changed and killed.

Every request ends as one of: ok, explained (the cause and when it acted are known), unexplained. Exit 1 when there is an
unexplained one, when something does not come back, when a process ends that nobody ended, when an output has an error,
when memory grows, or when a descriptor is not given back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from loadtests.soak.certificates import missing
from loadtests.soak.report import show, told
from loadtests.soak.soak import Outcome, soak

_SETUP_SECONDS = 300.0
"""For everything but the load itself: after that the soak is broken off."""


async def bounded(folder: Path, seconds: float, seed: int) -> Outcome:
    """A soak that ends."""
    async with asyncio.timeout(seconds * 1.5 + _SETUP_SECONDS):
        return await soak(folder, seconds, seed)


def main() -> int:
    """Soak, tell, judge."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="of load, instead of --minutes")
    parser.add_argument("--seed", type=int, help="of the schedule (default: another one each time; it is printed)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in DIR and leave the outputs of all processes there"
    )
    options = parser.parse_args()
    if problem := missing():
        parser.error(problem)
    seconds = options.seconds or options.minutes * 60
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"soak for {seconds:g} s, SEED={seed}", flush=True)
        outcome = asyncio.run(bounded(folder, seconds, seed))
    show(outcome)
    if options.json:
        options.json.write_text(json.dumps(told(outcome), indent=2) + "\n")
    return 0 if not outcome.problems else 1


if __name__ == "__main__":
    sys.exit(main())
