"""A model server with its own routes: a word-pair Markov model that streams its tokens as server-sent events.

POST /v1/completions {"prompt": "the tide", "max_tokens": 20, "stream": true}
"""

import argparse
import json
import os
import random
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECONDS_PER_TOKEN = 0.02


def learn(text):
    """(word, word) → the words seen after the pair."""
    words = text.split()
    table = defaultdict(list)
    for first, second, third in zip(words, words[1:], words[2:]):
        table[first, second].append(third)
    return table


def generate(table, prompt, count, seed):
    """`count` words that follow `prompt`, drawn from the table; starts anywhere when the prompt is unknown."""
    chance = random.Random(seed)
    pair = tuple(prompt.split()[-2:])
    for _ in range(count):
        if pair not in table:
            pair = chance.choice(sorted(table))
        word = chance.choice(table[pair])
        pair = (pair[1], word)
        yield word


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/healthz" else 404, {"status": "ok"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = generate(TABLE, body.get("prompt", ""), int(body.get("max_tokens", 16)), body.get("seed", 0))
        if not body.get("stream"):
            self.answer(200, {"text": " ".join(words)})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in words:
            self.event(json.dumps({"token": word}))
            time.sleep(SECONDS_PER_TOKEN)
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data):
        chunk = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.flush()

    def answer(self, status, value):
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format, *args):
        print(f"{self.address_string()} {format % args}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    flags = parser.parse_args()
    TABLE = learn((Path(os.environ["AZUREML_MODEL_DIR"]) / "corpus" / "text.txt").read_text())
    server = ThreadingHTTPServer((flags.host, flags.port), Handler)
    server.daemon_threads = True
    server.serve_forever()
