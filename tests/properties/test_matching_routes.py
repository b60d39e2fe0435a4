"""Whatever the target and host, an endpoint is found by exactly its own names, and the rest of the path is untouched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.policy.matching import Table, host_name, origin_form

NAMES = st.from_regex(r"[a-zA-Z](?:-?[a-zA-Z0-9]){2,10}", fullmatch=True)
REST = st.binary(max_size=30).map(lambda raw: bytes(byte for byte in raw if 0x21 <= byte < 0x7F))


def table(name: str) -> Table[str]:
    key = name.encode()
    return Table({key: name, key.lower(): name}, {key.lower() + b".localhost": name})


@given(NAMES, REST)
def test_the_rest_of_the_path_is_the_targets(name: str, rest: bytes) -> None:
    assert table(name).find(b"/endpoints/" + name.encode() + b"/" + rest, b"gateway:8080") == (name, b"/" + rest)


@given(NAMES, REST)
def test_a_query_without_a_path_keeps_its_bytes(name: str, rest: bytes) -> None:
    found = table(name).find(b"/endpoints/" + name.encode() + b"?" + rest, b"gateway")
    assert found == (name, b"/?" + rest)


@given(NAMES, REST, st.sampled_from([b"", b":80", b".", b".:443"]))
def test_by_host_the_target_stays_as_it_is(name: str, rest: bytes, end: bytes) -> None:
    for host in (name, name.upper(), name.lower()):
        assert table(name).find(b"/" + rest, host.encode() + b".localhost" + end) == (name, b"/" + rest)


@given(NAMES, NAMES, REST)
def test_another_name_is_not_found(name: str, other: str, rest: bytes) -> None:
    if other.lower() != name.lower():
        assert table(name).find(b"/endpoints/" + other.encode() + b"/" + rest, b"x")[0] is None
        assert table(name).find(b"/score", other.encode() + b".localhost")[0] is None


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_nothing_makes_it_raise(target: bytes, host: bytes) -> None:
    table("demo").find(target, host)
    host_name(host)
    origin_form(target, host)


def test_absolute_targets_name_their_host() -> None:
    assert origin_form(b"http://demo.localhost/a/b?c", b"demo.localhost") == (b"/a/b?c", b"demo.localhost")
    assert origin_form(b"HTTPS://demo.localhost", b"") == (b"/", b"demo.localhost")
    assert origin_form(b"http://demo?q=a/b", b"Demo:80") == (b"/?q=a/b", b"demo")
    for bad in (b"*", b"ftp://a/b", b"http://", b"http://user@host/", b"demo:80"):
        assert origin_form(bad, b"") is None


@given(NAMES, NAMES)
def test_absolute_targets_and_host_agree_or_nothing_is_found(name: str, other: str) -> None:
    found = origin_form(b"http://" + name.encode() + b"/score", other.encode())
    assert (found is not None) == (name.lower() == other.lower())
