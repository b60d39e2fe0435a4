"""Talking to the control plane: one request, one reply, and every failure a sentence.

Only the standard library: the command must answer `--help` before a heavier HTTP client would be imported.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

from router.contract.errors import InvalidSpec, Problem, TidegateError

DEFAULT_URL = "http://127.0.0.1:8081"
CONFLICT_RETRIES = 8
"""Lost races against other writers before an update gives up."""
RETRY_SECONDS = 0.1
"""First wait after a lost race; doubles each time."""


class BadUrl(TidegateError):
    """The control plane's address cannot be used."""

    code = "BadArgument"
    status = 400


class Unreachable(TidegateError):
    """Nobody answers at the control plane's address."""

    code = "Unreachable"
    status = 503
    retryable = True


class Refused(TidegateError):
    """The server understood and said no."""

    def __init__(self, status: int, code: str, message: str, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details or []


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. Header names are lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None when there is none. Raises `Refused` when it is something else."""
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except ValueError:
            start = self.body[:80].decode(errors="replace")
            raise Refused(502, "BadGateway", f"the answer is no JSON (is this a control plane?): {start}") from None


def path_of(*parts: str) -> str:
    """`/v1/…` with each part quoted."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def refusal(reply: Reply) -> Refused:
    """The error that a reply of 400 and above carries."""
    try:
        error = json.loads(reply.body)["error"]
        return Refused(reply.status, str(error["code"]), str(error["message"]), error.get("details"))
    except (ValueError, KeyError, TypeError, AttributeError):
        text = reply.body[:2000].decode(errors="replace").strip() or reply.reason
        return Refused(reply.status, f"Http{reply.status}", text)


class HttpPeer:
    """One HTTP address; a fresh connection per request.

    `base` is `http[s]://host[:port][/prefix]`; `what` names the peer in errors and `fix` says what to do about them.
    """

    def __init__(
        self,
        base: str,
        *,
        what: str,
        fix: str,
        timeout_seconds: float = 60.0,
        always: Mapping[str, str] = MappingProxyType({}),
        authorities: str = "",
    ) -> None:
        """`always`: headers of every request; `authorities`: PEM file of those to trust, empty: the system's. Raises `BadUrl`."""
        parts = urlsplit(base)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise BadUrl(f"{base!r} is no address of {what}; use http://host:port")
        self.base = base.rstrip("/")
        self.what = what
        self.fix = fix
        self.timeout_seconds = timeout_seconds
        self._always = always
        self._authorities = authorities
        self._host, self._port, self._prefix = parts.hostname, port, parts.path.rstrip("/")
        self._tls = parts.scheme == "https"

    def connect(self) -> http.client.HTTPConnection:
        """An open connection; raises `Unreachable`."""
        connection = self._unconnected()
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self.unreachable(error) from None
        return connection

    def _unconnected(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self.timeout_seconds)
        try:
            context = ssl.create_default_context(cafile=self._authorities or None)
        except OSError as error:
            message = f"must name a PEM file of authorities: {error.strerror or error}"
            raise InvalidSpec([Problem("--cacert", message, self._authorities)]) from None
        return http.client.HTTPSConnection(self._host, self._port, timeout=self.timeout_seconds, context=context)

    def unreachable(self, error: Exception) -> Unreachable:
        """The sentence for a failure of the connection."""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {error.verify_message}"
            fix = "name the authority's file with --cacert or SSL_CERT_FILE"
            return Unreachable(f"cannot reach {self.what} at {self.base} ({reason}): {fix}")
        if isinstance(error, ConnectionRefusedError):
            reason = "connection refused"
        elif isinstance(error, TimeoutError):
            reason = f"no answer within {self.timeout_seconds:g} s"
        else:
            reason = str(error) or type(error).__name__
        return Unreachable(f"cannot reach {self.what} at {self.base} ({reason}): {self.fix}")

    def exchange(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        send: Callable[[http.client.HTTPConnection], None] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """One request and its complete reply, whatever the status. `send` writes a body that does not fit memory."""
        connection = self.connect()
        try:
            self.start(connection, method, path, headers or {}, body)
            if send is not None:
                send(connection)
            return self._reply(connection)
        except (OSError, http.client.HTTPException) as error:
            early = self._early_reply(connection, error)
            if early is not None:
                return early
            raise self.unreachable(error) from None
        finally:
            connection.close()

    def start(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> None:
        """Send the head, and the body where it is in memory."""
        connection.putrequest(method, self._prefix + path)
        connection.putheader("User-Agent", "tidegate-cli")
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in {**self._always, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)

    def _reply(self, connection: http.client.HTTPConnection) -> Reply:
        response = connection.getresponse()
        with response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, response.reason, headers, response.read())

    def _early_reply(self, connection: http.client.HTTPConnection, error: Exception) -> Reply | None:
        """A server may refuse a long body before it has read it all: its answer counts, not the broken pipe."""
        if not isinstance(error, BrokenPipeError | ConnectionResetError):
            return None
        try:
            return self._reply(connection)
        except (OSError, http.client.HTTPException):
            return None


class ControlPlane(HttpPeer):
    """The control plane's REST API."""

    def __init__(
        self, base: str = DEFAULT_URL, *, token: str = "", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`token` goes along with every request; empty: none. Raises `BadUrl`."""
        fix = "start it with `tidegate up`, or set TIDEGATE_URL to where it runs"
        login = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(base, what="the control plane", fix=fix, always=login)
        self.sleep = sleep

    def call(self, method: str, path: str, document: Any = None, *, headers: Mapping[str, str] | None = None) -> Reply:
        """One JSON request; raises `Refused` for 400 and above."""
        body = None if document is None else json.dumps(document).encode()
        sent = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        reply = self.exchange(method, path, headers=sent, body=body)
        if reply.status >= 400:
            raise refusal(reply)
        return reply

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return self.call("GET", path).json()

    def find(self, path: str) -> Reply | None:
        """The reply at `path`, or None when there is nothing."""
        try:
            return self.call("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def modify(
        self, path: str, change: Callable[[dict[str, Any]], dict[str, Any]], *, query: str = ""
    ) -> tuple[Reply, dict[str, Any]]:
        """GET, `change`, PUT only if nobody else wrote in between; again when somebody did.

        Returns the reply to the PUT and the document that was sent.
        """
        wait = RETRY_SECONDS
        for attempt in range(CONFLICT_RETRIES):
            current = self.call("GET", path)
            document = change(current.json())
            try:
                etag = current.headers.get("etag", "*")
                return self.call("PUT", path + query, document, headers={"If-Match": etag}), document
            except Refused as error:
                if error.status != 412 or attempt == CONFLICT_RETRIES - 1:
                    raise
            self.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of a streamed answer, as they come; without a deadline between them."""
        connection = self.connect()
        try:
            self.start(connection, "GET", path, {"Accept": "application/x-ndjson"}, None)
            response = connection.getresponse()
            with response:
                if response.status >= 400:
                    headers = {name.lower(): value for name, value in response.getheaders()}
                    raise refusal(Reply(response.status, response.reason, headers, response.read()))
                if connection.sock is not None:
                    connection.sock.settimeout(None)
                for line in response:
                    if line.strip():
                        yield line
        except (OSError, http.client.HTTPException) as error:
            raise self.unreachable(error) from None
        finally:
            connection.close()
