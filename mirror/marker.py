"""The mark that tells a replica it is looking at a shadow: `<request id>.<HMAC-SHA256 over request id and candidate>`.

Outsiders cannot make one without the key, and one made for a candidate is worth nothing at another.
"""

from __future__ import annotations

import functools
import hmac
import os
import secrets
from pathlib import Path

HEADER = "x-tidegate-shadow"
_KEY_BYTES = 32


def load_key(path: Path) -> bytes:
    """The signing key; made, readable by its owner alone, when there is none yet. Raises `OSError`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_KEY_BYTES))
        os.fsync(handle)
        os.link(fresh, path)  # whole or not at all, and never over another's key
    except FileExistsError:
        pass
    finally:
        os.close(handle)
        os.unlink(fresh)
    return path.read_bytes()


@functools.lru_cache(maxsize=4)
def _keyed(key: bytes) -> hmac.HMAC:
    # To be copied: `hmac.digest` has the algorithm looked up anew each time, which takes seven times as long as all else.
    return hmac.new(key, digestmod="sha256")


def _signature(key: bytes, request_id: str, candidate: str) -> str:
    signing = _keyed(key).copy()
    signing.update(f"{request_id}\0{candidate}".encode("utf-8", "surrogatepass"))
    return signing.hexdigest()


def sign(key: bytes, request_id: str, candidate: str) -> str:
    """The marker header's value for one shadow."""
    return f"{request_id}.{_signature(key, request_id, candidate)}"


def verify_marker(key: bytes, header: str, candidate: str) -> bool:
    """Whether `header` was signed with `key` for the (lower-case) deployment `candidate`."""
    request_id, _, signature = header.rpartition(".")
    return hmac.compare_digest(
        signature.encode("utf-8", "surrogatepass"), _signature(key, request_id, candidate).encode()
    )
