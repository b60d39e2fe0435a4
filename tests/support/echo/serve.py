"""A model server for tests: answers with its deployment's name, after `delay` seconds if the request asks for them."""

import argparse
import asyncio
import json
import os


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = json.loads(body) if body else {}
            await asyncio.sleep(asked.get("delay", 0))
            text = json.dumps(
                {"model": os.environ.get("MODEL_NAME", "?"), "echo": asked.get("echo"), "pid": os.getpid()}
            )
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(text), text.encode())
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the caller left
    finally:
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", required=True)
    flags = parser.parse_args()
    server = await asyncio.start_server(answer, flags.host, flags.port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
