"""A model server that speaks gRPC, and a caller: gRPC's own library at both ends, with plain bytes as messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tests.support.gateway_rig import KEY, PATIENCE

SERVICE = "tidegate.test.Model"


@dataclass
class GrpcModel:
    """One listening replica. What a call asks for stands in its first message."""

    port: int = 0
    credentials: Any = None
    """Of a server under TLS; None: in clear text."""
    metadata: list[dict[str, Any]] = field(default_factory=list)
    """Of each call."""
    peers: set[str] = field(default_factory=set)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    server: Any = None

    async def start(self) -> None:
        """Listen."""
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Gather": grpc.stream_unary_rpc_method_handler(self._gather),
            "Spread": grpc.unary_stream_rpc_method_handler(self._spread),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, kinds)])
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, self.credentials)
        await self.server.start()

    def _note(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        self.peers.add(context.peer())

    async def _unary(self, request: bytes, context: Any) -> bytes:
        self._note(context)
        try:
            if request == b"wait":
                self.waiting += 1
                await self.go.wait()
            elif request == b"long":
                await asyncio.Event().wait()
            elif request == b"raise":
                raise RuntimeError("the model broke")
            elif request == b"refuse":
                context.set_trailing_metadata((("x-why", "because"),))
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a picture: 100 %")
            elif request == b"internal":
                await context.abort(grpc.StatusCode.INTERNAL, "out of memory")
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        context.set_trailing_metadata((("x-trailer", "1"),))
        return request

    async def _gather(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self._note(context)
        return b"".join([one async for one in requests])

    async def _spread(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self._note(context)
        try:
            for number in range(int(request)):
                yield b"%d" % number
            if request == b"2":
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self._note(context)
        async for one in requests:
            yield one[::-1]


@contextlib.asynccontextmanager
async def grpc_model() -> AsyncIterator[GrpcModel]:
    """A replica for as long as the block runs."""
    model = GrpcModel()
    await model.start()
    try:
        yield model
    finally:
        model.go.set()
        await model.server.stop(None)


class GrpcCaller:
    """A channel to the gateway."""

    def __init__(self, channel: Any, key: str | None) -> None:
        self.channel = channel
        self.metadata = () if key is None else (("authorization", f"Bearer {key}"),)

    def unary(self, message: bytes, *, timeout: float = PATIENCE, extra: Sequence[tuple[str, str | bytes]] = ()) -> Any:
        """A call; await it for the answer."""
        method = self.channel.unary_unary(f"/{SERVICE}/Unary")
        return method(message, timeout=timeout, metadata=(*self.metadata, *extra))

    def spread(self, count: int) -> Any:
        """A stream of answers."""
        method = self.channel.unary_stream(f"/{SERVICE}/Spread")
        return method(b"%d" % count, timeout=PATIENCE, metadata=self.metadata)

    def gather(self, messages: AsyncIterator[bytes]) -> Any:
        """A stream of questions; await it for the answer."""
        method = self.channel.stream_unary(f"/{SERVICE}/Gather")
        return method(messages, timeout=PATIENCE, metadata=self.metadata)

    def talk(self) -> Any:
        """A stream both ways."""
        return self.channel.stream_stream(f"/{SERVICE}/Talk")(timeout=PATIENCE, metadata=self.metadata)


@contextlib.asynccontextmanager
async def grpc_caller(
    port: int, key: str | None = KEY, host: str = "demo.localhost", root: bytes = b""
) -> AsyncIterator[GrpcCaller]:
    """A channel for as long as the block runs; it repeats nothing by itself. `root`: under TLS, trusting this certificate."""
    options = [("grpc.default_authority", host), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    address = f"127.0.0.1:{port}"
    if root:
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root), options=options)
    else:
        channel = grpc.aio.insecure_channel(address, options=options)
    async with channel:
        yield GrpcCaller(channel, key)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """How a call failed."""
    try:
        got = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"it did not fail: {got!r}")
