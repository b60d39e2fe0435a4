"""What a person watches while the demo runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from loadtests.demo.traffic import Tally
    from loadtests.tree import Tidegate

_REFRESH_SECONDS = 0.25


@dataclass(slots=True)
class Watch:
    """Polls the control plane's status and keeps what the summary needs of it."""

    session: aiohttp.ClientSession
    there: Tidegate
    started: float = field(default_factory=time.monotonic)
    newest: dict[str, Any] = field(default_factory=dict)
    replicas: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """(seconds since the start, deployment → ready replicas)."""

    async def poll(self) -> None:
        """Read the status once."""
        async with self.session.get(f"{self.there.control_url}/v1/status", headers=self.there.login) as response:
            response.raise_for_status()
            self.newest = await response.json()
        ready = {
            deployment["name"]: deployment["replicas"]["ready"]
            for endpoint in self.newest["endpoints"]
            for deployment in endpoint["deployments"]
        }
        self.replicas.append((time.monotonic() - self.started, ready))

    def deployments(self, endpoint: str) -> dict[str, dict[str, Any]]:
        """Deployment name → its newest status."""
        found = [one for one in self.newest.get("endpoints", []) if one["name"] == endpoint]
        return {one["name"]: one for entry in found for one in entry["deployments"]}

    async def until(self, what: str, condition: Any, seconds: float) -> None:
        """Wait until `condition(self)` holds; raise TimeoutError with `what` after `seconds`."""
        ends = time.monotonic() + seconds
        while not condition(self):
            if time.monotonic() > ends:
                raise TimeoutError(f"{what} did not happen within {seconds:g} s; status: {self.newest}")
            await asyncio.sleep(0.1)


@dataclass(slots=True)
class Screen:
    """Where the demo speaks."""

    console: Console = field(default_factory=Console)
    stage: str = ""

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, highlight=False)

    def title(self, stage: str) -> None:
        """The next part of the story."""
        self.stage = stage
        self.say(f"\n[bold cyan]▸ {stage}[/]")

    def render(self, watch: Watch, tally: Tally) -> Group:
        """The live table."""
        table = Table(box=None, pad_edge=False)
        for name in (
            "deployment",
            "weight",
            "mirror",
            "replicas (observed/ready/desired)",
            "req/s",
            "p50 ms",
            "p99 ms",
        ):
            table.add_column(name, justify="left" if name == "deployment" else "right")
        for endpoint in watch.newest.get("endpoints", []):
            for one in endpoint["deployments"]:
                counts = one["replicas"]
                bar = "■" * counts["ready"] + "□" * max(0, counts["desired"] - counts["ready"])
                table.add_row(
                    f"{endpoint['name']}/{one['name']}", f"{one['weight']} %", f"{one['mirror_percent']:g} %",
                    f"{bar} {counts['observed']}/{counts['ready']}/{counts['desired']}",
                    *(_figure(one[key]) for key in ("requests_per_second", "p50_ms", "p99_ms")),
                )  # fmt: skip
        line = f"  {tally.sent} sent · {tally.answered} answered · {len(tally.failures)} kinds of failure"
        return Group(Text(line, style="bold"), table)

    @contextlib.asynccontextmanager
    async def live(self, watch: Watch, tally: Tally) -> AsyncIterator[None]:
        """Poll the status while the body runs; redraw the table where there is a terminal."""
        with Live(console=self.console, auto_refresh=False, transient=True) as live:

            async def follow() -> None:
                while True:
                    await watch.poll()
                    if self.console.is_terminal:
                        live.update(self.render(watch, tally), refresh=True)
                    await asyncio.sleep(_REFRESH_SECONDS)

            task = asyncio.create_task(follow(), name="demo-view")
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
