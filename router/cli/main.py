"""The `tidegate` command: parse, run one handler, turn every failure into a line on stderr and an exit status.

0: done; 1: the command failed; 2: the command line is wrong; 130: interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from router.cli.parser import IGNORED, build_parser
from router.cli.session import Session
from router.contract.errors import InvalidSpec, TidegateError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    flags = build_parser().parse_args(arguments)
    session = Session(flags)
    if getattr(flags, "local", False):
        session.error("--local is not needed: `tidegate up` runs deployments on this machine; leave it out")
        return 2
    for dest, names in IGNORED.items():
        if getattr(flags, dest, None) is not None:
            session.note(f"{names[-1]} has no meaning here and is ignored")
    module, _, function = flags.handler.partition(":")
    try:
        status: int = getattr(importlib.import_module(module), function)(session) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has seen enough, as `head` does. Nothing may be flushed at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except TidegateError as error:
        if getattr(flags, "debug", False):
            traceback.print_exc()
        report(session, error)
        return 1
    return status


def report(session: Session, error: TidegateError) -> None:
    """One line per problem, else the code and the message."""
    if isinstance(error, InvalidSpec) and error.problems:
        for problem in error.problems:
            session.error(str(problem))
        return
    session.error(f"({error.code}) {error.message}")


def version(session: Session) -> None:
    """`tidegate version`."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        session.print(installed("tidegate"))
    except PackageNotFoundError:
        session.print("unknown: tidegate runs from a folder without being installed")


if __name__ == "__main__":
    sys.exit(main())
