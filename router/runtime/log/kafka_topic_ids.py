"""Which topic it is that a name stands for: a topic that was deleted and made anew has another id under the same name.

The Kafka client knows topics by their names alone: it reads on from its old place in whatever has that name now. So
whoever keeps a place keeps the topic's id with it and asks again, at once when the client had a reason to look up where
its topics are (`Vigil.doubtful`), and now and then without one. Brokers before 2.8, and some services that speak their
protocol, tell no ids: then there is nothing to compare.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from io import BytesIO
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError, UnknownTopicOrPartitionError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields
from aiokafka.structs import TopicPartition

_TAGS = ("tags", TaggedFields)
_NO_ID = "0" * 32


class _Uuid:
    """16 bytes ↔ 32 hex digits."""

    @classmethod
    def encode(cls, value: str) -> bytes:
        return bytes.fromhex(value)

    @classmethod
    def decode(cls, data: BytesIO) -> str:
        return data.read(16).hex()

    @classmethod
    def repr(cls, value: str) -> str:
        return value


class _MetadataResponse(Response):  # type: ignore[misc]  # aiokafka has no types for it
    API_KEY = 3
    API_VERSION = 11
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", CompactString()), ("port", Int32), ("rack", CompactString()), _TAGS
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]  # the same
    """Version 11: the first one that asks nothing about rights, and has ids since 10."""

    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 11
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", CompactString()), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _TopicIds(Request[_MetadataRequest]):  # type: ignore[misc]  # the same
    API_KEY = 3

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)

    def build(self, request_struct_class: type[_MetadataRequest]) -> _MetadataRequest:
        return request_struct_class([(_NO_ID, name, {}) for name in self._names], False, False, {})


async def topic_ids(client: AIOKafkaClient, names: Collection[str], broker: int | None = None) -> Mapping[str, str]:
    """Topic → its id, 32 hex digits, as `broker` (or any that answers) knows it; what is not there is left out.

    Topics by their names on Kafka. Raises `KafkaError` when nobody answers, `NoIds` when brokers tell no ids.
    """
    brokers = [one.nodeId for one in client.cluster.brokers()] if broker is None else [broker]
    failure: KafkaError = NodeNotReadyError("no broker is known")
    for one in brokers:
        try:
            # On a connection of its own: a broker answers in order, and a fetch may wait for half a second.
            answer = await client.send(one, _TopicIds(names), group=ConnectionGroup.COORDINATION)
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise NoIds from error
        except KafkaError as error:
            failure = error
            continue
        found = {topic["name"]: topic["topic_id"] for topic in answer.to_object()["topics"] if not topic["error_code"]}
        return {name: topic_id for name, topic_id in found.items() if topic_id != _NO_ID}
    raise failure


class NoIds(Exception):
    """The broker does not tell ids of topics."""


class Vigil:
    """Watches over the topics of one client, a consumer's: whether they are still the same ones."""

    def __init__(self, client: AIOKafkaClient, names: Collection[str], pause_seconds: float) -> None:
        """`names` as Kafka has them. `pause_seconds`: between two looks without a reason."""
        self._client = client
        self._names = frozenset(names)
        self._pause_seconds = pause_seconds
        self._doubtful = False
        self._looked = 0.0
        self.ids: Mapping[str, str] = {}
        """Topic → id as of `begin`; empty when the broker tells none."""
        client.cluster.add_listener(self._on_metadata)

    def _on_metadata(self, _: Any) -> None:
        """The client asked where its topics are: because it was refused, was cut off, or has not asked for long."""
        self._doubtful = True

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self._doubtful or asyncio.get_running_loop().time() - self._looked >= self._pause_seconds

    async def begin(self) -> None:
        """Learn the ids. Raises `KafkaError` when nobody answers, or a topic is not there."""
        self._looked, self._doubtful = asyncio.get_running_loop().time(), False
        try:
            self.ids = await topic_ids(self._client, self._names)
        except NoIds:
            self.ids = {}
            return
        if absent := self._names - self.ids.keys():
            raise UnknownTopicOrPartitionError(f"{', '.join(sorted(absent))} is not there")

    async def changed(self, partitions: Collection[TopicPartition] | None = None) -> frozenset[str]:
        """The topics that are not the ones of `begin` any more: gone, or made anew. Raises `KafkaError`.

        The brokers that lead `partitions` (None: all) are asked, because one may know later than another. Whatever was
        read from these before this call, and is of no topic among the result, is of the ones of `begin`.
        """
        # From when on it may have changed is when we asked, not when we heard: whoever stands still in between is told
        # what was.
        began, doubtful, self._doubtful = asyncio.get_running_loop().time(), self._doubtful, False
        leaders = self._leaders()
        asked = leaders if partitions is None else self._leaders(partitions)
        try:
            answers = [await topic_ids(self._client, self.ids, one) for one in asked or (None,)] if self.ids else []
        except BaseException:
            self._doubtful = True
            raise
        others = frozenset(name for name, known in self.ids.items() for found in answers if found.get(name) != known)
        if asked == leaders:
            self._looked = began
        self._doubtful |= bool(others) or (
            doubtful and asked != leaders
        )  # until somebody begins anew, or asks everybody
        return others

    def _leaders(self, partitions: Collection[TopicPartition] | None = None) -> set[int]:
        """Brokers that lead a partition; one that leads none has nothing to read."""
        cluster = self._client.cluster
        if partitions is None:
            numbers = ((name, number) for name in self.ids for number in cluster.partitions_for_topic(name) or ())
            partitions = [TopicPartition(*one) for one in numbers]
        found = map(cluster.leader_for_partition, partitions)
        return {one for one in found if one is not None and one >= 0}
