"""A small model server for tests, standard library only: `backend_server.py PORT [--host H] [--fail] [--lines N] …`."""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    healthy = True

    def do_GET(self):  # type: ignore[no-untyped-def]
        status, body = 200, "ok"
        if self.path == "/pid":
            body = str(os.getpid())
        elif self.path == "/die":
            os._exit(9)
        elif self.path == "/sick":
            Handler.healthy = False
        elif self.path == "/well":
            Handler.healthy = True
        elif self.path == "/env":
            body = "\n".join(f"{name}={value}" for name, value in os.environ.items())
        elif self.path.startswith("/health"):
            status = 200 if Handler.healthy else 500
        elif self.path == "/cwd":
            body = os.getcwd()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):  # type: ignore[no-untyped-def]
        pass


def main() -> None:
    words = sys.argv[1:]
    if "--fail" in words:
        os.write(2, b"cannot load the weights\n")
        sys.exit(3)
    if "--children" in words and os.fork() == 0:  # one in a session of its own, deaf to SIGTERM
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    if "--deaf" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--eat" in words:
        eaten = bytearray(int(words[words.index("--eat") + 1]) << 20)
        eaten[::4096] = bytes([1]) * len(eaten[::4096])
    if "--lines" in words:
        for number in range(int(words[words.index("--lines") + 1])):
            os.write(1, b"line %d %s\n" % (number, b"x" * 80))
    os.write(1, b"listening\n")
    host = words[words.index("--host") + 1] if "--host" in words else "127.0.0.1"
    ThreadingHTTPServer((host, int(words[0])), Handler).serve_forever()


if __name__ == "__main__":
    main()
