"""Coverage-guided fuzzing of everything that reads HTTP: `python -m tests.fuzz requests|answers|http2|frames [libFuzzer's options]`.

An input's first byte says how it is cut and asked, the rest are a caller's or a replica's bytes. What must hold is in
`tests.support.http_differential`. The inputs that are kept in `corpus` are run by the tests too, without this.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["router.policy", "router.gateway", "router.runtime.http2"]):
    from tests.support.gateway_memory import memory_gateway
    from tests.support.http_inputs import CHECKS


def main() -> None:
    """Run until the arguments say that it is enough; an input that breaks something ends it."""
    check = CHECKS[sys.argv.pop(1)]
    logging.disable()
    loop = asyncio.new_event_loop()
    folder = tempfile.TemporaryDirectory(prefix="tidegate-fuzz-")
    alive = memory_gateway(Path(folder.name), open_to_all=True)
    memory = loop.run_until_complete(alive.__aenter__())
    atheris.Setup(sys.argv, lambda data: loop.run_until_complete(check(memory, data)))
    atheris.Fuzz()


main()
