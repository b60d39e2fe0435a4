"""The soak's model that speaks HTTP/2 and nothing else, as servers of gRPC do, by h2, which holds every frame against the protocol.

A call of gRPC gets its messages back one by one, as they come; any other request JSON with the hash of its body. Each answer says
which request it answers.
"""

import argparse
import asyncio
import hashlib
import json
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions

NAME = os.environ.get("MODEL_NAME", "?")
PID = os.getpid()
REMEMBERED = 50_000
seen: OrderedDict[str, int] = OrderedDict()


@dataclass
class Stream:
    """One request, and what of its answer waits for room."""

    fields: dict[str, str]
    grpc: bool
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    waiting: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    whole: bool = False
    """Whether the answer is: nothing comes behind what waits."""


class Connection(asyncio.Protocol):
    """One connection of a gateway, or of a probe."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        self._streams: dict[int, Stream] = {}
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Our settings go first."""
        self._transport = cast("asyncio.Transport", transport)
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Frames. What breaks the protocol ends the connection, as h2 tells the other end."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            self._take(event)
        self._flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event.stream_id, {str(name): str(value) for name, value in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.digest.update(event.data)
                if stream.grpc:
                    stream.waiting += event.data
        elif isinstance(event, h2.events.StreamEnded):
            if (stream := self._streams.get(event.stream_id)) is not None:
                wait = int(stream.fields.get("x-soak-wait-ms", 0)) / 1000
                asyncio.get_running_loop().call_later(wait, self._ended, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(event.stream_id, None)
        for number in list(self._streams):
            self._send(number)

    def _begin(self, number: int, fields: dict[str, str]) -> None:
        asked = fields.get("x-soak-id", "")
        seen[asked] = seen.get(asked, 0) + 1
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)
        grpc = fields.get("content-type", "") == "application/grpc"
        self._streams[number] = Stream(fields, grpc)
        if grpc:
            self._head(number, "application/grpc")

    def _head(self, number: int, kind: str, *more: tuple[str, str]) -> None:
        asked = self._streams[number].fields.get("x-soak-id", "")
        ours = [("x-soak-id", asked), ("x-soak-pid", str(PID)), ("x-soak-seen", str(seen.get(asked, 0)))]
        self._h2.send_headers(number, [(":status", "200"), ("content-type", kind), *ours, *more])

    def _ended(self, number: int) -> None:
        """The request is whole, and its time to be answered has come."""
        stream = self._streams.get(number)
        if stream is None or self._transport.is_closing():
            return
        if stream.grpc:
            stream.trailers = [("grpc-status", "0"), ("x-soak-hash", stream.digest.hexdigest())]
        else:
            told = {"id": stream.fields.get("x-soak-id", ""), "sha256": stream.digest.hexdigest(), "model": NAME}
            body = json.dumps(told).encode()
            self._head(number, "application/json", ("content-length", str(len(body))))
            stream.waiting += body
        stream.whole = True
        self._send(number)
        self._flush()

    def _send(self, number: int) -> None:
        """As much of an answer as there is room for."""
        stream = self._streams[number]
        while stream.waiting:
            size = min(
                len(stream.waiting), self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size
            )
            if size <= 0:
                return
            self._h2.send_data(number, bytes(stream.waiting[:size]))
            del stream.waiting[:size]
        if stream.whole:
            if stream.trailers:
                self._h2.send_headers(number, stream.trailers, end_stream=True)
            else:
                self._h2.end_stream(number)
            del self._streams[number]

    def _flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    flags = parser.parse_args()
    server = await asyncio.get_running_loop().create_server(Connection, flags.host, flags.port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
