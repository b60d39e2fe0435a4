"""What each process is told at its start: the unit, the default and the reason stand under each field."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.runtime.credentials import Credentials  # the command line's own start must not pay for it
    from router.runtime.login import Login


def default_cache() -> Path:
    """`$TIDEGATE_CACHE`, else the user's cache folder: built environments are shared by every data folder."""
    named = os.environ.get("TIDEGATE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"


@dataclass(frozen=True, slots=True)
class DataLayout:
    """Where things lie under `--data DIR`. Every process derives its paths from here."""

    root: Path

    @property
    def control_db(self) -> Path:
        """The control plane's store."""
        return self.root / "control.db"

    @property
    def log(self) -> Path:
        """Folder of the embedded log."""
        return self.root / "log"

    @property
    def spool(self) -> Path:
        """What this machine has for a log on Kafka, until Kafka has it."""
        return self.root / "spool"

    @property
    def instance(self) -> Path:
        """File that names this folder's autoscaler over its restarts."""
        return self.root / "instance"

    @property
    def assets(self) -> Path:
        """Uploaded code, models and conda files: `assets/<sha256>/…`, never changed once there."""
        return self.root / "assets"

    @property
    def replicas(self) -> Path:
        """One folder per replica of the local backend."""
        return self.root / "replicas"

    @property
    def run(self) -> Path:
        """Sockets and shared memory of running processes."""
        return self.root / "run"

    @property
    def board(self) -> Path:
        """Cells shared by the gateway workers of this machine. The number is the format's: no two versions share a file."""
        return self.run / "board-3"

    @property
    def mirror_socket(self) -> Path:
        """Where gateway workers tee to."""
        return self.run / "mirror.sock"

    @property
    def autoscaler_socket(self) -> Path:
        """HTTP of the autoscaler: logs, and demand past the log."""
        return self.run / "autoscaler.sock"

    @property
    def vitals(self) -> Path:
        """Sockets on which processes tell what they count about themselves."""
        return self.run / "metrics"

    @property
    def shadow_key(self) -> Path:
        """Secret that signs shadow markers; made at the first start, mode 0600."""
        return self.root / "secrets" / "shadow.key"

    def create(self) -> None:
        """Make the folders; the whole tree is the owner's alone, because assets and logs may hold secrets."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.log, self.assets, self.replicas, self.run, self.shadow_key.parent):
            folder.mkdir(exist_ok=True, mode=0o700)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway worker."""

    data: DataLayout
    host: str = "127.0.0.1"
    """Loopback by default: being reachable is a decision."""
    port: int = 8080
    worker: int = 0
    """Index of this worker, 0 ≤ worker < workers; a replacement takes the index of the one that died."""
    workers: int = 1
    domain: str = "localhost"
    """`<endpoint>.<domain>` in the Host header leads to the endpoint."""
    demand_period_seconds: float = 0.1
    """How often demand is folded; half the reaction time of the autoscaler."""
    record_period_seconds: float = 0.25
    """How often request records are handed to the log, at the first turn of demand after it: a commit costs about as much
    for few as for many, and nobody scales by them. Of more than 256 endpoints those that are left wait for up to eight turns
more, 2.5 s in all, and gather. What a killed worker loses of them."""
    mirror_budget_bytes: int = 8 << 20
    """Bytes that may wait for the mirror, per worker; beyond it single shadows are dropped and counted."""
    drain_seconds: float = 30.0
    """Longest wait for exchanges under way after SIGTERM."""
    take_over: bool = False
    """Take the listening socket of whoever serves under this index, who then drains; else wait until nobody does."""
    tls_cert: str = ""
    """PEM file of the certificate, with those that vouch for it, that is shown where no other is for the name asked for;
    empty with `tls_dir` empty too: no TLS."""
    tls_key: str = ""
    """PEM file of its private key."""
    tls_dir: str = ""
    """Folder with further pairs, each for the names in its certificate; empty: none."""
    replica_ca: str = ""
    """PEM file of the authorities that vouch for replicas of deployments with `scheme: https`; empty: the system's."""
    replica_cert: str = ""
    """PEM file of the certificate that such replicas are shown; empty: none."""
    replica_key: str = ""
    """PEM file of its private key."""
    max_head_bytes: int = 65536
    """Request line plus headers."""
    max_header_fields: int = 100
    """Of one request: Apache's and Envoy's default."""
    http2_streams: int = 100
    """Requests at once on one connection of HTTP/2; more are refused, to be sent again."""
    max_body_bytes: int = 0
    """Of one request, where its endpoint says nothing; 0 = any: bodies pass through, they do not fill memory."""
    header_seconds: float = 30.0
    """From the first byte of a head to its last, and from the connection to its first request."""
    idle_seconds: float = 75.0
    """Between two requests of a connection: longer than the 60 s of the common load balancers, so that they close first."""
    send_seconds: float = 60.0
    """A caller that reads slower than the answer comes has to take `min_rate_bytes` for each second of so long a time."""
    body_seconds: float = 10.0
    """A body has to bring `min_rate_bytes` for each second of so long a time, as long as the answer has not begun."""
    min_rate_bytes: int = 500
    """Per second, both ways; slower than any modem, faster than those that only want to hold a place. 0 = any."""
    max_connections: int = 0
    """Of this worker; 0 = as many as the process's descriptors are good for."""
    max_connections_per_client: int = 0
    """Of this worker, from one address or one /64 of IPv6; 0 = any: a load balancer is one client."""
    memory_limit_bytes: int = 0
    """Of this worker; 0 = its share of the control group's limit, where there is one. New requests are refused at 95 % of it."""
    overload_lag_seconds: float = 2.0
    """New requests are refused when the event loop runs so late again and again; 0 = never. Ten times what a busy worker has."""
    max_pipelined: int = 64
    """Requests that may wait behind one another on a connection before it is not read any more."""
    zone: str = ""
    """Where this machine stands: replicas of the same zone are preferred. Empty = none is."""
    activation_seconds: float = 300.0
    """Longest time a request may wait for a replica when none is ready; also bounded by the client leaving."""
    max_waiting: int = 10_000
    """Requests that may wait for a first replica, per deployment and worker."""
    autoscaler: tuple[str, ...] = ()
    """Where demand is handed besides the log, `unix:/path`, `http://host:port` or `https://host:port`; none where the log
    is as direct."""
    credentials: Credentials | None = None
    """What autoscalers on other machines are shown and must show; None = nothing."""
    otlp: str = ""
    """Collector that gets spans, `http://host:port` or `https://host:port` (OTLP over HTTP); empty = there are none."""
    trace_share: float = 0.01
    """Of the requests whose caller says nothing about tracing, 0 to 1; whoever says is followed."""

    @property
    def scheme(self) -> str:
        """What callers speak."""
        return "https" if self.tls_cert or self.tls_dir else "http"


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """The mirror process."""

    data: DataLayout
    max_concurrent: int = 64
    """Shadows in flight, over all candidates."""
    max_waiting: int = 1024
    """Shadows waiting for a candidate."""
    memory_bytes: int = 256 << 20
    """Request and response bytes held; beyond it shadows are dropped with reason `memory`."""
    replica_ca: str = ""
    replica_cert: str = ""
    replica_key: str = ""
    """As the gateway's: how replicas that speak TLS are known, and what they are shown."""
    timeout_seconds: float = 300.0
    """A shadow's own deadline, independent of the live request's."""
    metrics: tuple[str, int] | None = None
    """(host, port) of its own numbers and its health; None: on its Unix socket alone."""
    autoscaler: tuple[str, ...] = ()
    """Where demand is handed besides the log, `unix:/path`, `http://host:port` or `https://host:port`; none where the log
    is as direct."""
    credentials: Credentials | None = None
    """What autoscalers on other machines are shown and must show; None = nothing."""


@dataclass(frozen=True, slots=True)
class AutoscalerSettings:
    """The autoscaler process."""

    data: DataLayout
    cache: Path
    """Built environments."""
    tick_seconds: float = 1.0
    """Longest time between two decisions; demand at zero and spec changes decide at once."""
    drain_acknowledge_seconds: float = 10.0
    """A gateway that has been silent this long no longer holds up a drain."""
    scoring_url: str = "http://127.0.0.1:8080"
    listen: tuple[str, int] | None = None
    """Host and port on which gateways of other machines hand their demand over; None = on this machine alone."""
    credentials: Credentials | None = None
    """What those gateways are shown and must show; None = nothing."""


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """Where OnlineEndpoint and OnlineDeployment objects are watched."""

    kubeconfig: str | None = None
    """None = `$KUBECONFIG`, else `~/.kube/config`, else the pod's own account."""
    context: str | None = None
    """One of the kubeconfig's contexts; None = its current one."""
    namespace: str | None = None
    """None = the context's, or the pod's own. Names of endpoints are one installation's, so it is one namespace."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control plane."""

    data: DataLayout
    host: str = "127.0.0.1"
    port: int = 8081
    gateway_url: str = "http://127.0.0.1:8080"
    """Base of scoring URIs."""
    login: Login | None = None
    """What is asked of callers; None = nothing, which is for the loopback alone."""
    autoscaler: tuple[str, ...] = ()
    """Who reads the logs of deployments: `unix:/path`, `http://host:port` or `https://host:port`; empty = the autoscaler of
    the same data folder."""
    credentials: Credentials | None = None
    """What autoscalers on other machines are shown and must show; None = nothing."""
    revisions_kept: int = 100
    """Per endpoint; older ones can no longer be rolled back to."""
    objects: ObjectSettings | None = None
    """Objects in Kubernetes that become revisions; None = there are none."""
    access_log: str | None = None
    """File that gets a line for every finished request; `-` is standard output, None = none."""
