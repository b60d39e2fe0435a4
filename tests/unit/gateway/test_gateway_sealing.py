"""Two ends that seal for each other in memory: what passes arrives, and an end is told from a break."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.gateway.sealing import RECORD_BYTES, Sealing
from tests.support.tls_authority import Authority


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = Authority(Path(tmp_path_factory.mktemp("authority")))
    issued = authority.issue("server", ["localhost"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(issued.chain, issued.key)
    return server, authority.trusted()


@pytest.fixture
def ends(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[tuple[Sealing, Sealing]]:
    """(server, client), in agreement."""
    server, client = Sealing(), Sealing()
    server.begin(contexts[0], server_side=True)
    client.begin(contexts[1], server_side=False, server_name="localhost")
    assert not client.shake(b"")
    assert not server.shake(client.sealed())
    assert client.shake(server.sealed())
    assert server.shake(client.sealed())
    yield server, client
    server.forget()
    client.forget()


def sealed(end: Sealing, data: bytes) -> bytes:
    for at in range(0, len(data), RECORD_BYTES):
        end.seal(data[at : at + RECORD_BYTES])
    return end.sealed()


def test_the_last_of_a_server_s_handshake_may_go_with_its_answer(ends: tuple[Sealing, Sealing]) -> None:
    server, client = ends
    assert server.may_wait()
    assert not client.may_wait()
    assert server.has_sealed  # a ticket
    assert client.open(sealed(server, b"answer")) == b"answer"


@pytest.mark.parametrize("size", [1, RECORD_BYTES, RECORD_BYTES + 1, 20 * RECORD_BYTES])
def test_what_came_as_a_whole_is_one_piece(ends: tuple[Sealing, Sealing], size: int) -> None:
    server, client = ends
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert server.open(sealed(client, data)) == data
    assert not server.over


def test_it_may_be_cut_anywhere(ends: tuple[Sealing, Sealing]) -> None:
    server, client = ends
    raw = sealed(client, b"first") + sealed(client, b"second")
    assert b"".join(server.open(raw[at : at + 1]) for at in range(len(raw))) == b"firstsecond"


def test_a_close_notify_is_an_end_and_what_came_before_it_counts(ends: tuple[Sealing, Sealing]) -> None:
    server, client = ends
    raw = sealed(client, b"last")
    client.seal_end()
    assert server.open(raw + client.sealed()) == b"last"
    assert server.over
    assert server.alert is None


def test_nonsense_is_a_break_with_a_word_for_the_other_end(ends: tuple[Sealing, Sealing]) -> None:
    server, client = ends
    raw = bytearray(sealed(client, b"first"))
    raw[-1] ^= 1
    server.sealed()
    assert server.open(bytes(raw)) == b""
    assert server.over
    assert server.alert is not None
    assert server.has_sealed


def test_whoever_speaks_no_tls_gets_no_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = Sealing()
    server.begin(contexts[0], server_side=True)
    with pytest.raises(ssl.SSLError):
        server.shake(b"GET / HTTP/1.1\r\n\r\n")
    server.forget()
