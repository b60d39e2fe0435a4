"""A control plane that answers from a script, on a real socket: what the command sends is kept, in order."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """One answer to give."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeControlPlane:
    """Answers (method, path without query) from `answers`: a list is used up in order, its last item stays."""

    url: str
    requests: list[Request] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)

    def sent(self, method: str, path: str) -> list[Request]:
        """The requests to one address, query ignored."""
        return [r for r in self.requests if r.method == method and r.path.partition("?")[0] == path]

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        script = self.answers.get((request.method, request.path.partition("?")[0]))
        if not script:
            message = f"nothing at {request.method} {request.path}"
            return Answer(404, {"error": {"code": "ResourceNotFound", "message": message}})
        return script.pop(0) if len(script) > 1 else script[0]


@contextlib.contextmanager
def fake_control_plane() -> Iterator[FakeControlPlane]:
    """A running one, on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = plane.answer(Request(self.command, self.path, headers, body))
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve  # noqa: N815 -- the names http.server looks for

        def log_message(self, *_: object) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        plane = FakeControlPlane(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield plane
        finally:
            server.shutdown()
            thread.join()
