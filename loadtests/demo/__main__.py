"""`make demo`: trains the models, starts Tidegate, tells the story, prints the summary; exit 1 when anything was lost."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from rich.table import Table

from loadtests.demo.models import train
from loadtests.demo.places import BACKENDS, LOGS, place, why_not
from loadtests.demo.plot import timeline
from loadtests.demo.story import Narrator, Story, peak_of
from loadtests.demo.view import Screen, Watch

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
EXPECTED_SPLIT = {"blue": 0.9, "green": 0.1}


async def tell(folder: Path, screen: Screen, log: str = "embedded", backend: str = "local") -> tuple[Story, Watch]:
    """Everything between an empty folder and a summary."""
    examples = folder / "examples"
    shutil.copytree(EXAMPLES, examples)
    await train(examples / "digits", screen)
    async with place(backend, log, folder, screen) as there, aiohttp.ClientSession() as session:
        watch = Watch(session, there)
        narrator = Narrator(there, screen, watch, session, examples)
        await narrator.deploy()
        client = await narrator.client()
        await narrator.split_and_mirror(client)
        await narrator.burst(client)
        await narrator.cut_over(client)
        await narrator.stream()
        await narrator.idle_and_wake(client)
        await narrator.read_the_log()
    return narrator.story, watch


def summarize(story: Story, watch: Watch) -> dict[str, Any]:
    """The summary as plain data."""
    total, split = story.total(), story.tallies["split"]
    answered = max(split.answered, 1)
    return {
        "requests": total.sent,
        "lost": total.lost,
        "stages": {name: {"requests": t.sent, "lost": t.lost} for name, t in story.tallies.items()},
        "split_expected": EXPECTED_SPLIT,
        "split_seen": {name: round(split.by_deployment[name] / answered, 4) for name in EXPECTED_SPLIT},
        "shadows": story.shadows,
        "peak_replicas": peak_of("blue", watch),
        "scaled_to_zero": True,
        "cold_request_seconds": round(story.cold_seconds, 3),
        "tokens_streamed": story.tokens,
        "first_token_seconds": round(story.first_token_seconds, 3),
        "decisions": [
            {key: event[key] for key in ("endpoint", "deployment", "previous", "desired", "reason")}
            for event in story.decisions
        ],
        "ready_replicas": [{"seconds": round(at, 2), **counts} for at, counts in watch.replicas],
    }


def show(summary: dict[str, Any], watch: Watch, screen: Screen) -> None:
    """The summary for people."""
    screen.title("summary")
    table = Table(box=None, show_header=False, pad_edge=False)
    seen = ", ".join(f"{name} {share:.1%}" for name, share in summary["split_seen"].items())
    shadows = summary["shadows"]
    for name, value in (
        ("requests", f"{summary['requests']}"),
        ("lost", f"{summary['lost']}"),
        ("split seen (asked 90/10)", seen),
        ("shadows", f"{shadows['compared']} compared, {shadows['equal']} equal, {shadows['dropped']} dropped"),
        ("peak replicas of blue", f"{summary['peak_replicas']}"),
        ("request at zero replicas", f"answered after {summary['cold_request_seconds']:.2f} s"),
        ("streamed", f"{summary['tokens_streamed']} tokens"),
    ):
        table.add_row(f"  {name}", value)
    screen.console.print(table)
    screen.say("\n  ready replicas over time")
    for line in timeline(watch.replicas):
        screen.say(f"  {line}")


def problems(summary: dict[str, Any]) -> list[str]:
    """What the demo promised and did not keep."""
    found = []
    if summary["lost"]:
        found.append(f"{summary['lost']} requests were lost")
    if summary["shadows"]["compared"] == 0:
        found.append("no shadow was compared")
    if summary["peak_replicas"] < 2:
        found.append("the burst did not scale out")
    requests = summary["stages"]["split"]["requests"]
    for name, share in EXPECTED_SPLIT.items():
        if abs(summary["split_seen"][name] - share) * requests > 1.01:
            found.append(f"{name} got {summary['split_seen'][name]:.2%} instead of {share:.0%}")
    if summary["tokens_streamed"] == 0:
        found.append("nothing was streamed")
    return found


def main() -> int:
    """Run the demo; 0 when nothing was lost and every promise was kept."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--summary", type=Path, metavar="FILE", help="also write the summary as JSON")
    parser.add_argument(
        "--log", choices=LOGS, default="embedded", help="what the events travel on (default: %(default)s)"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="local", help="where replicas run (default: %(default)s)"
    )
    options = parser.parse_args()
    if (reason := why_not(options.backend, options.log)) is not None:
        print(f"this demo cannot run here: {reason}", file=sys.stderr)
        return 2
    screen, started = Screen(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as folder:
        try:
            story, watch = asyncio.run(tell(Path(folder), screen, options.log, options.backend))
        except BaseException:
            log = Path(folder) / "up.log"
            if log.exists():
                screen.console.print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), markup=False)
            raise
    summary = {"backend": options.backend, "log": options.log, **summarize(story, watch)}
    show(summary, watch, screen)
    if options.summary:
        options.summary.write_text(json.dumps(summary, indent=2) + "\n")
    failed = problems(summary)
    for problem in failed:
        screen.say(f"[bold red]✗ {problem}[/]")
    verdict = "[bold green]✓ nothing lost, nothing left running[/]" if not failed else "[bold red]✗ see above[/]"
    screen.say(f"\n{verdict} ({time.monotonic() - started:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
