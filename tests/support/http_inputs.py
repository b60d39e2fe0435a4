"""What the inputs of the fuzzer mean: one byte on how to ask and to cut, then a caller's or a replica's bytes, or frames."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support import http2_inputs
from tests.support.gateway_memory import MemoryGateway
from tests.support.http_corpus import cases
from tests.support.http_differential import check_answer, check_requests
from tests.support.websocket_frames import check_frames

_FUZZ = Path(__file__).parents[1] / "fuzz"
KEPT = _FUZZ / "corpus"
DICTIONARY = _FUZZ / "dictionary.txt"
_SIZES = (1, 2, 3, 7, 16, 61, 250, 1000)
_METHODS = (b"GET", b"HEAD")


async def requests(memory: MemoryGateway, data: bytes) -> None:
    """A caller's bytes, as long as they are not HTTP/2's."""
    if data and not data[1:].startswith(b"PRI * HTTP/2.0\r\n\r\n"):
        await check_requests(memory, data[1:], _SIZES[data[0] & 7])


async def answers(memory: MemoryGateway, data: bytes) -> None:
    """A replica's bytes: to GET or HEAD, to an old caller or not, with the end of the connection behind them or not."""
    if data:
        how = data[0]
        method, old, closes = _METHODS[how >> 3 & 1], bool(how & 16), bool(how & 32)
        await check_answer(memory, data[1:], _SIZES[how & 7], method=method, old=old, closes=closes)


async def frames(_: MemoryGateway, data: bytes) -> None:
    """One side's frames, once the two speak WebSocket."""
    check_frames(data)


CHECKS: dict[str, Callable[[MemoryGateway, bytes], Awaitable[None]]] = {
    "requests": requests, "answers": answers, "http2": http2_inputs.http2, "frames": frames
}  # fmt: skip
_FRAMES = (
    "8104666f6f2e",
    "0184707172730000000080800000000000",
    "89800000000088820000000003e8",
    "c27e0080",
    "827f0000000000010000",
)


def seeds(kind: str) -> list[bytes]:
    """The cases of the corpus as inputs, or some frames."""
    if kind == "http2":
        return http2_inputs.seeds()
    if kind == "frames":
        return [bytes([how]) + bytes.fromhex(text) + bytes(200) for text in _FRAMES for how in (0, 8, 16, 33)]
    found = []
    for number, case in enumerate(cases(kind)):
        how = number & 7
        how |= 8 * ("HEAD" in case.how) | 16 * ("old" in case.how) | 32 * ("closes" in case.how)
        found.append(bytes([how]) + case.raw)
    return found


def words() -> list[bytes]:
    """Those of the fuzzer's dictionary."""
    lines = [line for line in DICTIONARY.read_text().splitlines() if line.startswith('"')]
    return [line[1:-1].replace('\\"', '"').encode().decode("unicode_escape").encode("latin-1") for line in lines]


def kept(kind: str) -> list[bytes]:
    """What fuzzing has found worth keeping."""
    return [path.read_bytes() for path in sorted((KEPT / kind).iterdir())]


def _write(kind: str, folder: Path) -> None:
    for number, data in enumerate(seeds(kind)):
        (folder / f"case-{number:04}").write_bytes(data)


if __name__ == "__main__":
    _write(sys.argv[1], Path(sys.argv[2]))
