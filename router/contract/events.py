"""Everything that crosses a process, as past facts: one frozen value per topic.

Times are Unix nanoseconds (`*_ns`); names of deployments are lower case, because Azure compares them so.
Bytes ↔ values is `router.contract.codec`; transport is `router.runtime.log`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SPECS = "specs"
REPLICAS = "replicas"
DEMAND = "demand"
REQUESTS = "requests"
SHADOWS = "shadows"
DECISIONS = "decisions"
SNAPSHOTS = "snapshots"
NOTICES = "notices"

COMPACTED = frozenset({SPECS, REPLICAS, SNAPSHOTS})
"""Topics of which only the newest message per key matters."""
TOPICS = (SPECS, REPLICAS, DEMAND, REQUESTS, SHADOWS, DECISIONS, SNAPSHOTS, NOTICES)


@dataclass(frozen=True, slots=True)
class EndpointRevision:
    """`specs`: one endpoint, whole, as of one revision. Split, mirror, limits and deployments change together."""

    endpoint: str
    revision: int
    """Counts up by one per accepted change, from 1."""
    at_ns: int
    document: Mapping[str, Any] = field(default_factory=dict)
    """The endpoint's own document (Azure's YAML keys)."""
    deployments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Lower-case name → the deployment's document, local files replaced by `asset:<sha256>[/path]`."""
    key_hashes: tuple[str, ...] = ()
    """SHA-256 (hex) of the keys that open the endpoint; the keys themselves never travel."""
    deleted: bool = False
    restarts: Mapping[str, int] = field(default_factory=dict)
    """Deployment → how often its replicas were asked to be replaced although their template is the same."""
    cohorts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Where callers stick to a deployment: deployment → the hundredths of the callers (0 to 99) that are its own, in the
    order in which it got them. Empty otherwise."""


class ReplicaState(enum.StrEnum):
    """Where a replica is in its life, as routing sees it."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    """Was ready, fails its readiness probe now."""
    DRAINING = "draining"
    """Named as a victim: no new requests; deleted when every gateway reports nothing in flight."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of one deployment."""

    id: str
    host: str
    port: int
    state: ReplicaState
    template: str
    """`specs.template_hash` of what it runs."""
    instance_type: str = ""
    restarts: int = 0
    ready_ns: int = 0
    """When it last became ready; 0 = never."""
    zone: str = ""
    """Where its machine stands, as the cluster calls it; empty where nobody says."""


class Phase(enum.StrEnum):
    """What the backend is doing for a deployment."""

    PENDING = "pending"
    BUILDING = "building"
    """Its environment is being built."""
    STARTING = "starting"
    READY = "ready"
    """Every desired replica of the newest template is ready (none, when the desired count is zero)."""
    SCALING = "scaling"
    FAILED = "failed"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class DeploymentReplicas:
    """The replica set of one deployment and how it is doing."""

    desired: int
    revision: int
    """The endpoint revision this answers to."""
    phase: Phase = Phase.PENDING
    reason: str = ""
    """A word of Azure's error vocabulary (`UserScriptInitFailed`, `ImageBuildFailure`, …) when failed."""
    message: str = ""
    log_tail: str = ""
    """The last lines of the failing replica's or build's output."""
    progress: float = 1.0
    """0–1 of the environment build."""
    template: str = ""
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointReplicas:
    """`replicas`: every replica of one endpoint."""

    endpoint: str
    version: int
    """Counts up with each message of this endpoint, over restarts too; gateways report the newest they applied."""
    generation: int
    """Ownership generation of the autoscaler that wrote it."""
    at_ns: int
    deployments: Mapping[str, DeploymentReplicas] = field(default_factory=dict)


BUCKETS = 64
BUCKET_RATIO = 1.25
BUCKET_FLOOR_SECONDS = 0.0005
_LOG_RATIO = math.log(BUCKET_RATIO)


def bucket_of(seconds: float) -> int:
    """Index of the latency bucket: bucket i holds (0.5 ms × 1.25^(i-1), 0.5 ms × 1.25^i]; the last holds the rest."""
    if seconds <= BUCKET_FLOOR_SECONDS:
        return 0
    index = math.ceil(math.log(seconds / BUCKET_FLOOR_SECONDS) / _LOG_RATIO)
    return index if index < BUCKETS else BUCKETS - 1


def bucket_seconds(index: int) -> float:
    """Upper edge of bucket `index`, in seconds."""
    return BUCKET_FLOOR_SECONDS * BUCKET_RATIO**index


def quantile_seconds(counts: tuple[int, ...] | list[int], q: float) -> float:
    """Upper edge of the bucket holding the q-quantile (0–1) of a histogram; NaN when it is empty."""
    total = sum(counts)
    if total == 0:
        return math.nan
    rank = max(1, math.ceil(q * total))
    for index, count in enumerate(counts):
        rank -= count
        if rank <= 0:
            return bucket_seconds(index)
    return bucket_seconds(BUCKETS - 1)


@dataclass(frozen=True, slots=True)
class DemandRow:
    """What one deployment saw during one window of one reporter. Counts are of the window, gauges of its end."""

    deployment: str
    shadow: bool = False
    """Mirror traffic: never counted as live demand."""
    arrivals: int = 0
    completions: int = 0
    errors: int = 0
    """Completions the model or its replica failed."""
    rejected: int = 0
    """Refused or given up by the gateway: queue full, waited too long, no replica."""
    in_flight: int = 0
    queued: int = 0
    oldest_wait_seconds: float = 0.0
    """Age of the oldest request still waiting."""
    busy_seconds: float = 0.0
    """Sum over replicas of request-seconds in service during the window."""
    tokens: int = 0
    latency: tuple[int, ...] = ()
    """Histogram over `bucket_of`, empty or 64 counts: arrival → last byte."""
    wait: tuple[int, ...] = ()
    """The same for the time in the queue."""


@dataclass(frozen=True, slots=True)
class DemandReport:
    """`demand`: one reporter's window of one endpoint. The reporter is the message's writer."""

    endpoint: str
    start_ns: int
    end_ns: int
    revision: int
    """Newest endpoint revision the reporter routes by."""
    replicas_version: int
    """Newest `EndpointReplicas.version` it routes by."""
    shadow: bool = False
    """True when the reporter is a mirror; a mirror never holds up a drain for long."""
    rows: tuple[DemandRow, ...] = ()
    draining: tuple[tuple[str, int], ...] = ()
    """(replica id, requests in flight) for every draining replica this reporter knows of."""


class Outcome(enum.IntEnum):
    """How a request ended, as one byte of its record."""

    OK = 0
    MODEL_ERROR = 1
    TIMEOUT = 2
    QUEUE_FULL = 3
    QUEUE_TIMEOUT = 4
    NO_REPLICA = 5
    UPSTREAM_FAILED = 6
    CLIENT_ABORTED = 7
    REFUSED = 8
    """Bad request, unauthorised, no route."""


class Flag(enum.IntFlag):
    """Facts about a request, one bit each in its record."""

    NONE = 0
    MIRRORED = 1
    NAMED_DEPLOYMENT = 2
    """The caller chose the deployment by header."""
    WAITED = 4
    FROM_ZERO = 8
    STREAMED = 16
    RETRIED = 32
    HTTP2 = 64
    """The caller spoke HTTP/2; the profile has the head as it reads in HTTP/1.1."""
    WEBSOCKET = 128
    """The bytes are those of both directions behind the handshake, `first_byte_us` is the time to it."""


NEVER_CAME = -1
"""In place of a time: that byte never came."""


@dataclass(frozen=True, slots=True)
class CallProfile:
    """What many requests have in common: who asked, for what, and how. Empty = not known."""

    method: str = ""
    path: str = ""
    """As the replica gets it, without its query, which may hold secrets."""
    protocol: str = ""
    """`HTTP/1.1`."""
    auth_type: str = ""
    """`Key`; empty where nobody was let in."""
    user_agent: str = ""
    """At most 70 characters of it."""
    client_request_id: str = ""
    """The caller's own, from `x-ms-client-request-id`."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """`requests`: one finished exchange."""

    sequence: int
    """Together with the writer it makes the request id."""
    start_ns: int
    deployment: str
    """Empty when the request was refused before a deployment was chosen."""
    status: int
    """What the caller got; 0 when it left before."""
    model_status: int
    """What the replica answered; 0 when none did."""
    outcome: Outcome
    flags: Flag
    request_bytes: int
    response_bytes: int
    wait_us: int
    """Arrival → forwarded to a replica."""
    first_byte_us: int
    """Arrival → first response byte."""
    total_us: int
    """Arrival → last response byte."""
    replica: str = ""
    request_us: int = 0
    """Arrival → last request byte; 0 = it came together with the head, `NEVER_CAME` = it did not come."""
    refusal: str = ""
    """The code that the gateway answered with in its own name; empty when the answer was a replica's."""
    profile: CallProfile = CallProfile()


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """`requests`, folded: what finished on one deployment within one second, when single records took too much room."""

    deployment: str
    """Empty for requests that were refused before a deployment was chosen."""
    second: int
    """Unix second in which the requests started."""
    requests: int
    model_errors: int
    """Of them, those with `Outcome.MODEL_ERROR`."""
    failures: int
    """Of them, those with any other outcome but `Outcome.OK`."""
    request_bytes: int
    response_bytes: int
    total_us_sum: int
    """Sum over the requests of arrival → last response byte."""


@dataclass(frozen=True, slots=True)
class Side:
    """One half of a mirrored exchange."""

    status: int
    """0 when no answer came."""
    latency_ms: float
    first_byte_ms: float
    bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """`shadows`: the one end of one shadow, compared or dropped."""

    endpoint: str
    request_id: str
    at_ns: int
    live_deployment: str
    candidate: str
    request_bytes: int
    live: Side | None = None
    shadow: Side | None = None
    equal: bool | None = None
    """None when there was nothing to compare."""
    difference: str = ""
    """Where they first differ, in words."""
    dropped: str = ""
    """`budget`, `no_replica`, `queue_full`, `timeout`, `too_large`, `live_failed`, `shutdown`, …; empty = compared."""
    count: int = 1
    """More than one only for drops that the gateway counted in bulk."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`decisions`: one change of a desired count, with everything it was decided from."""

    endpoint: str
    deployment: str
    at_ns: int
    previous: int
    desired: int
    reason: str
    generation: int
    inputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """`snapshots`: what the autoscaler knew of one endpoint, and where in the log it goes on from there."""

    endpoint: str
    at_ns: int
    generation: int
    """Ownership generation of the autoscaler that wrote it."""
    partition: int
    """Partition of `demand` that holds the endpoint."""
    offset: int
    """Next offset to read there: everything before it is in `state`."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON, keys are strings; its shape belongs to the autoscaler."""
    incarnation: str = ""
    """Which topic of that name the offset is in: one that was made anew is another. Empty where nobody can tell."""


@dataclass(frozen=True, slots=True)
class Folded:
    """`notices`: a full spool merged messages of one writer and endpoint into one. The counts are kept, the rest is gone."""

    endpoint: str
    at_ns: int
    topic: str
    """`requests` or `demand`."""
    writer: str
    messages: int
    """How many became one."""
    records: int
    """Request records among them that are now only counted; 0 for `demand`."""
    from_ns: int
    """When the first of the messages was appended."""
    until_ns: int
    """When the last one was."""
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Damaged:
    """`notices`: a machine's spool could not be read any more and was made anew from what could."""

    at_ns: int
    fault: str
    """What the file's reader said."""
    moved_to: str
    """Where the damaged file lies now."""
    messages: int
    """That could be read."""
    waiting: int
    """Of them, those that waited to be shipped."""
    lost: int
    """That waited and could not be read; -1 when not even their number is known."""
