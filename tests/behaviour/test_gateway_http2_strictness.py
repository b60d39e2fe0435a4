"""HTTP/2 cannot say to a replica what HTTP/1.1 would take for two things: one request, or a refusal of this stream alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.gateway_rig import KEY, Rig, deployment, gateway, replica
from tests.support.gateway_upstream import ScriptedReplica, scripted
from tests.support.http2_caller import DataFrame, Fields, HeadersFrame, Http2Caller, http2, request

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUTH = (b"authorization", b"Bearer " + KEY.encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path_factory.mktemp("gateway")) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield rig


def _with(*extra: tuple[bytes, bytes]) -> Fields:
    return [*request(), *extra]


def _pseudo(**values: bytes | None) -> Fields:
    """A request with other pseudo-fields; None takes one away."""
    fields = {b":method": b"POST", b":scheme": b"http", b":authority": b"gateway", b":path": b"/endpoints/demo/score"}
    changed = {**fields, **{b":" + name.encode(): value for name, value in values.items()}}
    return [*((name, value) for name, value in changed.items() if value is not None), AUTH]


_SECOND = b"\r\n\r\nGET /endpoints/demo/hidden HTTP/1.1\r\nhost: gateway\r\n\r\n"
MALFORMED: dict[str, Fields] = {
    "CR LF in a value": _with((b"x-a", b"1\r\nx-b: 2")),
    "LF in a value": _with((b"x-a", b"1\nx-b: 2")),
    "CR in a value": _with((b"x-a", b"1\rx-b: 2")),
    "NUL in a value": _with((b"x-a", b"1\x002")),
    "DEL in a value": _with((b"x-a", b"1\x7f2")),
    "a control character in a value": _with((b"x-a", b"1\x0b2")),
    "a whole request in a value": _with((b"x-a", b"1" + _SECOND)),
    "a blank before a value": _with((b"x-a", b" 1")),
    "a tab behind a value": _with((b"x-a", b"1\t")),
    "an upper-case name": _with((b"X-A", b"1")),
    "an empty name": _with((b"", b"1")),
    "a colon in a name": _with((b"x-a: 1\r\nx-b", b"2")),
    "a colon at the end of a name": _with((b"x-a:", b"2")),
    "a blank in a name": _with((b"x a", b"2")),
    "a blank behind a name": _with((b"x-a ", b"2")),
    "CR LF in a name": _with((b"x-a\r\nx-b", b"2")),
    "NUL in a name": _with((b"x-\0", b"2")),
    "a byte above 127 in a name": _with((b"x-\xe4", b"2")),
    "Transfer-Encoding": _with((b"transfer-encoding", b"chunked")),
    "Transfer-Encoding and a length": _with((b"transfer-encoding", b"chunked"), (b"content-length", b"5")),
    "Connection": _with((b"connection", b"x-a")),
    "Keep-Alive": _with((b"keep-alive", b"5")),
    "Proxy-Connection": _with((b"proxy-connection", b"close")),
    "Upgrade": _with((b"upgrade", b"websocket")),
    "TE with more than trailers": _with((b"te", b"trailers, gzip")),
    "TE with a coding": _with((b"te", b"chunked")),
    "two lengths": _with((b"content-length", b"5"), (b"content-length", b"5")),
    "two lengths that differ": _with((b"content-length", b"5"), (b"content-length", b"6")),
    "a length with a sign": _with((b"content-length", b"+5")),
    "a list of lengths": _with((b"content-length", b"5,5")),
    "a length in hexadecimal": _with((b"content-length", b"0x5")),
    "an empty length": _with((b"content-length", b"")),
    "a length of 19 digits": _with((b"content-length", b"1" * 19)),
    "a length and no body": _with((b"content-length", b"5")),
    "two hosts": _with((b"host", b"gateway"), (b"host", b"gateway")),
    "another Host": _with((b"host", b"other")),
    "another port in Host": _with((b"host", b"gateway:81")),
    "no method": _pseudo(method=None),
    "an empty method": _pseudo(method=b""),
    "a method in lower case": _pseudo(method=b"post"),
    "a method with a blank": _pseudo(method=b"GET / HTTP/1.1\r\nx: "),
    "a request in the method": _pseudo(method=b"GET /endpoints/demo/hidden HTTP/1.1\r\nhost: gateway\r\n\r\nPOST"),
    "an unknown method": _pseudo(method=b"SMUGGLE"),
    "no scheme": _pseudo(scheme=None),
    "another scheme": _pseudo(scheme=b"ftp"),
    "a scheme in upper case": _pseudo(scheme=b"HTTP"),
    "a target in the scheme": _pseudo(scheme=b"http://gateway/endpoints/demo/hidden?"),
    "no path": _pseudo(path=None),
    "an empty path": _pseudo(path=b""),
    "a path without a slash": _pseudo(path=b"endpoints/demo/score"),
    "an absolute target": _pseudo(path=b"http://gateway/endpoints/demo/score"),
    "a path with a blank": _pseudo(path=b"/endpoints/demo/score HTTP/1.1"),
    "a path with a request": _pseudo(path=b"/endpoints/demo/a HTTP/1.1" + _SECOND),
    "a path with a tab": _pseudo(path=b"/endpoints/demo/\tscore"),
    "a path with a fragment": _pseudo(path=b"/endpoints/demo/score#x"),
    "a path with a byte above 127": _pseudo(path=b"/endpoints/demo/\xe4"),
    "the path of all": _pseudo(method=b"OPTIONS", path=b"*"),
    "no authority": _pseudo(authority=None),
    "an empty authority": _pseudo(authority=b""),
    "an authority with a user": _pseudo(authority=b"me@gateway"),
    "an authority with a path": _pseudo(authority=b"gateway/endpoints/demo"),
    "an authority with CR LF": _pseudo(authority=b"gateway\r\nx-a: 1"),
    "an authority with a blank": _pseudo(authority=b"gateway other"),
    "two paths": [(b":path", b"/endpoints/demo/hidden"), *request()],
    "two methods": [(b":method", b"GET"), *request()],
    "two authorities": [(b":authority", b"other"), *request()],
    "a pseudo-field behind a field": [*request()[:3], AUTH, (b":path", b"/endpoints/demo/score")],
    "a pseudo-field twice, the second late": _with((b":path", b"/endpoints/demo/hidden")),
    "an unknown pseudo-field": [(b":protocol", b"websocket"), *request()],
    "a status": [(b":status", b"200"), *request()],
    "two keys": _with(AUTH),
    "two deployments named": _with((b"azureml-model-deployment", b"blue"), (b"azureml-model-deployment", b"blue")),
    "extended CONNECT": _pseudo(method=b"CONNECT", protocol=b"websocket"),
}  # fmt: skip


async def still_serves(rig: Rig, peer: Http2Caller, upstream: ScriptedReplica) -> None:
    """What comes behind on the same connection is its own request, and nothing came before it."""
    upstream.requests.clear()
    assert bytes((await peer.answer(peer.post(b"behind"))).body) == b"behind"
    assert [one.body for one in upstream.requests] == [b"behind"]


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_has_no_single_meaning_is_refused_alone(rig: Rig, upstream: ScriptedReplica, fields: Fields) -> None:
    upstream.requests.clear()
    async with http2(rig.port) as peer:
        got = await peer.answer(peer.begin(fields, ended=True))
        assert got.status == 400
        assert b'"BadRequest"' in got.body
        assert not upstream.requests
        await still_serves(rig, peer, upstream)


PASSES: dict[str, tuple[Fields, dict[str, str | None]]] = {
    "a Host beside the authority": (_with((b"host", b"GateWay")), {"host": "gateway"}),
    "a Host in place of the authority": ([*_pseudo(authority=None), (b"host", b"gateway")], {"host": "gateway"}),
    "TE trailers": (_with((b"te", b"trailers")), {"te": None}),
    "bytes above 127 in a value": (_with((b"x-a", b"\xc3\xa4")), {"x-a": "\xc3\xa4"}),
    "an empty value": (_with((b"x-a", b"")), {"x-a": ""}),
    "our own marks": (_with((b"x-tidegate-shadow", b"1"), (b"x_request_id", b"1")), {"x-tidegate-shadow": None, "x_request_id": None}),
    "a length spelt with an underscore": (_with((b"content_length", b"9")), {"content_length": None, "content-length": "0"}),
    "a coding spelt with an underscore": (_with((b"transfer_encoding", b"chunked")), {"transfer_encoding": None}),
    "https": (_pseudo(scheme=b"https"), {"host": "gateway"}),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "wanted"), PASSES.values(), ids=PASSES.keys())
async def test_what_has_one_meaning_passes_with_it(
    rig: Rig, upstream: ScriptedReplica, fields: Fields, wanted: dict[str, str | None]
) -> None:
    upstream.requests.clear()
    async with http2(rig.port) as peer:
        assert (await peer.answer(peer.begin(fields, ended=True))).status == 200
        (passed,) = upstream.requests
        assert {name: passed.header(name) for name in wanted} == wanted
        await still_serves(rig, peer, upstream)


@pytest.mark.parametrize(
    ("announced", "pieces"), [(5, [b"1234"]), (5, [b"123456"]), (5, [b"12345", b"6"]), (0, [b"1"])]
)
async def test_a_body_that_is_not_as_long_as_announced_is_none(
    rig: Rig, upstream: ScriptedReplica, announced: int, pieces: list[bytes]
) -> None:
    async with http2(rig.port) as peer:
        stream = peer.begin(_with((b"content-length", b"%d" % announced)))
        for number, piece in enumerate(pieces, 1):
            peer.data(stream, piece, ended=number == len(pieces))
        assert (await peer.answer(stream)).status == 400
        await still_serves(rig, peer, upstream)


async def test_trailers_that_do_not_end_the_request_or_are_none_reset_it(rig: Rig, upstream: ScriptedReplica) -> None:
    async with http2(rig.port) as peer:
        for fields, flags in (
            ([(b"x-late", b"1")], ["END_HEADERS"]),
            ([(b":path", b"/x")], ["END_HEADERS", "END_STREAM"]),
        ):
            stream = peer.begin(request())
            peer.send(HeadersFrame(stream, peer.block(fields), flags=flags))
            assert (await peer.answer(stream)).reset == 1
        await still_serves(rig, peer, upstream)


async def test_a_stream_that_has_ended_takes_nothing_more(rig: Rig, upstream: ScriptedReplica) -> None:
    async with http2(rig.port) as peer:
        stream = peer.post(b"hello")
        peer.send(DataFrame(stream, b"GET /endpoints/demo/hidden HTTP/1.1\r\n\r\n"))
        assert (await peer.answer(stream)).over
        await still_serves(rig, peer, upstream)
