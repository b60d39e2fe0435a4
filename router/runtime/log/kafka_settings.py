"""What the log's topics must be like on Kafka, with the reasons, and what is wrong with those that are not.

Pure. Too much is never a fault: a topic may keep more, accept more and be copied more often than it must.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from router.contract.errors import TidegateError
from router.contract.events import COMPACTED, DECISIONS, DEMAND, NOTICES, REQUESTS, SHADOWS
from router.runtime.log.kafka_url import KafkaUrl

DAY_MS: Final = 24 * 3600 * 1000
RETENTION_DAYS: Final = MappingProxyType(
    {
        DEMAND: 1,  # only a restarting autoscaler reads back, and its snapshots are seconds old
        REQUESTS: 7,  # a week holds every daily and weekly rhythm that a rollout or a forecast is judged by
        SHADOWS: 7,  # as long as the requests that they are compared with
        DECISIONS: 30,  # few and small; explains last month's replicas
        NOTICES: 30,  # few and small; says where the other topics have less than everything
    }
)
"""Of stream topics, at creation."""
DEFAULT_RETENTION_DAYS: Final = 7
"""For a stream without an entry."""
LEAST_RETENTION_MS: Final = DAY_MS
"""What an existing stream must keep: its readers may be away, or a machine's spool may ship late, for a night and a
morning."""
MAX_MESSAGE_BYTES: Final = 2 << 20
"""The largest batch of records. Usual ones stay below Kafka's own limit of 1 MiB; but one message cannot be divided,
and an endpoint with very many replicas or a large snapshot would be refused for ever."""
SEGMENT_BYTES: Final = 64 << 20
"""Of compacted topics: the newest segment is never compacted, and every reader begins with all of it."""
SAFE_REPLICATION: Final = 3
"""From here on a write needs two copies, so that the loss of one broker loses nothing and stops nothing."""


class Found(NamedTuple):
    """A topic as it is."""

    partitions: int
    replication: int
    """Copies of the partition that has the fewest."""
    settings: Mapping[str, str | None]
    """Those that the broker tells."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One setting of one topic that the log cannot live with."""

    topic: str
    """As the broker has it, with the prefix."""
    setting: str
    found: str
    needed: str
    fix: str
    """What to run or to change, ready to be copied."""

    def __str__(self) -> str:
        """`topic x: setting is found, but must be needed; to fix it, …`."""
        return f"topic {self.topic}: {self.setting} is {self.found}, but must be {self.needed}; to fix it, {self.fix}"


class WrongTopic(TidegateError):
    """Topics exist with settings that would lose or misplace messages. Carries every fault found."""

    code = "WrongTopicSettings"
    status = 409

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


def settings_of(topic: str, replication: int) -> dict[str, str]:
    """The settings with which `topic` (named without the prefix) is created."""
    settings = {
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        # What "older than" means is the writer's clock, also for what was shipped late.
        "message.timestamp.type": "CreateTime",
        # Always set: a cluster's default of 2 would make a topic with one copy unwritable.
        "min.insync.replicas": "2" if replication >= SAFE_REPLICATION else "1",
    }
    if topic in COMPACTED:
        return settings | {"cleanup.policy": "compact", "segment.bytes": str(SEGMENT_BYTES)}
    retention = RETENTION_DAYS.get(topic, DEFAULT_RETENTION_DAYS) * DAY_MS
    return settings | {"cleanup.policy": "delete", "retention.ms": str(retention)}


def faults_of(url: KafkaUrl, topic: str, found: Found) -> list[Fault]:
    """What is wrong with `topic` (named without the prefix). A setting that the broker does not tell is no fault."""
    name = url.topic(topic)
    faults = [] if found.partitions == url.partitions else [_partition_fault(url, name, found.partitions)]

    def fault(setting: str, needed: str, value: str) -> None:
        change = f"--alter --entity-type topics --entity-name {name} --add-config {setting}={value}"
        fix = f"run kafka-configs.sh --bootstrap-server {url.servers[0]} {change}"
        faults.append(Fault(name, setting, str(found.settings[setting]), needed, fix))

    policy = found.settings.get("cleanup.policy")
    wanted = "compact" if topic in COMPACTED else "delete"
    if policy is not None and policy != wanted:
        fault("cleanup.policy", f"{wanted} alone", wanted)
    largest = _number(found, "max.message.bytes")
    if largest is not None and largest < MAX_MESSAGE_BYTES:
        fault("max.message.bytes", f"at least {MAX_MESSAGE_BYTES}", str(MAX_MESSAGE_BYTES))
    retention = _number(found, "retention.ms")
    if topic not in COMPACTED and retention is not None and 0 <= retention < LEAST_RETENTION_MS:
        created = settings_of(topic, url.replication)["retention.ms"]
        fault("retention.ms", f"at least {LEAST_RETENTION_MS} (a day), or -1", created)
    needed_copies = _number(found, "min.insync.replicas")
    if needed_copies is not None and needed_copies > found.replication:
        most = max(1, found.replication - 1)
        fault("min.insync.replicas", f"at most {found.replication}, the copies there are", str(most))
    return faults


def concerns_of(url: KafkaUrl, topic: str, found: Found) -> list[str]:
    """What is weaker than asked for and yet works, in words."""
    name = url.topic(topic)
    concerns = []
    if found.replication < url.replication:
        concerns.append(
            f"topic {name} has {found.replication} copies of a partition, not the {url.replication} that the log's URL asks "
            "for; move it with kafka-reassign-partitions.sh"
        )
    if found.replication >= SAFE_REPLICATION and _number(found, "min.insync.replicas") == 1:
        concerns.append(
            f"topic {name} accepts writes with one copy (min.insync.replicas=1): the loss of one broker can lose messages"
        )
    return concerns


def _number(found: Found, setting: str) -> int | None:
    text = found.settings.get(setting)
    return None if text is None else int(text)


def _partition_fault(url: KafkaUrl, name: str, partitions: int) -> Fault:
    """Partitions are never added: the endpoints' messages would go on in another one, out of order."""
    fix = (
        f"write partitions={partitions} in the log's URL everywhere; or, if what the topic holds may go, run "
        f"kafka-topics.sh --bootstrap-server {url.servers[0]} --delete --topic {name} and let it be created anew"
    )
    return Fault(name, "the number of partitions", str(partitions), str(url.partitions), fix)
