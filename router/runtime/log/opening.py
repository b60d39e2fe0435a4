"""From a log's URL to the log: `embedded:DIR`. The one place that knows which implementations there are."""

from __future__ import annotations

from pathlib import Path

from router.contract.errors import InvalidSpec, Problem, Unavailable
from router.runtime.log.base import Log

FORMS = ("embedded:DIR",)


def open_log(url: str) -> Log:
    """Open the log that `url` names. Raises `InvalidSpec` for a URL nobody can mean, `Unavailable` when it won't open."""
    folder = check_url(url)
    # Imported here, because a process opens one kind of log and should not carry the others.
    from router.runtime.log.embedded import EmbeddedLog

    return EmbeddedLog(folder)


def check_url(url: str) -> Path:
    """The folder of the log that `url` names, without opening it. Raises as `open_log` does."""
    scheme, _, rest = url.partition(":")
    if scheme == "embedded":
        folder = rest.removeprefix("//")
        if not folder:
            raise _invalid(url, "name the folder of the log: embedded:DIR")
        return Path(folder)
    if scheme == "kafka":
        raise Unavailable(
            "a log on Kafka (kafka://…) comes with the next version; until then use embedded:DIR, "
            "a folder on one machine that all processes share"
        )
    raise _invalid(url, f"unknown kind of log; known are {', '.join(FORMS)}")


def _invalid(url: str, message: str) -> InvalidSpec:
    return InvalidSpec([Problem(field="log", message=message, value=url)])
