"""One request at zero replicas, through gateway, autoscaler and pods on a real node, beside `kubectl scale --replicas=1`.

Both start the very same pod template on the same node, in turns: ours from the request's departure to its answer, kubectl's
from the start of the command until a watch of ours has seen the pod Ready. Before each of them nothing of the other runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

from loadtests.kubernetes import image
from loadtests.kubernetes.bench.watching import LONG
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.measure import Spread
from loadtests.scoreboard import Row
from loadtests.tree import Tree, tidegate_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GOAL = 1.15
ENDPOINT, DEPLOYMENT = "zero", "blue"
PLAIN = "plain"
WAIT_SECONDS = 180.0
IDLE_SECONDS = 3
SETTLE_SECONDS = (1.0, 2.0)
"""After the last pod is gone; drawn evenly. A kubelet looks at containers once a second and tells of what is gone then, so a
fixed wait would start everything at the same moment of that second."""
_MODEL = """
import http.server, os, signal, sys
class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    do_GET = do_POST = answer
    def log_message(self, *words): pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Model).serve_forever()
"""
_TYPES = {
    "apiVersion": "amlarc.azureml.com/v1alpha1",
    "kind": "InstanceType",
    "metadata": {"name": "small"},
    "spec": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "2", "memory": "256Mi"}}},
}


@dataclass(slots=True)
class Eyes:
    """What a watch of ours has seen in one namespace since `forget`; monotonic seconds."""

    replicas: int = -1
    """That the newest Deployment asks for."""
    scaled_at: float = 0.0
    ready_at: float = 0.0
    pods: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def forget(self) -> None:
        """A new start is watched from here."""
        self.scaled_at = self.ready_at = 0.0

    def take(self, kind: str, event: dict[str, Any]) -> None:
        """One event of the watch over pods or deployments."""
        found, now = event["object"], time.monotonic()
        if kind == "deployments":
            before, self.replicas = self.replicas, int(found["spec"].get("replicas", 0))
            if not before < self.replicas:
                return
            self.scaled_at = self.scaled_at or now
        elif event["type"] == "DELETED":
            self.pods.discard(found["metadata"]["name"])
        else:
            self.pods.add(found["metadata"]["name"])
            if _is_ready(found) and "deletionTimestamp" not in found["metadata"]:
                self.ready_at = self.ready_at or now
        self.news.set()

    async def until(self, seen: Callable[[Eyes], bool], what: str) -> None:
        """Return when `seen` holds. Raises RuntimeError that says `what` did not happen."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not seen(self):
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise RuntimeError(f"{what} did not happen within {WAIT_SECONDS:g} s") from None


@dataclass(frozen=True, slots=True)
class Start:
    """One start from zero; seconds from its beginning."""

    scaled: float
    """The count was seen to be 1."""
    ready: float
    """The pod was seen Ready."""
    over: float
    """What was waited for: ours, the answer; kubectl's, that the pod was seen Ready."""


@dataclass(slots=True)
class Stage:
    """Where both run."""

    bed: Cluster
    tree: Tree
    key: str
    ours: Eyes
    plain: Eyes
    namespace: str
    """Of the plain Deployment."""

    async def request(self) -> Start:
        """One request, with nothing ready."""
        self.ours.forget()
        url = f"{self.tree.gateway_url}/endpoints/{ENDPOINT}/score"
        login = {"authorization": f"Bearer {self.key}"}
        timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS)
        async with aiohttp.ClientSession(headers=login, timeout=timeout) as session:
            began = time.monotonic()
            async with session.post(url, json={}) as answer:
                text = await answer.text()
                over = time.monotonic()
        if answer.status != 200:
            raise RuntimeError(f"the request at zero was answered with {answer.status}: {text[:500]}")
        await self.ours.until(lambda eyes: eyes.ready_at > 0 and eyes.scaled_at > 0, "our pod's becoming Ready")
        return Start(self.ours.scaled_at - began, self.ours.ready_at - began, over - began)

    async def scale(self) -> Start:
        """The same by hand."""
        self.plain.forget()
        words = ("scale", f"--namespace={self.namespace}", f"deployment/{PLAIN}")
        began = time.monotonic()
        await self.bed.kubectl(*words, "--replicas=1")
        await self.plain.until(lambda eyes: eyes.ready_at > 0 and eyes.scaled_at > 0, "the plain pod's becoming Ready")
        made = Start(self.plain.scaled_at - began, self.plain.ready_at - began, self.plain.ready_at - began)
        await self.bed.kubectl(*words, "--replicas=0")
        return made

    async def calm(self) -> None:
        """Return when nothing of either runs any more."""
        for eyes, whose in ((self.ours, "our"), (self.plain, "the plain")):
            await eyes.until(lambda eyes: eyes.replicas == 0 and not eyes.pods, f"{whose} pod's going")
        await asyncio.sleep(random.uniform(*SETTLE_SECONDS))


async def row(folder: Path, repetitions: int, say: Callable[[str], None]) -> Row:
    """All of it; the first start of each kind is not counted."""
    ours: list[Start] = []
    plain: list[Start] = []
    async with _stage(folder, say) as stage:
        for number in range(repetitions + 1):
            kinds = [(stage.request, ours), (stage.scale, plain)]
            for start, found in kinds if number % 2 else reversed(kinds):
                await stage.calm()
                found.append(await start())
            counted = "" if number else " (not counted)"
            say(f"start {number} of {repetitions}{counted}: {_told(ours[-1])}; kubectl: {_told(plain[-1])}")
    return _row(ours[1:], plain[1:])


def _told(start: Start) -> str:
    return f"{start.over:.2f} s (scaled {start.scaled:.2f}, Ready {start.ready:.2f})"


def _row(ours: list[Start], plain: list[Start]) -> Row:
    def median(values: list[float]) -> float:
        return Spread.of(values).median

    answer, ready = median([one.over for one in ours]), median([one.over for one in plain])
    means = sum(one.over for one in ours) / sum(one.over for one in plain)  # kubelets count in seconds: medians jump
    figures = {
        "kubectl scale → Ready ms": ready * 1000,
        "ratio of means": means,
        "of it kubectl itself ms": median([one.scaled for one in plain]) * 1000,
        "ours: request → scaled ms": median([one.scaled for one in ours]) * 1000,
        "ours: scaled → Ready ms": median([one.ready - one.scaled for one in ours]) * 1000,
        "kubectl: scaled → Ready ms": median([one.ready - one.scaled for one in plain]) * 1000,
        "ours: Ready → answer ms": median([one.over - one.ready for one in ours]) * 1000,
    }
    ratio = answer / ready
    work = f"from zero on a real node: request → answer, median of {len(ours)}"
    return Row(work, "ms", answer * 1000, figures, ratio, f"≤ {GOAL:g} × kubectl scale", ratio <= GOAL)


# ── the stage ──


@contextlib.asynccontextmanager
async def _stage(folder: Path, say: Callable[[str], None]) -> AsyncIterator[Stage]:
    # Not in `folder`: nodes have a /run and a /var/lib of their own.
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-cluster-") as beside:
        bed = Cluster(Path(beside) / "cluster", nodes=1, audit=False)
        await bed.start()
        try:
            name = await image.image(bed)
            say(f"a cluster with one real node at {bed.server}")
            async with bed.namespace("zero") as namespace, bed.namespace("plain") as other:
                (types := folder / "types.yaml").write_text(yaml.safe_dump(_TYPES))
                flags = (
                    "--backend=kubernetes", f"--kubeconfig={bed.kubeconfig}", f"--kubernetes-namespace={namespace}",
                    f"--kubernetes-image={name}", "--kubernetes-pull-policy=Never", f"--kubernetes-instance-types={types}",
                )  # fmt: skip
                async with tidegate_up(folder / "data", *flags, log=folder / "up.log") as tree:
                    key = await _deploy(tree, folder / "documents", name)
                    await _copy(bed, namespace, other)
                    async with _eyes(bed, namespace) as ours, _eyes(bed, other) as plain:
                        yield Stage(bed, tree, key, ours, plain, other)
        finally:
            await bed.stop()


async def _deploy(tree: Tree, folder: Path, name: str) -> str:
    """The endpoint and its deployment, as a user writes them; returns the endpoint's key."""
    folder.mkdir()
    probe = {"period": 1, "timeout": 5}
    endpoint = {"name": ENDPOINT, "compute": "azureml:cluster"}
    document = {
        "name": DEPLOYMENT,
        "endpoint_name": ENDPOINT,
        "type": "kubernetes",
        "environment": {"image": name},
        "instance_type": "small",
        "scale_settings": {"type": "target_utilization", "min_instances": 1, "max_instances": 1},
        "request_settings": {"request_timeout_ms": 60_000, "max_queue_wait_ms": 60_000},
        "readiness_probe": probe,
        "liveness_probe": probe,
        "tidegate": {
            "command": ["python", "-I", "-S", "-c", _MODEL, "{port}"],
            "min_instances": 0,
            "idle_seconds": IDLE_SECONDS,
            "drain_seconds": 5,
        },
    }
    for file, written in (("endpoint.yml", endpoint), ("deployment.yml", document)):
        (folder / file).write_text(yaml.safe_dump(written))
    await tree.run("online-endpoint", "create", "-f", "endpoint.yml", cwd=folder)
    await tree.run("online-deployment", "create", "-f", "deployment.yml", "--all-traffic", cwd=folder)
    keys = await tree.json("online-endpoint", "get-credentials", "-n", ENDPOINT)
    return str(keys["primaryKey"])


async def _copy(bed: Cluster, namespace: str, other: str) -> None:
    """Our Deployment's pod template under a Deployment that nobody but kubectl scales; its account with it."""
    (made,) = (await bed.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments"))["items"]
    template = json.loads(json.dumps(made["spec"]["template"]))
    account = template["spec"]["serviceAccountName"]
    await bed.api.post(f"/api/v1/namespaces/{other}/serviceaccounts", {"metadata": {"name": account}})
    spec = {key: made["spec"][key] for key in ("selector", "strategy")} | {"replicas": 0, "template": template}
    await bed.api.post(f"/apis/apps/v1/namespaces/{other}/deployments", {"metadata": {"name": PLAIN}, "spec": spec})


@contextlib.asynccontextmanager
async def _eyes(bed: Cluster, namespace: str) -> AsyncIterator[Eyes]:
    seen = Eyes()

    async def look(kind: str, path: str) -> None:
        async for event in bed.api.watch(f"{path}/namespaces/{namespace}/{kind}", timeoutSeconds=LONG):
            seen.take(kind, event)

    watches = [
        asyncio.create_task(look(kind, path), name=f"watch {kind}")
        for kind, path in (("pods", "/api/v1"), ("deployments", "/apis/apps/v1"))
    ]
    try:
        yield seen
    finally:
        for one in watches:
            one.cancel()
        await asyncio.wait(watches)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
