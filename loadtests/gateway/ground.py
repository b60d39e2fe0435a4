"""What all rows stand on: where things lie, which cores they have, the models, the proxies, and measuring in turns."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.peers import roster
from loadtests.gateway.peers.nginx import model_body, nginx
from loadtests.gateway.peers.work import DEPLOYMENTS, Contender, Work
from loadtests.measure import Spread
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from loadtests.gateway.sizes import Sizes

OURS = "Tidegate"
PROXY_CORE, OTHER_CORE = 0, 1
WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Ground:
    """One run."""

    folder: Path
    """Temporary, the run's own."""
    sizes: Sizes
    peers: Collection[str]
    """Those that were asked for; a row takes of them what it knows."""
    say: Callable[[str], None]
    _rooms: list[Path] = field(default_factory=list)

    def room(self, name: str) -> Path:
        """A folder of its own for one row."""
        made = self.folder / f"{len(self._rooms)}-{name}"
        made.mkdir()
        self._rooms.append(made)
        return made

    def taking_part(self, *names: str) -> list[str]:
        """Of these peers the ones that were asked for."""
        return [name for name in names if name in self.peers]

    def in_turns(self, what: str, unit: str, measures: Mapping[str, Callable[[int], float]]) -> dict[str, Spread]:
        """Each of `measures` (a function of seconds) once a round, one after another; the first round only warms up."""
        values: dict[str, list[float]] = {name: [] for name in measures}
        for turn in range(self.sizes.repetitions + 1):
            for name, measure in measures.items():
                figure = measure(self.sizes.seconds if turn else min(WARM_UP_SECONDS, self.sizes.seconds))
                if turn:
                    values[name].append(figure)
                    self.say(f"{what}: round {turn}/{self.sizes.repetitions}  {name:13} {figure:8.1f} {unit}")
        return {name: Spread.of(found) for name, found in values.items()}


@contextlib.contextmanager
def models(folder: Path) -> Iterator[dict[str, int]]:
    """A model for each deployment that answers at once, all on the other core; yields deployment → port."""
    ports = {name: free_port() for name in DEPLOYMENTS}
    with contextlib.ExitStack() as running:
        for name, port in ports.items():
            running.enter_context(nginx(folder / f"model-{name}", port, model_body(port), OTHER_CORE))
        yield ports


@contextlib.contextmanager
def contenders(folder: Path, names: Collection[str], work: Work) -> Iterator[dict[str, Contender]]:
    """One gateway worker of ours and the peers `names`, each with `work` to do, all on the proxies' core."""
    tls = work.tls is not None
    with contextlib.ExitStack() as running:
        made: dict[str, Contender] = {}
        port, data = free_port(), DataLayout(folder / "data")
        data.create()
        endpoint = subject.usual(work.models, mirror=work.mirror, concurrency=work.concurrency)
        asyncio.run(subject.publish_all(data, [endpoint]))
        flags = ["--tls-cert", str(work.tls.certificate), "--tls-key", str(work.tls.key)] if work.tls else []
        ours = subject.workers(data, port, [PROXY_CORE], mirror=subject.on_core(OTHER_CORE), flags=flags)
        worker, *mirrors = running.enter_context(ours)
        made[OURS] = Contender(OURS, port, (worker,), tls, tuple(mirrors))
        for name in names:
            port = free_port()
            pids = running.enter_context(roster.start(name, folder / f"peer-{name}", port, work, PROXY_CORE))
            made[name] = Contender(name, port, tuple(pids), tls)
        yield made
