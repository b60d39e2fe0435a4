"""Where the control plane is, and what we show it: the environment first, then a file of the user's.

The file's token goes to the file's address alone: whoever names another address names its token too.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.cli.client import DEFAULT_URL
from router.contract.errors import InvalidSpec, Problem
from router.runtime.given import Given, Secret

_KEYS = ("url", "token", "token_file")
_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Contact:
    """One control plane."""

    url: str
    token: Secret
    """Empty: none."""


def contact(environ: Mapping[str, str] = os.environ) -> Contact:
    """Of `TIDEGATE_URL` and `TIDEGATE_CONTROL_TOKEN(_FILE)`, else of the user's file. Raises `InvalidSpec`."""
    given = Given("TIDEGATE_CONTROL_", environ)
    token = _first_line(given.optional_secret("TOKEN"))
    if given.problems:
        raise InvalidSpec(given.problems)
    named = environ.get("TIDEGATE_URL", "")
    if token:
        return Contact(named or _known(environ).url or DEFAULT_URL, token)
    known = _known(environ)
    if named and named.rstrip("/") != known.url.rstrip("/"):
        return Contact(named, Secret(""))
    return Contact(known.url or DEFAULT_URL, known.token)


def file_of(environ: Mapping[str, str]) -> Path:
    """`$TIDEGATE_CONFIG`, else `tidegate/config.toml` in the user's folder for such files."""
    if environ.get("TIDEGATE_CONFIG"):
        return Path(environ["TIDEGATE_CONFIG"])
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config"
    return Path(base) / "tidegate" / "config.toml"


def _known(environ: Mapping[str, str]) -> Contact:
    """What the user's file says; nothing where there is none."""
    path = file_of(environ)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if environ.get("TIDEGATE_CONFIG"):
            raise InvalidSpec([Problem("TIDEGATE_CONFIG", "names a file that is not there", str(path))]) from None
        return Contact("", Secret(""))
    except OSError as error:
        raise InvalidSpec([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    try:
        found = tomllib.loads(text.decode())
    except ValueError as error:
        raise InvalidSpec([Problem(str(path), f"must be TOML: {error}")]) from None
    return _read(path, found)


def _read(path: Path, found: Mapping[str, Any]) -> Contact:
    problems = [
        Problem(f"{path}: {key}", f"unknown key; known here: {', '.join(_KEYS)}") for key in found if key not in _KEYS
    ]
    problems += [
        Problem(f"{path}: {key}", "must be text", found[key])
        for key in _KEYS
        if key in found and not isinstance(found[key], str)
    ]
    if "token" in found and path.stat().st_mode & _OTHERS:
        problems.append(Problem(str(path), f"holds a token that others may read: chmod 600 {path}"))
    if problems:
        raise InvalidSpec(problems)
    named = found.get("token_file")
    beside = {
        "TOKEN": found.get("token", ""),
        "TOKEN_FILE": str(path.parent / Path(named).expanduser()) if named else "",
    }
    given = Given("", beside)
    token = _first_line(given.optional_secret("TOKEN"))
    if given.problems:
        raise InvalidSpec([Problem(f"{path}: {one.field.lower()}", one.message, one.value) for one in given.problems])
    return Contact(found.get("url", ""), token)


def _first_line(text: str) -> Secret:
    """The newest of several tokens."""
    return Secret(next((line.strip() for line in text.splitlines() if line.strip()), ""))
