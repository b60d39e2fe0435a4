"""Who may ask the control plane for what: `TIDEGATE_CONTROL_*`, and `TIDEGATE_ASSETS_KEY` for single files.

An operator's token opens everything, a token for metrics opens `/metrics`. A file may hold several tokens, one in each line, all
of which are good: so they are exchanged without a moment in which neither is. It is read again when it changes, as a mounted
Secret does. No secret stands on a command line or in a message.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.contract.errors import InvalidSpec, Problem
from router.runtime.credentials import is_loopback
from router.runtime.given import Given, Secret
from router.runtime.telemetry import Limited

_LOG = logging.getLogger(__name__)

PREFIX = "TIDEGATE_CONTROL_"
TOKEN = f"{PREFIX}TOKEN_FILE"
ASSETS_PREFIX = "TIDEGATE_ASSETS_"
ASSETS_KEY, ASSETS_KEY_FILE = f"{ASSETS_PREFIX}KEY", f"{ASSETS_PREFIX}KEY_FILE"
LEAST_TOKEN = 16
"""Characters: less could be guessed."""
MAKE = "`tidegate token` makes one"
_SAY_SECONDS = 60.0


def new_token() -> str:
    """256 random bits in hex."""
    return secrets.token_hex(32)


class Tokens:
    """Secrets of one kind, any of which is good. The first is the newest."""

    def __init__(self, values: Sequence[Secret] = (), file: Path | None = None) -> None:
        """`file`: where they came from, and may change."""
        self._values = tuple(values)
        self._file = file
        self._seen = _version(file)
        self._say = Limited(_LOG, seconds=_SAY_SECONDS)

    def __bool__(self) -> bool:
        return bool(self._values)

    def current(self) -> tuple[Secret, ...]:
        """All that are good now. A file that cannot be used any more leaves those of before."""
        if self._file is not None and (seen := _version(self._file)) != self._seen:
            given = Given("", {"TOKEN_FILE": str(self._file)})
            values = _lines(given, "TOKEN")
            if given.problems:
                problem = str(given.problems[0])
                self._say.error("tokens", "a file of tokens cannot be used; those of before stay good", problem=problem)
            else:
                self._values, self._seen = values, seen
        return self._values

    def know(self, shown: str) -> bool:
        """Whether `shown` is one of them. Takes as long for any text."""
        given = shown.encode("utf-8", "surrogateescape")
        return any([hmac.compare_digest(given, one.encode()) for one in self.current()])  # noqa: C419 -- all of them, always


@dataclass(frozen=True, slots=True)
class Login:
    """What the control plane asks of its callers."""

    operators: Tokens
    """Open everything; none: nobody is asked, which is for the loopback alone."""
    metrics: Tokens
    """Open `/metrics`."""
    assets: Tokens
    """Keys that sign the addresses of single files."""


def nobody_is_asked() -> Login:
    """For a control plane that only its own machine reaches."""
    return Login(Tokens(), Tokens(), Tokens())


def for_control(host: str, environ: Mapping[str, str] = os.environ) -> Login:
    """Of a control plane that listens on `host`. Raises `InvalidSpec` with every problem."""
    given = Given(PREFIX, environ)
    found = Login(_tokens(given, "TOKEN"), _tokens(given, "METRICS_TOKEN"), Tokens())
    keys = Given(ASSETS_PREFIX, environ)
    assets = _tokens(keys, "KEY")
    problems = [*given.problems, *keys.problems]
    if not found.operators and not problems:
        for prefix, name, there in ((PREFIX, "METRICS_TOKEN", found.metrics), (ASSETS_PREFIX, "KEY", assets)):
            if there:
                message = f"has no effect without {TOKEN}: name a file with the operators' token there ({MAKE}), or unset this"
                problems.append(Problem(prefix + name, message))
    if problems:
        raise InvalidSpec(problems)
    login = Login(found.operators, found.metrics, assets)
    check_reach(host, login)
    return login


def check_reach(host: str, login: Login) -> None:
    """Raises `InvalidSpec` when whoever reaches `host` from another machine would own the endpoints."""
    if login.operators or is_loopback(host):
        return
    message = (
        "the control plane needs a token where other machines can connect: put one into a file and name it in "
        f"{TOKEN}, here and for every command line ({MAKE}); or listen on 127.0.0.1"
    )
    raise InvalidSpec([Problem("host", message, host)])


def signing_key(environ: Mapping[str, str] = os.environ) -> Secret:
    """The newest key that signs the addresses of files; empty: none. Raises `InvalidSpec`."""
    given = Given(ASSETS_PREFIX, environ)
    found = _tokens(given, "KEY").current()
    if given.problems:
        raise InvalidSpec(given.problems)
    return found[0] if found else Secret("")


def _tokens(given: Given, name: str) -> Tokens:
    path = given.text(f"{name}_FILE")
    return Tokens(_lines(given, name), Path(path) if path else None)


def _lines(given: Given, name: str) -> tuple[Secret, ...]:
    values = tuple(Secret(line.strip()) for line in given.optional_secret(name).splitlines() if line.strip())
    named = f"{name}_FILE" if given.text(f"{name}_FILE") else name
    for one in values:
        if not (one.isascii() and one.isprintable() and " " not in one):
            given.wrong(named, f"must hold visible ASCII characters alone, one token in a line; {MAKE}")
        elif len(one) < LEAST_TOKEN:
            given.wrong(named, f"must hold at least {LEAST_TOKEN} characters in a line; {MAKE}")
    if not values and given.text(named) and not given.problems:
        given.wrong(named, f"must hold a token; {MAKE}")
    return values


def _version(file: Path | None) -> tuple[int, int, int] | None:
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
