"""What must hold for any bytes that a `Scanner` is given: any cut gives the same, and wsproto agrees on what is no frame."""

from __future__ import annotations

from dataclasses import dataclass

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from router.policy.websocket import PING, TOO_BIG, Scanner, frame

_UNLIMITED = 1 << 62
_ENOUGH = bytes(140)
"""Completes any head, and any control frame."""
OURS = frame(PING, b"of the gateway", b"mask")


@dataclass
class Scanned:
    """One direction, from its first byte to its last."""

    passed: bytes
    close_code: int
    violation: tuple[int, str] | None


def scan(data: bytes, size: int, *, masks: bool, limit: int = _UNLIMITED, bits: tuple[int, int] = (0, 0)) -> Scanned:
    """`data` in pieces of `size` bytes."""
    scanner = Scanner(masks=masks, max_message_bytes=limit, start_bits=bits[0], more_bits=bits[1])
    passed = b"".join(b"".join(scanner.feed(data[at : at + size])) for at in range(0, len(data), size))
    assert scanner.over == (scanner.close_code > 0 or scanner.violation is not None)
    return Scanned(passed, scanner.close_code, scanner.violation)


def reference(data: bytes, *, masks: bool) -> tuple[list[tuple[int, bytes]], int]:
    """(opcode and payload of each frame until a close frame or what is none, the code of that or 0), as wsproto reads."""
    protocol = FrameProtocol(client=not masks, extensions=[])
    protocol.receive_bytes(data)
    found: list[tuple[int, bytes]] = []
    try:
        for one in protocol.received_frames():
            if one.opcode is Opcode.CLOSE:
                found.append((int(one.opcode), b""))
                break
            payload = one.payload.encode() if isinstance(one.payload, str) else bytes(one.payload)  # type: ignore[arg-type]
            found.append((int(one.opcode), payload))
    except ParseFailed as error:
        return found, int(error.code)
    return found, 0


def check_frames(data: bytes) -> None:
    """The first byte says how, the rest is one side's."""
    if not data:
        return
    how, data = data[0], data[1:]
    size, masks = (1, 2, 3, 7, 16, 61, 250, 1000)[how & 7], bool(how & 8)
    bits = (0x40, 0) if how & 16 else (0, 0)
    limit = 300 if how & 32 else _UNLIMITED
    whole = scan(data, len(data) or 1, masks=masks, limit=limit, bits=bits)
    assert scan(data, size, masks=masks, limit=limit, bits=bits) == whole
    assert data.startswith(whole.passed)
    if bits == (0, 0):
        _check_reference(data, whole, masks=masks)
        _check_insertion(data, whole, size, masks=masks, limit=limit)


def _check_reference(data: bytes, whole: Scanned, *, masks: bool) -> None:
    frames, code = reference(data, masks=masks)
    if code == CloseReason.INVALID_FRAME_PAYLOAD_DATA:
        return  # whether text is text is for the two ends to judge
    if whole.violation is None:
        assert code == 0 or whole.close_code, "wsproto refuses it"
        assert reference(whole.passed, masks=masks) == (frames, code)
    elif whole.violation[0] != TOO_BIG:
        assert reference(data + _ENOUGH, masks=masks)[1], f"wsproto takes it: {whole.violation}"
    passed = reference(whole.passed, masks=masks)[1]
    assert passed == 0 or whole.close_code, "something that is no frame has passed"


def _check_insertion(data: bytes, whole: Scanned, size: int, *, masks: bool, limit: int) -> None:
    """A frame of ours stands between two of theirs, wherever it was asked for."""
    scanner = Scanner(masks=masks, max_message_bytes=limit)
    before = b"".join(scanner.feed(data[:size]))
    waits = scanner.insert(OURS)
    after = b"".join(scanner.feed(data[size:]))
    passed = before + waits + after
    if OURS not in passed:
        assert scanner.waits or scanner.close_code
        assert passed == whole.passed
        return
    at = passed.index(OURS)
    assert passed[:at] + passed[at + len(OURS) :] == whole.passed
    again = scan(whole.passed[:at], 1 << 20, masks=masks)
    assert (again.passed, again.violation) == (whole.passed[:at], None)
    probe = Scanner(masks=masks, max_message_bytes=_UNLIMITED)
    probe.feed(whole.passed[:at])
    assert probe.insert(OURS) == OURS, "in the middle of a frame"
