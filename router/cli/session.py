"""One run of the command: its flags, its streams, its control plane."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from router.cli.output import render, select
from router.contract.errors import Problem, TidegateError

if TYPE_CHECKING:
    from router.cli.client import ControlPlane  # `tidegate up` needs no client


class NotConfirmed(TidegateError):
    """Something would be destroyed and nobody said yes."""

    code = "NotConfirmed"
    status = 400


class Session:
    """What handlers get."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self._control: ControlPlane | None = None

    @property
    def control(self) -> ControlPlane:
        """The control plane that TIDEGATE_URL or the user's file names."""
        if self._control is None:
            from router.cli.client import ControlPlane
            from router.cli.contacts import contact

            found = contact()
            self._control = ControlPlane(found.url, token=found.token)
        return self._control

    @property
    def quiet(self) -> bool:
        """Whether only errors may be said."""
        return bool(getattr(self.flags, "only_show_errors", False))

    def answer(self, value: Any) -> None:
        """Print the command's result, as `--query` and `--output` say."""
        form = self.flags.output or "json"
        chosen = select(value, self.flags.query)
        sys.stdout.write(render(chosen, form, colour=sys.stdout.isatty()))

    def print(self, text: str) -> None:
        """One line of plain output."""
        print(text, flush=True)

    def note(self, text: str) -> None:
        """Something worth knowing that is no error."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Something only `--verbose` wants."""
        if getattr(self.flags, "verbose", False):
            self.note(text)

    def warn(self, warnings: Iterable[Problem]) -> None:
        """Known keys that have no effect, and the like."""
        for warning in warnings:
            self.note(f"warning: {warning}")

    def error(self, text: str) -> None:
        """One line about what went wrong."""
        print(f"error: {text}", file=sys.stderr, flush=True)

    def confirm(self, question: str) -> None:
        """Ask, unless `--yes` was given; raises `NotConfirmed` for anything but yes."""
        if self.flags.yes:
            return
        if not sys.stdin.isatty():
            raise NotConfirmed(f"{question} Nobody can be asked here: add --yes")
        print(f"{question} (y/n): ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise NotConfirmed("not confirmed; nothing was changed")
