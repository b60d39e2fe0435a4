"""What a process may have of the machine's memory, as control groups say it."""

from __future__ import annotations

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
