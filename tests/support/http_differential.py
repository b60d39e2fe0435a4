"""The gateway's reading of HTTP held against h11's, for any bytes at all.

    what passes         h11 reads in the same way: method, target, fields, body, framing, in the same order
    what h11 refuses    is refused
    where it is cut     changes nothing, but that a refusal need not wait for a body and a broken answer may have begun
    what is refused although h11 takes it     has one of the `STRICTER` reasons

The one thing that is taken although h11 refuses it, an empty line before a request (RFC 9112, 2.2), is taken away before
h11 sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from router.gateway.upstream import Upstream
from tests.support.gateway_memory import Conversation, MemoryGateway, feed
from tests.support.http_reference import (
    Fields,
    Incomplete,
    Message,
    Refused,
    after_empty_lines,
    read_answer,
    read_request,
)

_METHODS = (
    rb"(?:DELETE|GET|HEAD|POST|PUT|CONNECT|OPTIONS|TRACE|COPY|LOCK|MKCOL|MOVE|PROPFIND|PROPPATCH|SEARCH|UNLOCK|BIND|REBIND|UNBIND"
    rb"|ACL|REPORT|MKACTIVITY|CHECKOUT|MERGE|M-SEARCH|NOTIFY|SUBSCRIBE|UNSUBSCRIBE|PATCH|PURGE|MKCALENDAR|LINK|UNLINK|SOURCE|QUERY) "
)
_HOST = rb"(?:[\w.~-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?"
_END = rb"[ \t]*\r\n"
_AGREED = (
    rb"\w+ https?://(" + _HOST + rb")(?:[/?]\S*)? HTTP/1\.[01]\r\n(?:.*\r\n)*?host:[ \t]*\1" + _END,
    rb"\w+ https?://" + _HOST + rb"(?:[/?]\S*)? HTTP/1\.0\r\n(?:(?!host:).*\r\n)*\r\n",
)


def _has(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    return lambda head: compiled.search(head) is not None


def _twice(name: bytes) -> Callable[[bytes], bool]:
    return _has(rb"^" + name + rb":(?:.*\n)+" + name + rb":")


def _address_of_another_host(head: bytes) -> bool:
    line = head.partition(b"\r\n")[0]
    return b" /" not in line and not any(re.match(one, head, re.IGNORECASE) for one in _AGREED)


STRICTER: dict[str, Callable[[bytes], bool]] = {
    "a line ends in a bare LF, which readers take for a line end or for text": _has(rb"(?<!\r)\n"),
    "a bare CR": _has(rb"\r(?!\n)"),
    "a folded line (RFC 9112, 5.2, lets it be refused)": _has(rb"\n[ \t]"),
    "a control character in a value or a reason": _has(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    "Content-Length beside Transfer-Encoding": lambda head: (
        _has(rb"^content-length:")(head) and _has(rb"^transfer-encoding:")(head)
    ),
    "Content-Length twice or as a list": lambda head: (
        _twice(rb"content-length")(head) or _has(rb"^content-length:.*,")(head)
    ),
    "a length beyond 18 digits": _has(rb"^content-length:[ \t]*\d{19}"),
    "Transfer-Encoding twice": _twice(rb"transfer-encoding"),
    "Transfer-Encoding with a tab behind it": _has(rb"^transfer-encoding:.*\t\r"),
    "Transfer-Encoding in HTTP/1.0": lambda head: (
        _has(rb"^transfer-encoding:")(head) and _has(rb"\A(?:.* )?HTTP/1\.0")(head)
    ),
    "a version that is neither 1.1 nor 1.0": lambda head: not _has(rb"\A(?:.* )?HTTP/1\.[01](?: .*)?\r")(head),
    "a field that decides something, twice": lambda head: (
        _twice(rb"authorization")(head) or _twice(rb"azureml-model-deployment")(head)
    ),
    "x-request-deadline twice, or no moment": _has(rb"^x-request-deadline:"),
    "Host is neither a name nor an address": lambda head: (
        _has(rb"^host:")(head) and not _has(rb"^host:[ \t]*" + _HOST + _END)(head)
    ),
    "a handshake of WebSocket that is none": lambda head: (
        _has(rb"^upgrade:.*websocket")(head) and _has(rb"^connection:.*upgrade")(head)
    ),
    "a method that nobody has heard of": lambda head: re.match(_METHODS, head) is None,
    "a fragment in the target": _has(rb"\A\S+ \S*#"),
    "a target that is neither a path nor an address of the host that Host names": _address_of_another_host,
    "a target that starts like no path": lambda head: re.match(rb"\S+ (?:/|https?://)", head, re.IGNORECASE) is None,
    "a head above 64 KiB": lambda head: len(head) > 65536,
}
STRICTER_CHUNKS: dict[str, Callable[[bytes], bool]] = {
    "an extension, or a space behind a size (h11 takes any)": _has(rb"^[0-9a-f]+[ \t;]"),
    "a size beyond 16 digits": _has(rb"^[0-9a-f]{17}"),
    "trailers that belong into a head, are too many, or have control characters": _has(rb"^0+(?:[ \t;].*)?\r\n[^\r]"),
}
STRICTER_ANSWERS: dict[str, Callable[[bytes], bool]] = {
    "a status outside of 100 to 599": lambda head: not _has(rb"\AHTTP/\S+ [1-5]\d\d")(head),
    "a switch of protocols that nobody asked for": _has(rb"\AHTTP/1\.. 101"),
    "an interim answer with a length or a coding": lambda head: (
        _has(rb"\AHTTP/1\.. 1")(head) and _has(rb"^(?:content-length|transfer-encoding):")(head)
    ),
}
_ONLY_REQUESTS = ("Host ", "a handshake", "a method", "a fragment", "a target", "a field that")
_REQUEST_FIELDS_DROPPED = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer http2-settings upgrade expect"
    b" transfer-encoding content-length host authorization azureml-model-deployment x-request-id x-forwarded-for"
    b" x-forwarded-proto x-ms-client-request-id via".split()
)
_ANSWER_FIELDS_DROPPED = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer http2-settings upgrade"
    b" transfer-encoding content-length azureml-model-deployment x-request-id ms-azureml-model-error-statuscode"
    b" ms-azureml-model-error-reason date via".split()
)


def _end_to_end(fields: Fields, dropped: frozenset[bytes]) -> Fields:
    """What must arrive at the other side, in order."""
    named = {
        token.strip(b" \t").lower() for name, value in fields if name == b"connection" for token in value.split(b",")
    }
    kept = [one for one in fields if one[0] not in named or one[0] in dropped]
    return [
        one
        for one in kept
        if one[0] not in dropped
        and not one[0].replace(b"_", b"-").startswith(b"x-tidegate-")
        and not (b"_" in one[0] and one[0].replace(b"_", b"-") in dropped)
    ]


def _explained(raw: bytes, lists: Sequence[dict[str, Callable[[bytes], bool]]]) -> bool:
    head, end, body = raw.partition(b"\r\n\r\n")
    for reasons in lists:
        subject = body if reasons is STRICTER_CHUNKS else head + end
        if any(holds(subject) for holds in reasons.values()):
            return True
    return False


def cut(data: bytes, size: int) -> list[bytes]:
    """In pieces of `size`."""
    return [data[at : at + size] for at in range(0, len(data), size)]


_OWN = (404, 408, 417, 426, 501)
"""The gateway's own answers to requests that it has understood."""

# Requests -------------------------------------------------------------------------------------------------------------


async def check_requests(memory: MemoryGateway, raw: bytes, size: int) -> None:
    """One caller's bytes, whole and then in pieces of `size`."""
    memory.forget()
    whole = await memory.converse([raw] if raw else [], shut=True)
    statuses = _against_reference(raw, whole)
    again = await memory.converse(cut(raw, size), shut=True)
    if _against_reference(raw, again) != statuses:
        # A refusal that did not wait for the body ends the connection, so less of the bytes is read.
        assert statuses[: len(_against_reference(raw, again))] == _against_reference(raw, again)
        assert _against_reference(raw, again)[-1] in _OWN, (statuses, again.answers)


def _against_reference(raw: bytes, got: Conversation) -> list[int]:
    """The statuses that the caller got, after everything has been compared."""
    statuses: list[int] = []
    answers, passed = got.answers, list(got.requests)
    while answers:
        raw = after_empty_lines(raw)
        wanted, rest = _next_wanted(raw)
        refused = answers.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
        answer, answers = read_answer(answers, raw.partition(b" ")[0], ended=True)
        statuses.append(int(answer.first[0]))
        if refused:
            assert not answers, "bytes behind a refusal"
            assert got.ended
            stricter = (STRICTER, STRICTER_CHUNKS)
            assert not isinstance(wanted, Message) or _explained(raw, stricter), (answer.body, raw)
            break
        body_unread = statuses[-1] in _OWN and isinstance(wanted, Incomplete)
        if body_unread or (statuses[-1] == 501 and raw.startswith(b"CONNECT ")):
            # What comes behind is a body that is not waited for, or a tunnel's: it is not read as anything.
            assert got.ended
            assert not answers
            break
        assert isinstance(wanted, Message), (wanted, raw)
        if statuses[-1] == 200:
            _same_request(wanted, read_request(passed.pop(0))[0])
        else:
            assert statuses[-1] in _OWN, statuses
        raw = rest
        if answer.values(b"connection") == [b"close"] or _says_close(wanted):
            assert not answers, "more than was asked for"
            break
    else:
        # Everything that was asked has been answered; what is left is nothing, or only the end of lines.
        assert not raw.strip(b"\r\n"), ("unanswered", raw)
    assert not passed, "requests that nobody was answered for"
    return statuses


def _next_wanted(raw: bytes) -> tuple[Message | Refused | Incomplete, bytes]:
    try:
        return read_request(raw)
    except (Refused, Incomplete) as error:
        return error, b""


def _says_close(request: Message) -> bool:
    tokens = {token.strip().lower() for value in request.values(b"connection") for token in value.split(b",")}
    return b"close" in tokens or (request.version == b"1.0" and b"keep-alive" not in tokens)


def _same_request(wanted: Message, got: Message) -> None:
    method, target = wanted.first
    if not target.startswith(b"/"):
        rest = re.sub(rb"^[^:]+://[^/?]*", b"", target)
        target = rest if rest.startswith(b"/") else b"/" + rest
    assert got.first == (method, target)
    assert (got.body, got.framing) == (wanted.body, wanted.framing)
    assert _end_to_end(got.fields, _REQUEST_FIELDS_DROPPED) == _end_to_end(wanted.fields, _REQUEST_FIELDS_DROPPED)
    assert len(got.values(b"host")) == len(got.values(b"via")) == len(got.values(b"x-request-id")) == 1


# Answers --------------------------------------------------------------------------------------------------------------


async def check_answer(memory: MemoryGateway, raw: bytes, size: int, *, method: bytes, old: bool, closes: bool) -> None:
    """One replica's bytes in answer to one request, whole and then in pieces of `size`."""
    memory.forget()
    version = b"1.0" if old else b"1.1"
    question = method + b" /endpoints/demo/score HTTP/" + version + b"\r\nHost: x\r\n\r\n"

    async def ask(pieces: list[bytes]) -> Message | str:
        def reply(connection: Upstream, request: bytes) -> None:
            feed(connection, pieces, closes=closes)

        got = await memory.converse([question], shut=False, reply=reply)
        return _judge_answer(got, method=method)

    whole, again = await ask([raw] if raw else []), await ask(cut(raw, size))
    try:
        wanted: Message | None = read_answer(raw, method, ended=closes)[0]
    except (Refused, Incomplete):
        wanted = None
    for got in (whole, again):
        if isinstance(got, Message):
            assert wanted is not None, ("h11 does not take it", raw)
            _same_answer(wanted, got, old=old)
        elif wanted is not None:
            assert _explained_answer(raw), (got, raw)
    # Where a connection ended, it may be tried once more in between.
    other = ("nothing", "refused") if closes else ("nothing",)
    same = {"refused": ("refused", "cut", *other), "cut": ("cut",), "nothing": other}
    assert isinstance(again, Message) if isinstance(whole, Message) else again in same[whole]


def _explained_answer(raw: bytes) -> bool:
    """Also where the reason is in an interim answer."""
    reasons = {name: holds for name, holds in STRICTER.items() if not name.startswith(_ONLY_REQUESTS)}
    rest = raw
    while rest.startswith(b"HTTP/"):
        if _explained(rest, (reasons, STRICTER_ANSWERS, STRICTER_CHUNKS)):
            return True
        rest = rest.partition(b"\r\n\r\n")[2]
    return len(re.findall(rb"HTTP/1\.. 1", raw)) > 32 or len(raw) > 65536


def _judge_answer(got: Conversation, *, method: bytes) -> Message | str:
    """What the caller can make of it: an answer of the replica, `refused` by the gateway, `cut` off, or `nothing`."""
    if not got.answers:
        return "nothing"
    try:
        answer, rest = read_answer(got.answers, method, ended=got.ended and not got.broken)
    except Incomplete:
        return "cut"
    assert not rest, "bytes behind the answer"
    return answer if answer.values(b"via") else "refused"


def _same_answer(wanted: Message, got: Message, *, old: bool) -> None:
    assert got.first[0] == wanted.first[0]
    assert got.body == wanted.body
    assert got.interim == (() if old else tuple(status for status in wanted.interim if status != 100))
    assert _end_to_end(got.fields, _ANSWER_FIELDS_DROPPED) == _end_to_end(wanted.fields, _ANSWER_FIELDS_DROPPED)
    assert len(got.values(b"via")) == len(got.values(b"date")) == len(got.values(b"x-request-id")) == 1
