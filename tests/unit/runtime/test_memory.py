"""What a process may have of the machine's memory, as control groups say it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from router.runtime.memory import give_back, group_limit, resident_bytes


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "300\n", "memory.max": "500\n"}, 300),
        ("0::/a/b\n", {"a/b/memory.max": "max\n"}, None),
        ("0::/elsewhere/outside\n", {"memory.max": "700\n"}, 700),
        ("0::/\n", {"memory.max": "700\n"}, 700),
        (
            "5:cpu:/x\n4:memory:/x\n",
            {"memory/x/memory.limit_in_bytes": "900\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"},
            900,
        ),
        ("0::/a\n", {}, None),
    ],
)
def test_the_least_limit_above_the_process_holds(
    tmp_path: Path, own: str, files: dict[str, str], limit: int | None
) -> None:
    root = written(tmp_path / "groups", files)
    (tmp_path / "own").write_text(own)
    assert group_limit(tmp_path / "own", root) == limit


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert group_limit(tmp_path / "none", tmp_path) is None


def test_memory_in_use_is_told_and_given_back() -> None:
    before = resident_bytes()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert resident_bytes() > before + (32 << 20)
    del block
    assert give_back() in (True, False)


_BURST = """
import json
from router.runtime.memory import keep_freed, resident_bytes

kept = keep_freed() if {keeps} else False
before = resident_bytes()
pieces = [bytes(1) * 220_000 for _ in range({pieces})]
pieces.clear()
print(json.dumps([kept, resident_bytes() - before]))
"""


def after_a_burst(*, keeps: bool, pieces: int, **environment: str) -> tuple[bool, int]:
    """Of a process of its own: whether it keeps what is freed, and how much larger it is than before."""
    program = _BURST.format(keeps=keeps, pieces=pieces)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    kept, rest = json.loads(done.stdout)
    return kept, rest


def test_what_a_burst_has_freed_is_kept_for_the_next_within_a_bound() -> None:
    kept, rest = after_a_burst(keeps=True, pieces=40)
    if not kept:
        pytest.skip("this allocator cannot be told")
    assert rest > 6 << 20
    assert after_a_burst(keeps=False, pieces=40)[1] < 4 << 20
    assert after_a_burst(keeps=True, pieces=400)[1] < 44 << 20  # it was 88 MB


def test_what_the_environment_says_of_the_allocator_stands() -> None:
    assert not after_a_burst(keeps=True, pieces=1, MALLOC_TRIM_THRESHOLD_="1048576")[0]
    assert not after_a_burst(keeps=True, pieces=1, GLIBC_TUNABLES="glibc.malloc.top_pad=65536")[0]
