"""The demo, stage by stage. Every stage sends traffic and keeps its tally; none of them forgives a lost request."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from loadtests.demo.traffic import Client, Tally
from loadtests.demo.view import Screen, Watch

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.tree import Tidegate

ENDPOINT = "digits"


@dataclass(slots=True)
class Story:
    """What happened, for the summary."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    cold_seconds: float = 0.0
    cold_deployment: str = ""
    tokens: int = 0
    first_token_seconds: float = 0.0
    chat: Tally = field(default_factory=Tally)
    shadows: dict[str, int] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)

    def total(self) -> Tally:
        """All requests of all stages."""
        total = Tally()
        for tally in (*self.tallies.values(), self.chat):
            total.add(tally)
        return total


@dataclass(slots=True)
class Narrator:
    """Runs the stages against one installation."""

    tree: Tidegate
    screen: Screen
    watch: Watch
    session: aiohttp.ClientSession
    examples: Path
    story: Story = field(default_factory=Story)

    async def command(self, *words: str, cwd: Path) -> str:
        """Show and run one `tidegate` command."""
        self.screen.say(f"  [dim]$ tidegate {' '.join(words)}[/]")
        return await self.tree.run(*words, cwd=cwd)

    async def deploy(self) -> None:
        """Two endpoints, four deployments, from Azure's YAML."""
        self.screen.title("deploy: blue, green and a candidate behind one address, a streaming model behind another")
        folder = self.examples / "digits"
        await self.command("online-endpoint", "create", "-n", ENDPOINT, "-f", "endpoint.yml", cwd=folder)
        for name in ("blue", "green", "candidate"):
            flags = ["--all-traffic"] if name == "blue" else []
            file = f"{name}-deployment.yml"
            await self.command(
                "online-deployment", "create", "-n", name, "-e", ENDPOINT, "-f", file, *flags, cwd=folder
            )
        folder = self.examples / "chat"
        await self.command("online-endpoint", "create", "-n", "chat", "-f", "endpoint.yml", cwd=folder)
        create = ("online-deployment", "create", "-n", "words", "-e", "chat", "-f", "words-deployment.yml")
        await self.command(*create, "--all-traffic", cwd=folder)
        await self.watch.poll()

    async def client(self) -> Client:
        """A caller of the digits endpoint with its key."""
        keys = await self.tree.json("online-endpoint", "get-credentials", "-n", ENDPOINT)
        samples = json.loads((self.examples / "digits" / "models" / "samples.json").read_text())
        url = f"{self.tree.gateway_url}/endpoints/{ENDPOINT}/score"
        return Client(self.session, url, keys["primaryKey"], [json.dumps(sample) for sample in samples])

    async def split_and_mirror(self, client: Client) -> None:
        """Steady traffic, 90/10, a tenth mirrored."""
        self.screen.title("split 90/10 between blue and green, mirror 10 % to the candidate")
        traffic = ("--traffic", "blue=90 green=10", "--mirror-traffic", "candidate=10")
        await self.command("online-endpoint", "update", "-n", ENDPOINT, *traffic, cwd=self.examples)
        await self._stage("split", client, client.steady(per_second=25, seconds=16))

    async def burst(self, client: Client) -> None:
        """More callers at once than one replica may serve."""
        self.screen.title("burst: 14 callers at once")
        await self._stage("burst", client, client.crowd(callers=14, seconds=14))
        self.screen.say(f"  blue scaled out to {peak_of('blue', self.watch)} ready replicas")

    async def cut_over(self, client: Client) -> None:
        """All traffic to green while requests keep coming."""
        self.screen.title("cut-over: everything to green, under load")
        load = asyncio.create_task(self._stage("cut-over", client, client.steady(25, 8)), name="demo-cut-over")
        traffic = ("--traffic", "blue=0 green=100")
        await self.command("online-endpoint", "update", "-n", ENDPOINT, *traffic, cwd=self.examples)
        await load

    async def stream(self) -> None:
        """One completion, token by token."""
        self.screen.title("stream: tokens as server-sent events")
        keys = await self.tree.json("online-endpoint", "get-credentials", "-n", "chat")
        url = f"{self.tree.gateway_url}/endpoints/chat/v1/completions"
        headers = {"authorization": f"Bearer {keys['primaryKey']}"}
        body = {"prompt": "the tide", "max_tokens": 40, "stream": True}
        started, tally = time.monotonic(), self.story.chat
        words: list[str] = []
        tally.sent += 1
        async with self.session.post(url, json=body, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    if not words:
                        self.story.first_token_seconds = time.monotonic() - started
                    words.append(json.loads(line[6:])["token"])
                elif line.startswith(b"data: [DONE]"):
                    tally.answered += int(response.status == 200)
                    tally.latencies.append(time.monotonic() - started)
                    tally.by_deployment["words"] += 1
        self.story.tokens = len(words)
        self.screen.say(f"  the tide [bold]{' '.join(words)}[/]")
        took = time.monotonic() - started
        self.screen.say(
            f"  first token after {self.story.first_token_seconds * 1000:.0f} ms, all {len(words)} in {took:.1f} s"
        )

    async def idle_and_wake(self, client: Client) -> None:
        """No traffic until nothing runs, then one request."""
        self.screen.title("idle: nobody calls, so nothing runs")
        tally = Tally()
        async with self.screen.live(self.watch, tally):
            await self.watch.until("scale to zero", _all_at_zero, seconds=90)
        self.screen.say("  blue, green and the candidate are at zero replicas")
        self.screen.title("wake: one request to an endpoint at zero")
        started = time.monotonic()
        await self._stage("wake", client, client.send())
        self.story.cold_seconds = time.monotonic() - started
        await self.watch.poll()
        self.screen.say(f"  answered after {self.story.cold_seconds:.2f} s, start of the model included")

    async def read_the_log(self) -> None:
        """What the log says of shadows and decisions."""
        shadows = await self.tree.run("events", "shadows", "--tail", "10000")
        counts = {"compared": 0, "equal": 0, "dropped": 0}
        for line in shadows.splitlines():
            event = json.loads(line)["event"]
            if event["dropped"]:
                counts["dropped"] += event["count"]
            else:
                counts["compared"] += 1
                counts["equal"] += int(event["equal"] is True)
        self.story.shadows = counts
        lines = (await self.tree.run("events", "decisions", "--tail", "1000")).splitlines()
        self.story.decisions = [json.loads(line)["event"] for line in lines]

    async def _stage(self, name: str, client: Client, work: Any) -> None:
        client.tally = tally = Tally()
        self.story.tallies[name] = tally
        async with self.screen.live(self.watch, tally):
            await work
        split = " · ".join(f"{deployment} {count}" for deployment, count in sorted(tally.by_deployment.items()))
        self.screen.say(
            f"  {tally.answered} of {tally.sent} answered ({split}), p50 {tally.quantile_ms(0.5):.0f} ms, "
            f"p99 {tally.quantile_ms(0.99):.0f} ms"
        )
        for failure, count in tally.failures.items():
            self.screen.say(f"  [red]{count} × {failure}[/]")


def peak_of(deployment: str, watch: Watch) -> int:
    """Most ready replicas ever seen of one deployment."""
    return max((counts.get(deployment, 0) for _, counts in watch.replicas), default=0)


def _all_at_zero(watch: Watch) -> bool:
    states = watch.deployments(ENDPOINT)
    return bool(states) and all(state["replicas"]["observed"] == 0 for state in states.values())
