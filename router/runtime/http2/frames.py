"""HTTP/2 frames as bytes (RFC 9113, 4 and 6): the nine bytes before each, and those that are written often, ready-made."""

from __future__ import annotations

import enum
import struct
from typing import Final

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a caller says first."""
HEADER_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16384
"""Payload of one frame: the least that everybody must take, and the most that is taken here."""
FIRST_WINDOW: Final = 65535
"""Of a connection, and of its streams until SETTINGS say something else."""
MAX_WINDOW: Final = 2**31 - 1
Field = tuple[bytes, bytes]
"""(name in lower case, value)."""
HEAD = struct.Struct(">HBBBL")
"""Length (16 high bits, 8 low bits), type, flags, stream."""
_U32 = struct.Struct(">L")
_SETTING = struct.Struct(">HL")

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20


class Code(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(enum.IntEnum):
    """What one end tells the other about itself (RFC 9113, 6.5.2)."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class Broken(Exception):
    """The other end broke the protocol, so that the whole connection ends."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; `payload` is at most `MAX_FRAME_BYTES` long."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """(name, value) in order; names may be ones that nobody knows. Raises `Broken`."""
    if len(payload) % _SETTING.size:
        raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS of an odd length")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, size: int) -> bytes:
    """Let the other end send `size` bytes more; stream 0 is the connection."""
    return HEAD.pack(0, 4, WINDOW_UPDATE, 0, stream) + _U32.pack(size)


def reset(stream: int, code: Code) -> bytes:
    """The end of one stream, whatever is still missing of it."""
    return HEAD.pack(0, 4, RST_STREAM, 0, stream) + _U32.pack(code)


def goaway(last: int, code: Code, why: str = "") -> bytes:
    """The end of the connection: nothing above stream `last` has been, or will be, looked at."""
    return frame(GOAWAY, 0, 0, _U32.pack(last) + _U32.pack(code) + why.encode("ascii", "replace")[:128])


def u32(payload: bytes, at: int = 0) -> int:
    """31 bits, the reserved one left out."""
    return int(_U32.unpack_from(payload, at)[0]) & MAX_WINDOW


def header_block(stream: int, block: bytes, flags: int) -> list[bytes]:
    """A HEADERS frame with as many CONTINUATION frames as the block needs."""
    if len(block) <= MAX_FRAME_BYTES:
        return [frame(HEADERS, flags | END_HEADERS, stream, block)]
    pieces = [block[at : at + MAX_FRAME_BYTES] for at in range(0, len(block), MAX_FRAME_BYTES)]
    frames = [frame(HEADERS, flags, stream, pieces[0])]
    frames += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))
    return frames


def unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame carries without padding and priority. Raises `Broken`."""
    begin, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Broken(Code.FRAME_SIZE_ERROR, "no room for the length of the padding")
        begin, end = 1, end - payload[0]
    if kind == HEADERS and flags & WITH_PRIORITY:
        begin += 5
    if begin > end:
        raise Broken(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[begin:end]
