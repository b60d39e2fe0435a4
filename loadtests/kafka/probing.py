"""What a broker shows to somebody who asks: who is there, who leads a partition."""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from loadtests.waiting import HOST, accepts, free_port, until

__all__ = ["HOST", "accepts", "free_port", "leader", "present", "until"]

NOBODY = -1
"""Kafka's word for a partition without a leader."""
_REQUEST_MS = 2000


async def present(port: int) -> set[int]:
    """Ids of the nodes that count as present, as the broker on `port` sees it; empty when it does not answer."""
    metadata = await _metadata(port, [])
    return set() if metadata is None else {node for node, *_ in metadata.brokers}


async def leader(port: int, topic: str, partition: int) -> int | None:
    """Id of the node that leads a partition, as the broker on `port` sees it; None: nobody, no such topic, no answer."""
    metadata = await _metadata(port, [topic])
    if metadata is None:
        return None
    for _, name, _, partitions in metadata.topics:
        for _, number, node, *_ in partitions:
            if (name, number) == (topic, partition):
                return None if node == NOBODY else int(node)
    return None


async def _metadata(port: int, topics: list[str]) -> Any:
    connection = AIOKafkaConnection(HOST, port, request_timeout_ms=_REQUEST_MS)
    try:
        await connection.connect()
    except (OSError, KafkaError, TimeoutError):
        connection.close()
        return None
    try:
        return await connection.send(MetadataRequest(topics, allow_auto_topic_creation=False))
    except (KafkaError, TimeoutError):
        return None
    finally:
        await connection.close()
