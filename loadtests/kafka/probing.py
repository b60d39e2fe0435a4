"""What a broker shows to somebody who asks: whether a port accepts, who is there, who leads a partition."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

HOST = "127.0.0.1"
NOBODY = -1
"""Kafka's word for a partition without a leader."""
_REQUEST_MS = 2000
_POLL_SECONDS = 0.02


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until the answer is yes; the caller sets the deadline."""
    while not await ask():  # noqa: ASYNC110 -- nothing tells when another process gets that far
        await asyncio.sleep(_POLL_SECONDS)


def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives to outgoing connections.

    A client that keeps trying a port of that range while its broker is down ends up connected to itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(lowest, 20_000))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


async def accepts(port: int) -> bool:
    """Whether somebody takes connections on this port."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True
    return False


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
