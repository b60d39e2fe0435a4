"""The corpus of raw HTTP in `tests/corpus`: how its files are read.

A file holds cases of one idea. `== name | verdict` begins one; in files of answers `== name | how | verdict`. The lines
behind it are its bytes, put together without line ends: `\\r \\n \\t \\0 \\\\ \\xNN` are escapes, `{word}` stands for what
`WORDS` says and `{text*N}` repeats. Lines that begin with `+ ` and `- ` name fields that the last message that passes
must have, or must not have; `#` begins a remark.

Verdict of a request file, parts between `;`:
    POST /score length=hello    exactly this reaches the replica, framed so (`none`, `length=`, `chunked=`), and is answered 200
    404 kept                    answered by the gateway itself; the connection goes on
    400                         the same; the connection ends, and nothing more of its bytes is read
    ends                        (last) the caller shuts its sending side behind these bytes
    closes                      (last) the connection ends with the last answer: what comes behind is not read
    whole                       (last) true where all of it comes at once: a refusal does not wait for a body

Verdict of an answer file (`how`: `HEAD` request, `old` HTTP/1.0 caller, `closes` the replica ends the connection):
    103, 200 length=x kept      what the caller gets; `kept` or `fresh` says whether the replica's connection is used again
    502                         nothing of it reaches the caller
    cut                         the answer begins and breaks off, so that nobody can take it for a whole one
    502 or cut                  the one where all of it comes at once, the other where its begin has passed already
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.gateway_rig import KEY

FOLDER = Path(__file__).parents[1] / "corpus"
_LINE = "{} /endpoints/demo/score HTTP/1.{}\r\n"
_AUTH = f"Authorization: Bearer {KEY}\r\n"
WORDS = {
    "auth": _AUTH,
    "post": _LINE.format("POST", 1) + "Host: gateway\r\n" + _AUTH,
    "get": _LINE.format("GET", 1) + "Host: gateway\r\n" + _AUTH,
    "head": _LINE.format("HEAD", 1) + "Host: gateway\r\n" + _AUTH,
    "old": _LINE.format("POST", 0) + _AUTH,
    "hello": "Content-Length: 5\r\n\r\nhello",
    "chunked": _LINE.format("POST", 1) + "Host: gateway\r\n" + _AUTH + "Transfer-Encoding: chunked\r\n\r\n",
    "ok": "HTTP/1.1 200 OK\r\n",
    "okc": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|(.))")
_PLAIN = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_REPEAT = re.compile(r"\{([^{}]*)\*(\d+)\}")
_WORD = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True)
class Passed:
    """A request that reaches the replica."""

    method: str
    target: str
    framing: str
    body: bytes


@dataclass(frozen=True)
class Own:
    """An answer of the gateway's own."""

    status: int
    kept: bool


@dataclass(frozen=True)
class Case:
    """Bytes, and what must become of them."""

    file: str
    name: str
    raw: bytes
    how: frozenset[str]
    verdict: str
    has: tuple[tuple[str, bytes], ...]
    lacks: tuple[str, ...]

    @property
    def id(self) -> str:
        """As a test is named by it."""
        return f"{self.file}: {self.name}"

    @property
    def _parts(self) -> list[str]:
        return [part.strip() for part in self.verdict.split(";")]

    @property
    def ends(self) -> bool:
        """Whether the caller shuts its sending side."""
        return self._parts[-1] == "ends"

    @property
    def steps(self) -> list[Passed | Own]:
        """What a request file's verdict says, one after the other."""
        return [_step(part) for part in self._parts if part not in ("ends", "closes", "whole")]

    @property
    def whole(self) -> bool:
        """Whether it must not be cut."""
        return self._parts[-1] == "whole"

    @property
    def closes(self) -> bool:
        """Whether the gateway ends the connection by itself."""
        last = self.steps[-1] if self.steps else None
        return self._parts[-1] == "closes" or (isinstance(last, Own) and not last.kept)


def unescaped(text: str) -> bytes:
    """The bytes that a line stands for."""
    text = _WORD.sub(lambda found: WORDS[found[1]], text)
    text = _REPEAT.sub(lambda found: found[1] * int(found[2]), text)
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _PLAIN[found[2]], text).encode("latin-1")


def _step(text: str) -> Passed | Own:
    first, _, rest = text.partition(" ")
    if first.isdigit():
        assert rest in ("", "kept"), text
        return Own(int(first), rest == "kept")
    target, _, framing = rest.partition(" ")
    kind, _, body = framing.partition("=")
    assert kind in ("none", "length", "chunked"), text
    return Passed(first, target, kind, unescaped(body))


def cases(kind: str) -> list[Case]:
    """Every case of `requests` or `answers`."""
    return [case for path in sorted((FOLDER / kind).glob("*.txt")) for case in _read(path)]


def _read(path: Path) -> list[Case]:
    found: list[Case] = []
    for block in re.split(r"^== ", path.read_text(), flags=re.MULTILINE)[1:]:
        title, *lines = [line for line in block.split("\n") if line and not line.startswith("#")]
        name, *columns = [part.strip() for part in title.split("|")]
        assert len(columns) == (2 if path.parent.name == "answers" else 1), f"{path.name}: {title}"
        raw = "".join(line for line in lines if line[:2] not in ("+ ", "- "))
        has = [line[2:].partition(": ") for line in lines if line.startswith("+ ")]
        lacks = tuple(line[2:] for line in lines if line.startswith("- "))
        how = frozenset(columns[0].split()) if len(columns) == 2 else frozenset()
        pairs = tuple((key, unescaped(value)) for key, _, value in has)
        found.append(Case(path.stem, name, unescaped(raw), how, columns[-1], pairs, lacks))
    return found
