"""A real Apache Kafka broker as a child process: started, stopped, killed, frozen and restarted on the same data and ports.

Ready means that it answered a request of the Kafka protocol.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.child import Child
from loadtests.kafka import security as listeners
from loadtests.kafka import warm_start
from loadtests.kafka.distribution import distribution, java, missing
from loadtests.kafka.probing import HOST, accepts, free_port, present, until
from loadtests.kafka.security import Certificates, Security

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLUSTER_ID = "VGlkZWdhdGVUZXN0S2Fma2"
"""Any 16 bytes in base64url."""
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData", "-Djava.awt.headless=true")
"""Quick to start on a small machine; a broker that is to run hot for long does better without TieredStopAtLevel."""
PROPERTIES = {
    "auto.create.topics.enable": "false",  # Tidegate creates what it needs; a topic that comes by itself hides faults
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "broker.session.timeout.ms": "2000",  # for this long nobody may take the place of a broker killed hard
    "broker.heartbeat.interval.ms": "400",
    "controller.quorum.election.timeout.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    "log.index.size.max.bytes": str(2 << 20),
}
"""On top of Kafka's defaults; all others, flushing above all, are as in production."""


class BrokerFailed(RuntimeError):
    """The broker ended or was not ready in time; the message holds the end of its output."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Which node of which quorum a broker is."""

    node: int = 1
    controllers: tuple[int, ...] = ()
    """Controller ports of nodes 1, 2, …; empty: alone, on a free port."""


@dataclass(eq=False)
class Broker(Child):
    """One combined broker and controller with everything it keeps under `folder`."""

    folder: Path
    port: int = 0
    """Of the open listener; 0 picks a free one, once for the life of this object."""
    properties: Mapping[str, str | int] = field(default_factory=dict)
    """Server properties that go before ours."""
    security: Security | None = None
    """With it, the listeners of `loadtests.kafka.security` are opened too."""
    heap_mb: int = 384
    jvm: Sequence[str] = JVM
    membership: Membership = Membership()

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        self.port = self.port or free_port()
        if not self.membership.controllers:
            self.membership = Membership(self.membership.node, (free_port(),))
        self._ports = {name: free_port() for name in listeners.PROTOCOLS} if self.security else {}
        self.name = f"the broker of {self.folder}"
        self.output = self.folder / "broker.log"
        self._jars: Path | None = None

    @property
    def servers(self) -> str:
        """Bootstrap address of the open listener."""
        return f"{HOST}:{self.port}"

    def servers_of(self, listener: str) -> str:
        """Bootstrap address of a listener of `loadtests.kafka.security`."""
        return f"{HOST}:{self._ports[listener]}"

    @property
    def certificates(self) -> Certificates:
        """The files a client of the TLS listeners needs."""
        return Certificates(self.folder / "certificates")

    async def start(self, deadline_seconds: float = 120) -> None:
        """Start on what the folder holds and return when it answers. Raises BrokerFailed, with nothing left running."""
        self._must_not_run()
        self._jars = jars = await distribution()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.security:
            await self.certificates.create()
        self._configure()
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._format(jars)
                warm = warm_start.flags(self._java, jars, self.folder)
                self._run(jars, [*warm, *self.jvm], "kafka.Kafka", str(self._config))
                await self._answers()
        except TimeoutError:
            await self.kill()
            raise BrokerFailed(f"no answer from {self.servers} after {deadline_seconds:g} s:\n{self.tail()}") from None
        except BaseException:
            await self.kill()
            raise

    async def stop(self, grace_seconds: float = 30) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`. A broker that does not run stays so."""
        await super().stop(grace_seconds)
        if self._jars:
            warm_start.keep(self._java, self._jars, self.folder)

    async def restart(self) -> None:
        """Stop, if it runs, and start again: same data, same ports."""
        await self.stop()
        await self.start()

    # ── its files and its process ──

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _configure(self) -> None:
        nodes = len(self.membership.controllers)
        voters = [f"{node}@{HOST}:{port}" for node, port in enumerate(self.membership.controllers, 1)]
        addresses = {"PLAINTEXT": self.port, **self._ports}
        names = ",".join(f"{name}://{HOST}:{port}" for name, port in addresses.items())
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **listeners.PROTOCOLS}
        settings: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": self.membership.node,
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"{names},CONTROLLER://{HOST}:{self.membership.controllers[self.membership.node - 1]}",
            "advertised.listeners": names,
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self._data),
            "min.insync.replicas": min(nodes, 2),
        }
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic", "default"):
            settings[f"{topic}.replication.factor"] = nodes
        for topic in ("transaction.state.log", "share.coordinator.state.topic"):
            settings[f"{topic}.min.isr"] = min(nodes, 2)
        if self.security:
            settings |= listeners.properties(self.security, self.certificates)
        settings |= PROPERTIES | dict(self.properties)
        self._config.touch(0o600)
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    async def _format(self, jars: Path) -> None:
        """Give a new data folder its identity; one that has it is left alone."""
        if (self._data / "meta.properties").exists():
            return
        users = listeners.scram_users(self.security) if self.security else []
        words = ["format", "-t", CLUSTER_ID, "-c", str(self._config), *users]
        self._run(jars, self.jvm, "kafka.tools.StorageTool", *words)
        await self.ended()
        if self.code:
            raise BrokerFailed(f"formatting {self._data} ended with {self.code}:\n{self.tail()}")

    @property
    def _java(self) -> str:
        if (program := java()) is None:
            raise BrokerFailed(missing() or "there is no java on the path")
        return program

    def _run(self, jars: Path, jvm: Sequence[str], *words: str) -> None:
        logging_file = Path(listeners.__file__).with_name("log4j2.properties")
        flags = [f"-Xmx{self.heap_mb}m", *jvm, f"-Dlog4j2.configurationFile={logging_file}"]
        self._launch([self._java, *flags, "-cp", warm_start.class_path(jars), *words], folder=self.folder)

    async def _answers(self) -> None:
        """Return when the cluster knows this node as present and every listener accepts."""
        await until(self._is_known)
        await until(self._accepts_everywhere)

    async def _is_known(self) -> bool:
        if self.pid is None:
            raise BrokerFailed(f"the broker of {self.folder} ended before it was ready:\n{self.tail()}")
        return await accepts(self.port) and self.membership.node in await present(self.port)

    async def _accepts_everywhere(self) -> bool:
        return all([await accepts(port) for port in self._ports.values()])
