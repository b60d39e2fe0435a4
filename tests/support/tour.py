"""The README's tour as commands and what they are said to print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One typed command and its printed output; `…` in a line of the output stands for any text, alone on a line for any lines."""

    command: str
    output: tuple[str, ...]

    def mismatch(self, printed: str) -> str:
        """Empty when `printed` is what the page says; else both."""
        lines = [line.rstrip() for line in printed.strip("\n").split("\n")] if printed.strip() else []
        pattern = "".join(_ANY_LINES if line == "…" else _line(line) for line in self.output)
        if re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)):
            return ""
        return "the page says:\n    {}\n  it printed:\n    {}".format("\n    ".join(self.output), "\n    ".join(lines))


_ANY_LINES = "(?:.*\n)*?"


def _line(text: str) -> str:
    return ".*".join(map(re.escape, text.split("…"))) + "\n"


def steps(page: Path = README) -> list[Step]:
    """Every `$ command` of the page's console blocks, in order."""
    found = []
    for block in _BLOCK.findall(page.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.rstrip("\n").split("\n")
            command = lines.pop(0)
            while command.endswith("\\"):
                command = command[:-1] + lines.pop(0)
            found.append(Step(command, tuple(line.rstrip() for line in lines)))
    return found
