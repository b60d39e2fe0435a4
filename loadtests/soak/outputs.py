"""What processes say of themselves that nobody should have to read."""

from __future__ import annotations

import re
from pathlib import Path

_ERROR = re.compile(
    r"Traceback|\bERROR\b|\"level\": ?\"(error|critical)\"|never retrieved|was never awaited", re.IGNORECASE
)
_MOST = 20


def errors_in(outputs: list[Path]) -> list[str]:
    """Tracebacks and errors, each with the lines behind it."""
    found = []
    for output in outputs:
        lines = output.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if _ERROR.search(line):
                found.append(f"{output.name}:{number + 1}: {' | '.join(lines[number : number + 12])[:1500]}")
    return found[:_MOST]
