"""`online-endpoint invoke`: one request to the scoring address; the answer is printed as it arrives."""

from __future__ import annotations

import contextlib
import http.client
import sys
from pathlib import Path
from urllib.parse import urlsplit

from router.cli.client import HttpPeer, Refused, path_of
from router.cli.session import Session
from router.contract.errors import InvalidSpec, Problem

TIMEOUT_SECONDS = 660.0
"""Longer than the longest request timeout plus the longest wait for a first replica."""
CHUNK_BYTES = 1 << 16


def read_request(file: str) -> bytes:
    """The body to send."""
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidSpec([Problem("--request-file", f"a file that can be read: {error.strerror}", file)]) from None


def send(session: Session) -> int:
    """Ask for address and key, POST the file, print the body; 1 when the endpoint answers with an error."""
    flags = session.flags
    body = read_request(flags.request_file)
    endpoint = session.control.get(path_of("endpoints", flags.name))
    keys = session.control.call("POST", path_of("endpoints", flags.name, "keys", "list"), {}).json()
    headers = {"Content-Type": flags.content_type, "Authorization": f"Bearer {keys['primaryKey']}"}
    if flags.deployment_name:
        headers["azureml-model-deployment"] = flags.deployment_name
    url = urlsplit(endpoint["scoring_uri"])
    fix = "is the gateway running (`tidegate up`)?"
    gateway = HttpPeer(
        f"{url.scheme}://{url.netloc}",
        what="the endpoint",
        fix=fix,
        timeout_seconds=TIMEOUT_SECONDS,
        authorities=flags.cacert or "",
    )
    path = url.path + (f"?{url.query}" if url.query else "")
    session.detail(f"POST {endpoint['scoring_uri']}, {len(body)} bytes")
    return _exchange(session, gateway, path, headers, body)


def _exchange(session: Session, gateway: HttpPeer, path: str, headers: dict[str, str], body: bytes) -> int:
    connection = gateway.connect()
    try:
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it read all
                gateway.start(connection, "POST", path, headers, body)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise gateway.unreachable(error) from None
        with response:
            try:
                return _print(session, response)
            except (http.client.HTTPException, ConnectionResetError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                raise Refused(502, "IncompleteAnswer", f"the answer broke off: {reason}") from None
    finally:
        connection.close()


def _print(session: Session, response: http.client.HTTPResponse) -> int:
    if response.status >= 300:
        session.error(f"{response.status} {response.reason}")
        sys.stderr.write(response.read().decode(errors="replace").rstrip("\n") + "\n")
        return 1
    if session.flags.output or session.flags.query:
        _answer(session, response.read())
        return 0
    last = b"\n"
    while data := response.read1(CHUNK_BYTES):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        last = data
    if not last.endswith(b"\n"):
        sys.stdout.write("\n")
    return 0


def _answer(session: Session, body: bytes) -> None:
    import json

    try:
        value = json.loads(body)
    except ValueError:
        if session.flags.query:
            raise Refused(502, "BadGateway", "--query needs an answer in JSON; this one is not") from None
        value = body.decode(errors="replace")
    session.answer(value)
