"""The sizes of a bench on its command line: a flag for each, and what comes of them."""

from __future__ import annotations

import sys
import time
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

    Sizes = TypeVar("Sizes", bound=DataclassInstance)


def add_size_arguments(
    parser: argparse.ArgumentParser, sizes: type[DataclassInstance], words: Mapping[str, str]
) -> None:
    """A flag for each field of `sizes`, numbers all, and `--quick`; `words` say what each is."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not what it measures")
    for one in fields(sizes):
        kind = int if one.type == "int" else float
        flag, default = f"--{one.name.replace('_', '-')}", f"(default: {one.default})"
        parser.add_argument(flag, type=kind, metavar="N", help=f"{words[one.name]} {default}")


def chosen(options: argparse.Namespace, usual: Sizes, quick: Sizes) -> Sizes:
    """`usual`, or with `--quick` the other, with what was given by flags."""
    base = quick if options.quick else usual
    given = {one.name: getattr(options, one.name) for one in fields(base)}
    return type(base)(**{name: getattr(base, name) if value is None else value for name, value in given.items()})


def progress(started: float) -> Callable[[str], None]:
    """Prints words behind the seconds since `started` (monotonic), on standard error."""

    def say(words: str) -> None:
        print(f"  {time.monotonic() - started:4.0f} s  {words}", file=sys.stderr, flush=True)

    return say
