"""Bearer tokens: fresh for every connection, from a file or from an endpoint, and never shown."""

from __future__ import annotations

import asyncio
import base64
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("aiokafka")

from router.runtime.clock import ManualClock
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_tokens import ClientCredentials, TokenFile, TokenUnavailable
from router.runtime.log.kafka_url import parse

SECRET = "hunter2+/unseen"


@dataclass
class Endpoint:
    """A token endpoint that gives what it is told to and notes what it was asked."""

    url: str = ""
    status: int = 200
    answer: str = '{"access_token": "token-1", "expires_in": 100}'
    location: str = ""
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            state.asked.append((self.headers.get("Authorization", ""), urllib.parse.parse_qs(form)))
            self._answer()

        def do_GET(self) -> None:
            state.asked.append((self.headers.get("Authorization", ""), {}))
            state.location = ""
            state.status = 200
            self._answer()

        def _answer(self) -> None:
            self.send_response(state.status)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()
            self.wfile.write(state.answer.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def provider(endpoint: Endpoint, clock: ManualClock | None = None, scope: str = "") -> ClientCredentials:
    return ClientCredentials(endpoint.url, "me & you", SECRET, scope=scope, clock=clock or ManualClock())


async def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    environ = {"TIDEGATE_KAFKA_SASL_MECHANISM": "OAUTHBEARER", "TIDEGATE_KAFKA_TOKEN_FILE": str(file)}
    tokens = client_options(parse("kafka+ssl://h"), "x", environ)["sasl_oauth_token_provider"]
    assert await tokens.token() == "first"
    file.write_text("second")
    assert await tokens.token() == "second"


@pytest.mark.parametrize("content", [b"", b"a b", b"a\x01auth=x", b"\xff", b"a\nb"])
async def test_a_file_without_a_token_is_named_and_not_shown(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(TokenUnavailable, match=str(file)) as caught:
        await TokenFile(str(file)).token()
    assert "auth" not in str(caught.value)
    with pytest.raises(TokenUnavailable, match="nowhere"):
        await TokenFile("/nowhere/token").token()


async def test_client_credentials_are_asked_as_rfc_6749_says(endpoint: Endpoint) -> None:
    assert await provider(endpoint, scope="kafka write").token() == "token-1"
    [(authorization, form)] = endpoint.asked
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"me+%26+you:hunter2%2B%2Funseen"
    assert form == {"grant_type": ["client_credentials"], "scope": ["kafka write"]}


async def test_a_token_is_kept_for_four_fifths_of_its_life(endpoint: Endpoint) -> None:
    clock = ManualClock()
    tokens = provider(endpoint, clock)
    assert await asyncio.gather(*(tokens.token() for _ in range(5))) == ["token-1"] * 5
    clock.advance(79)
    assert await tokens.token() == "token-1"
    assert len(endpoint.asked) == 1
    endpoint.answer = '{"access_token": "token-2"}'
    clock.advance(2)
    assert await tokens.token() == "token-2"
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, '{"error": "invalid_client"}', "refused client me & you: HTTP 401"),
        (500, "", "HTTP 500"),
        (200, "no JSON", "did not answer with a token"),
        (200, "[]", "did not answer with a token"),
        (200, "{}", "did not answer with a token"),
        (200, '{"access_token": "t", "expires_in": "soon"}', "did not answer with a token"),
        (200, '{"access_token": "t", "expires_in": Infinity}', "did not answer with a token"),
        (200, '{"access_token": "t", "expires_in": NaN}', "did not answer with a token"),
        (200, '{"access_token": "a b"}', "no bearer token"),
        (200, '{"access_token": 7}', "no bearer token"),
    ],
)
async def test_an_endpoint_without_a_token_is_named(endpoint: Endpoint, status: int, answer: str, said: str) -> None:
    endpoint.status, endpoint.answer = status, answer
    tokens = provider(endpoint)
    with pytest.raises(TokenUnavailable, match=said) as caught:
        await tokens.token()
    assert SECRET not in str(caught.value) + repr(tokens)
    endpoint.status, endpoint.answer = 200, '{"access_token": "later"}'
    assert await tokens.token() == "later"


async def test_the_secret_does_not_follow_a_redirection(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.location = 302, f"{endpoint.url}/elsewhere"
    assert await provider(endpoint).token() == "token-1"
    assert [bool(authorization) for authorization, _ in endpoint.asked] == [True, False]


async def test_an_endpoint_that_is_away_is_named() -> None:
    with pytest.raises(TokenUnavailable, match="cannot be reached"):
        await ClientCredentials("http://127.0.0.1:1/token", "me", SECRET).token()
