"""The same files make the same bytes, and what does not belong to a model stays at home."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from router.cli.assets import Sink, Unreadable, pack, write_tar
from router.cli.ignoring import IgnoreRules


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def tar_of(source: Path) -> bytes:
    buffer = io.BytesIO()
    write_tar(source, Sink(buffer.write))
    return buffer.getvalue()


def names(source: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar_of(source))) as tar:
        return tar.getnames()


def test_order_times_and_umask_leave_no_trace(tmp_path: Path) -> None:
    files = {"score.py": "x", "lib/b.py": "b", "lib/a.py": "a"}
    one = tree(tmp_path / "one", files)
    two = tree(tmp_path / "two", dict(reversed(files.items())))
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
    (two / "score.py").chmod(0o600)
    assert tar_of(one) == tar_of(two)
    asset = pack(one)
    assert asset.sha256 == hashlib.sha256(tar_of(one)).hexdigest()
    assert asset.size == len(tar_of(one))
    assert asset.reference == f"asset:{asset.sha256}"


def test_one_byte_more_is_another_asset(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", {"score.py": "x"})
    before = pack(folder).sha256
    (folder / "score.py").write_text("y")
    assert pack(folder).sha256 != before


def test_members_carry_neither_owner_nor_time(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", {"run.sh": "x", "a/data.txt": "y"})
    (folder / "run.sh").chmod(0o777)
    with tarfile.open(fileobj=io.BytesIO(tar_of(folder))) as tar:
        found = {m.name: (m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar.getmembers()}
    assert found == {
        "a": (0o755, 0, 0, 0, "", ""),
        "a/data.txt": (0o644, 0, 0, 0, "", ""),
        "run.sh": (0o755, 0, 0, 0, "", ""),
    }


def test_a_single_file_is_named_inside_its_asset(tmp_path: Path) -> None:
    file = tree(tmp_path, {"conda.yml": "name: x"}) / "conda.yml"
    asset = pack(file)
    assert names(file) == ["conda.yml"]
    assert asset.reference == f"asset:{asset.sha256}/conda.yml"


def test_a_named_folder_stands_under_its_name(tmp_path: Path) -> None:
    folder = tree(tmp_path / "model", {".amlignore": "/old", "weights.bin": "w", "old": "x", "deep/old": "kept"})
    buffer = io.BytesIO()
    write_tar(folder, Sink(buffer.write), named=True)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        assert tar.getnames() == ["model", "model/deep", "model/deep/old", "model/weights.bin"]
    asset = pack(folder, named=True)
    assert asset.sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()
    assert asset.reference == f"asset:{asset.sha256}/model"


def test_caches_and_repositories_stay_at_home(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "code",
        {"score.py": "", "__pycache__/score.pyc": "", "lib/__pycache__/x.pyc": "", ".git/HEAD": "", "lib/x.py": ""},
    )
    assert names(folder) == ["lib", "lib/x.py", "score.py"]


def test_amlignore_goes_before_gitignore(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "code",
        {".amlignore": "*.csv\n!keep.csv\n", ".gitignore": "*.py\n", "a.csv": "", "keep.csv": "", "score.py": ""},
    )
    assert names(folder) == ["keep.csv", "score.py"]
    (folder / ".amlignore").unlink()
    assert names(folder) == ["a.csv", "keep.csv"]


@pytest.mark.parametrize(
    ("lines", "path", "folder", "skipped"),
    [
        (["*.log"], "a/b/x.log", False, True),
        (["*.log"], "x.logs", False, False),
        (["/build"], "build", True, True),
        (["/build"], "src/build", True, False),
        (["data/"], "data", True, True),
        (["data/"], "data", False, False),
        (["docs/*.md"], "docs/a.md", False, True),
        (["docs/*.md"], "docs/deep/a.md", False, False),
        (["docs/**/*.md"], "docs/deep/er/a.md", False, True),
        (["docs/**"], "docs/a", False, True),
        (["file?.txt"], "file1.txt", False, True),
        (["[ab].txt"], "b.txt", False, True),
        (["[!ab].txt"], "b.txt", False, False),
        (["# *.py", "", "  "], "x.py", False, False),
        (["*.py", "!x.py"], "x.py", False, False),
        (["!x.py", "*.py"], "x.py", False, True),
        ([r"\#odd"], "#odd", False, True),
        (["a.b"], "aXb", False, False),
    ],
)
def test_patterns_mean_what_they_mean_to_git(lines: list[str], path: str, folder: bool, skipped: bool) -> None:
    assert IgnoreRules(lines).skips(path, folder=folder) is skipped


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", {"real/x.txt": "x"})
    outside = tree(tmp_path / "blobs", {"weights.bin": "w"})
    (folder / "weights.bin").symlink_to(outside / "weights.bin")
    (folder / "real" / "loop").symlink_to(folder)
    with tarfile.open(fileobj=io.BytesIO(tar_of(folder))) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert sorted(members) == ["real", "real/loop", "real/x.txt", "weights.bin"]
    assert members["weights.bin"].isfile()


def test_a_link_to_nothing_and_a_pipe_are_refused_by_name(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", {"score.py": ""})
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Unreadable, match="gone"):
        pack(folder)
    (folder / "gone").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(Unreadable, match="pipe"):
        pack(folder)
