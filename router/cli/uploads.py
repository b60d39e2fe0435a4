"""`tidegate asset …`: files on their way to where objects and documents name them as `asset:<sha256>`."""

from __future__ import annotations

from pathlib import Path

from router.cli.drafts import send
from router.cli.session import Session
from router.contract.errors import InvalidSpec, Problem


def upload(session: Session) -> None:
    """Send a file or folder, unless it is there already; the answer says what to write."""
    flags = session.flags
    path = Path(flags.path).expanduser()
    if not path.exists():
        raise InvalidSpec([Problem("path", "a file or folder that exists", flags.path)])
    asset = send(session, path.resolve(), named=flags.model and path.is_dir())
    session.answer({
        "reference": asset.reference, "sha256": asset.sha256, "size_bytes": asset.size, "path": str(path),
    })  # fmt: skip
