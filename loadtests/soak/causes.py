"""What explains a failure. A cause is written down before it acts, with its time and what it can touch: the connections inside a
gateway worker that is killed, the requests inside a replica that is. Nothing else is explained.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.soak.account import BROKEN, Request

_IDLE_SECONDS = 0.45
"""A gateway worker that ends closes connections that have been quiet for half a second."""
_SAID_SECONDS = 5.0
"""A side of a WebSocket has so long to hear of its end."""
LEAVES = "WebSocket 1001"
"""Code of a request whose WebSocket was ended because its gateway or its replica goes away."""
UNAVAILABLE = "grpc-status 14"
"""Code of a call that the gateway gave up, in gRPC's words."""
_GIVEN_UP = ("ReplicaFailed", UNAVAILABLE)


@dataclass(slots=True)
class WorkerKilled:
    """SIGKILL of a gateway worker. `ports`: our ends of the connections inside it, or in its backlog, when it was stopped."""

    pid: int
    stopped: float
    ports: frozenset[int]
    dead: float = float("inf")
    gateway: int = 0
    """The port that it serves."""
    name: str = "inside a killed gateway worker"

    def explains(self, request: Request) -> bool:
        """A connection inside it, or one that it never accepted."""
        if request.how != BROKEN or request.gateway != self.gateway:
            return False
        if request.ended < self.stopped or request.opening > self.dead:
            return False
        # A caller may send on such a connection also after its end, as long as it has not heard of it.
        unaccepted = not request.heard and request.opened >= self.stopped - 1
        return request.port in self.ports or unaccepted


@dataclass(slots=True)
class WorkerStops:
    """SIGTERM to a gateway worker, or another one takes over. It promises to finish all; two races are known, and its WebSockets
    are ended with a word. Each is counted by itself. `ports`: our ends of the connections inside it when it began.
    """

    pid: int
    begun: float
    gone: float = float("inf")
    gateway: int = 0
    ports: frozenset[int] = frozenset()
    handed_over: bool = False
    """Whether its socket listens on in another process: then no handshake is lost."""
    name: str = "a race with a gateway worker that ends"

    def explains(self, request: Request) -> bool:
        """A handshake lost between the last accept and the close; an idle connection closed just as it was used; a WebSocket."""
        if request.gateway != self.gateway:
            return False
        if request.code == LEAVES:
            inside = request.port in self.ports or request.opened >= self.begun - 1
            return inside and request.started <= self.gone and self.begun <= request.ended <= self.gone + _SAID_SECONDS
        if request.how != BROKEN:
            return False
        lost = not request.heard and request.opened >= self.begun and request.opening <= self.gone
        late = request.idle >= _IDLE_SECONDS and not request.status and self.begun <= request.started <= self.gone
        return (lost and not self.handed_over) or late


@dataclass(slots=True)
class ReplicaKilled:
    """SIGKILL of a model server."""

    pid: int
    endpoint: str
    deployment: str
    at: float
    patience: float = 15.0
    name: str = "inside a killed replica"

    def explains(self, request: Request) -> bool:
        """An answer of its that breaks off, or a request that cannot be sent again."""
        if request.endpoint != self.endpoint or request.ended < self.at or request.started > self.at + self.patience:
            return False
        cut = request.how == BROKEN and request.replica == self.pid
        told = request.code in _GIVEN_UP and request.deployment == self.deployment and not request.repeatable
        return cut or told


@dataclass(slots=True)
class ReplicasReplaced:
    """Each replica of a deployment makes way for a new one: what is inside is finished, but WebSockets are told to come again."""

    endpoint: str
    deployment: str
    begun: float
    over: float = float("inf")
    name: str = "a WebSocket to a replica that drains"

    def explains(self, request: Request) -> bool:
        """1001, and nothing else."""
        mine = (request.endpoint, request.deployment) == (self.endpoint, self.deployment)
        return mine and request.code == LEAVES and self.begun <= request.ended <= self.over + _SAID_SECONDS


@dataclass(slots=True)
class DeploymentGone:
    """A deployment is deleted; who names it may be too late."""

    endpoint: str
    deployment: str
    begun: float
    over: float = float("inf")
    name: str = "named a deployment that was deleted meanwhile"

    def explains(self, request: Request) -> bool:
        """404 to its name."""
        known = request.code == "DeploymentNotFound" and f"'{self.deployment}'" in request.what
        return (
            known and request.endpoint == self.endpoint and request.ended >= self.begun and request.started <= self.over
        )
