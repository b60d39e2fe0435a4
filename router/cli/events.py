"""`tidegate events TOPIC`: the log, one JSON object a line."""

from __future__ import annotations

import sys
from urllib.parse import urlencode

from router.cli.client import path_of
from router.cli.session import Session


def events(session: Session) -> None:
    """Print the lines as the control plane sends them; with `--follow` until interrupted."""
    flags = session.flags
    query = {"follow": "true" if flags.follow else "false"}
    if flags.tail is not None:
        query["tail"] = str(flags.tail)
    for line in session.control.lines(f"{path_of('events', flags.topic)}?{urlencode(query)}"):
        sys.stdout.buffer.write(line.rstrip(b"\r\n") + b"\n")
        if flags.follow:
            sys.stdout.buffer.flush()
