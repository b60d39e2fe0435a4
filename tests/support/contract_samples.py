"""One event of every topic and one frame of every kind, with every field set to something other than its default.

`python -m tests.support.contract_samples` writes the golden files that are missing; it never changes one that is
there, because old bytes stay readable for ever. A new schema version gets new files and keeps the old ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.contract import codec, events, tee

FOLDER = Path(__file__).parents[1] / "golden" / "events"
NOW = 1_760_000_000_000_000_000
HISTOGRAM = tuple(range(events.BUCKETS))

REVISION = events.EndpointRevision(
    endpoint="my-endpoint",
    revision=7,
    at_ns=NOW,
    document={"name": "my-endpoint", "traffic": {"blue": 90, "green": 10}, "tags": {"größe": "1"}},
    deployments={"blue": {"name": "Blue", "code_configuration": {"code": "asset:" + "0" * 64}, "instance_count": 2}},
    key_hashes=("ab" * 32, "cd" * 32),
    deleted=True,
    restarts={"blue": 3},
)
REPLICAS = events.EndpointReplicas(
    endpoint="my-endpoint",
    version=12,
    generation=3,
    at_ns=NOW,
    deployments={
        "blue": events.DeploymentReplicas(
            desired=2,
            revision=7,
            phase=events.Phase.FAILED,
            reason="UserScriptInitFailed",
            message="init() raised",
            log_tail="Traceback\nValueError: no",
            progress=0.5,
            template="0123456789abcdef",
            replicas=(
                events.Replica(
                    "blue-1", "127.0.0.1", 31001, events.ReplicaState.READY, "0123456789abcdef", "local", 1, NOW
                ),
                events.Replica("blue-2", "::1", 31002, events.ReplicaState.DRAINING, "0123456789abcdef"),
            ),
        ),
        "green": events.DeploymentReplicas(desired=0, revision=6),
    },
)
DEMAND = events.DemandReport(
    endpoint="my-endpoint",
    start_ns=NOW,
    end_ns=NOW + 100_000_000,
    revision=7,
    replicas_version=12,
    shadow=True,
    rows=(
        events.DemandRow("blue", False, 10, 9, 1, 2, 3, 4, 0.25, 1.5, 1000, HISTOGRAM, HISTOGRAM[::-1]),
        events.DemandRow("green", True, arrivals=1, wait=HISTOGRAM),
        events.DemandRow("grün", latency=HISTOGRAM),
    ),
    draining=(("blue-2", 1), ("blue-3", 0)),
)
REQUEST_NAMES = ["", "blue", "blue-1"]
REQUESTS = [
    events.RequestRecord(
        41, NOW, "blue", 424, 500, events.Outcome.MODEL_ERROR, events.Flag.MIRRORED | events.Flag.WAITED,
        1024, 2048, 15, 1200, 3400, "blue-1",
    ),
    events.RequestRecord(
        42, NOW + 1, "", 401, 0, events.Outcome.REFUSED, events.Flag.NONE, 0, 120, 0, 0, 90, "",
    ),
]  # fmt: skip
PROFILES = (
    events.CallProfile("POST", "/score/größe", "HTTP/1.1", "Key", "tides/1.0", "nr-7"),
    events.CallProfile("GET", "/", "HTTP/1.0"),
)
DETAILED_NAMES = ["", "blue", "blue-1", *map(codec.encode_profile, PROFILES), "QueueTimeout", "Unauthorized"]
DETAILED = [
    dataclasses.replace(REQUESTS[0], profile=PROFILES[0]),
    dataclasses.replace(REQUESTS[0], sequence=42, request_us=1_100, profile=PROFILES[0]),
    dataclasses.replace(REQUESTS[1], sequence=43, refusal="Unauthorized", profile=PROFILES[1]),
    dataclasses.replace(REQUESTS[1], sequence=44, request_us=events.NEVER_CAME, refusal="QueueTimeout"),
]
SHADOW = events.ShadowComparison(
    endpoint="my-endpoint",
    request_id="0b5c-41",
    at_ns=NOW,
    live_deployment="blue",
    candidate="green",
    request_bytes=1024,
    live=events.Side(200, 12.5, 3.25, 2048, "late"),
    shadow=events.Side(0, 0.0, 0.0, 0, "connection refused"),
    equal=False,
    difference="status 200, shadow none",
    dropped="budget",
    count=5,
)
DECISION = events.Decision(
    endpoint="my-endpoint",
    deployment="blue",
    at_ns=NOW,
    previous=2,
    desired=5,
    reason="busy above target",
    generation=3,
    inputs={"in_flight": 7.0, "target": 0.7},
)
COUNTS = [
    events.RequestCounts("", NOW // 10**9, 3, 0, 3, 0, 360, 270),
    events.RequestCounts("blue", NOW // 10**9, 1000, 10, 5, 1_024_000, 2_048_000, 3_400_000),
    events.RequestCounts("blue", NOW // 10**9 + 1, 2**40, 2**39, 2**38, 2**63, 2**62, 2**61),
]
SNAPSHOT = events.EndpointSnapshot(
    endpoint="my-endpoint",
    at_ns=NOW,
    generation=3,
    partition=5,
    offset=1_234_567,
    state={"rows": [{"deployment": "blue", "rate": 12.5, "größe": None}], "writers": {"ab" * 16: 41}},
)
FOLDED = events.Folded(
    endpoint="my-endpoint",
    at_ns=NOW,
    topic="requests",
    writer="ab" * 16,
    messages=512,
    records=262_144,
    from_ns=NOW - 60_000_000_000,
    until_ns=NOW - 1_000_000_000,
    bytes_before=15_728_640,
    bytes_after=3_672,
)
DAMAGED = events.Damaged(
    at_ns=NOW, fault="file is not a database", moved_to="log.db.damaged-1", messages=120, waiting=20, lost=-1
)
OPEN = tee.Open("my-endpoint", "blue", ("green", "violet"), "0b5c-41", NOW)
HEAD = b"POST /score HTTP/1.1\r\nhost: my-endpoint.localhost\r\n\r\n"
FRAMES = (
    tee.open_frame(1, OPEN, HEAD),
    tee.frame(tee.Kind.BODY, 1, b'{"data": [1, 2]}'),
    tee.frame(tee.Kind.REQUEST_END, 1),
    tee.frame(tee.Kind.RESPONSE, 1, tee.RESPONSE_FIELDS.pack(200, 1500) + b"HTTP/1.1 200 OK\r\n\r\n"),
    tee.frame(tee.Kind.RESPONSE_BODY, 1, b"[3]"),
    tee.frame(tee.Kind.END, 1, tee.END_FIELDS.pack(200, 2500, 3)),
    tee.frame(tee.Kind.DROP, 2**64 - 1, b"budget"),
    tee.frame(tee.Kind.DONE, 1),
    tee.frame(tee.Kind.TRAILERS, 1, b"grpc-status: 0\r\n"),
)


def pack_requests(records: list[events.RequestRecord], names: list[str]) -> bytes:
    """One `requests` message, packed as a gateway worker packs it."""
    packed, details = bytearray(), bytearray()
    for at, one in enumerate(records):
        profile = codec.encode_profile(one.profile) if one.profile != events.CallProfile() else ""
        packed += codec.REQUEST_RECORD.pack(
            one.sequence, one.start_ns, one.status, one.model_status, one.outcome, one.flags, names.index(profile),
            one.request_bytes, one.response_bytes, one.wait_us, one.first_byte_us, one.total_us,
            names.index(one.deployment), names.index(one.replica),
        )  # fmt: skip
        if one.request_us or one.refusal:
            late = one.request_us if one.request_us != events.NEVER_CAME else 2**32 - 1
            details += codec.DETAIL.pack(at, late, names.index(one.refusal), 0)
    return codec.encode_requests(names, packed, details)


SAMPLES: dict[str, tuple[Any, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    events.SPECS: (REVISION, codec.encode_specs, codec.decode_specs),
    events.REPLICAS: (REPLICAS, codec.encode_replicas, codec.decode_replicas),
    events.DEMAND: (DEMAND, codec.encode_demand, codec.decode_demand),
    events.REQUESTS: (REQUESTS, lambda records: pack_requests(records, REQUEST_NAMES), codec.decode_requests),
    events.SHADOWS: (SHADOW, codec.encode_shadow, codec.decode_shadow),
    events.DECISIONS: (DECISION, codec.encode_decision, codec.decode_decision),
    events.SNAPSHOTS: (SNAPSHOT, codec.encode_snapshot, codec.decode_snapshot),
    events.NOTICES: (FOLDED, codec.encode_folded, codec.decode_folded),
    "damaged": (DAMAGED, codec.encode_damaged, codec.decode_notice),
    "request_details": (DETAILED, lambda records: pack_requests(records, DETAILED_NAMES), codec.decode_requests),
    "request_counts": (COUNTS, codec.encode_counts, codec.decode_counts),
    "tee": (
        FRAMES,
        b"".join,
        lambda data: tuple(tee.frame(kind, at, payload) for kind, at, payload in tee.Decoder().feed(data)),
    ),
}
"""Topic or other format → (event, encode, decode)."""
FORMATS = frozenset({"damaged", "request_counts", "request_details", "tee"})
"""The names in `SAMPLES` that are no topics."""
EXPECTED: dict[tuple[str, int], Any] = {(topic, 1): event for topic, (event, _, _) in SAMPLES.items()}
"""(topic, schema version) → what that version's golden file holds. Old versions keep their own values here."""
READABLE = (
    events.SPECS,
    events.REPLICAS,
    events.SHADOWS,
    events.DECISIONS,
    events.SNAPSHOTS,
    events.NOTICES,
    "damaged",
)
FUTURE = FOLDER.with_name("future")
"""Messages of a schema version after this one: what a newer release may write while this one still reads."""


def golden_path(topic: str, version: int = codec.SCHEMA) -> Path:
    """JSON as it is, packed bytes as hexadecimal text in lines of 64 digits."""
    return FOLDER / f"{topic}.v{version}.{'json' if topic in READABLE else 'hex'}"


def golden_bytes(path: Path) -> bytes:
    """The message in a golden file."""
    return path.read_bytes() if path.suffix == ".json" else bytes.fromhex(path.read_text())


def write_missing(path: Path, data: bytes) -> None:
    """Write one golden file, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    digits = data.hex()
    lines = "\n".join(digits[at : at + 64] for at in range(0, len(digits), 64))
    path.write_bytes(data if path.suffix == ".json" else lines.encode() + b"\n")


if __name__ == "__main__":
    for topic, (event, encode, _) in SAMPLES.items():
        write_missing(golden_path(topic), encode(event))
