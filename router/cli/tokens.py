"""`tidegate token`: secrets that nobody can guess, made where they are needed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from router.cli.session import Session
from router.contract.errors import TidegateError
from router.runtime.login import new_token


class NotWritten(TidegateError):
    """The file cannot be had."""

    code = "CannotWrite"


def token(session: Session) -> None:
    """Print a new token; or put one into each file that has none yet, readable by its owner alone."""
    files: list[Path] = session.flags.files
    if not files:
        session.print(new_token())
    for path in files:
        try:
            made = write(path)
        except OSError as error:
            raise NotWritten(f"{path}: {error.strerror or error}") from None
        session.note(f"{path} holds a new token" if made else f"{path} is there already and stays as it is")


def write(path: Path) -> bool:
    """Make `path` with a new token in it, whole or not at all; returns False when it is there already."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(f"{new_token()}\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)  # unlike a rename, it does not replace one that came meanwhile
            return True
    finally:
        new.unlink()
    return False
