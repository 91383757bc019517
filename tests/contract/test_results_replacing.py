"""A file that can't be replaced is told before any answer is paid for, as far as it can be known."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.results import check_targets

NOBODY = 65534
GET_FLAGS, SET_FLAGS, IMMUTABLE, APPEND_ONLY = 0x80086601, 0x40086602, 0x10, 0x20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user reaches; pytest's own are private."""
    made = Path(tempfile.mkdtemp(prefix="replacing-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@contextmanager
def no_root() -> Iterator[None]:
    """Without the rights of root, to whom no permission counts."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@contextmanager
def marked(path: Path, flag: int) -> Iterator[None]:
    """As `chattr` does it; skipped where that is not allowed."""
    if sys.platform != "linux":
        pytest.skip("marks are set in another way here")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        before = fcntl.ioctl(descriptor, GET_FLAGS, bytes(8))
        flags = int.from_bytes(before, sys.byteorder) | flag
        fcntl.ioctl(descriptor, SET_FLAGS, flags.to_bytes(8, sys.byteorder))
    except OSError as error:
        os.close(descriptor)
        pytest.skip(f"marks can't be set here: {error}")
    try:
        yield
    finally:
        fcntl.ioctl(descriptor, SET_FLAGS, before)
        os.close(descriptor)


def table(folder: Path, *, owner: int | None = None, mode: int = 0o644) -> Path:
    """An empty file, which is nobody's table and may be replaced."""
    path = folder / "table.csv"
    path.touch()
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner, owner)
    return path


def problems(path: Path) -> list[str]:
    return [mistake.what.removeprefix(f"{path}: ") for mistake in check_targets([path], ["m.yaml:1:1"])]


def test_a_file_of_ours_and_a_new_one_have_no_problem(folder: Path) -> None:
    assert problems(folder / "new.csv") == []
    with no_root():
        assert problems(table(folder)) == []


@needs_root
def test_a_file_of_another_user_that_the_folder_lets_be_replaced_has_no_problem(folder: Path) -> None:
    path = table(folder, owner=1)
    with no_root():
        assert not os.access(path, os.W_OK)
        assert problems(path) == []


@pytest.mark.parametrize("owner", [NOBODY, 1] if os.geteuid() == 0 else [None])
def test_a_read_only_file_is_told(folder: Path, owner: int | None) -> None:
    path = table(folder, mode=0o444, owner=owner)
    with no_root():
        assert problems(path) == ["the file is read-only"]


def test_a_link_to_a_read_only_file_is_told(folder: Path) -> None:
    (folder / "kept").mkdir()
    (folder / "link.csv").symlink_to(table(folder / "kept", mode=0o444))
    (folder / "kept").chmod(0o777)
    with no_root():
        assert problems(folder / "link.csv") == ["the file is read-only"]


@needs_root
@pytest.mark.parametrize("is_sticky", [True, False])
def test_a_file_of_another_user_in_a_sticky_folder_is_told(folder: Path, is_sticky: bool) -> None:
    path = table(folder, owner=1, mode=0o666)
    folder.chmod(0o1777 if is_sticky else 0o777)
    told = ["the file is another user's, in a folder where only its owner may replace it"]
    with no_root():
        assert problems(path) == told * is_sticky
    assert problems(path) == []


@needs_root
@pytest.mark.parametrize(("owner", "folders_owner"), [(NOBODY, 1), (1, NOBODY)])
def test_the_owner_of_the_file_or_the_folder_may_replace_it(
    folder: Path, owner: int, folders_owner: int
) -> None:
    path = table(folder, owner=owner, mode=0o666)
    os.chown(folder, folders_owner, folders_owner)
    folder.chmod(0o1777)
    with no_root():
        assert problems(path) == []


@pytest.mark.parametrize("flag", [IMMUTABLE, APPEND_ONLY])
def test_a_file_that_is_marked_is_told_to_root_too(folder: Path, flag: int) -> None:
    with marked(path := table(folder), flag):
        assert problems(path) == ["the file is marked so that nobody can replace it"]


def test_a_folder_that_only_takes_new_files_is_told(folder: Path) -> None:
    path = table(folder)
    with marked(folder, APPEND_ONLY):
        assert problems(path) == ["the folder is marked so that no file in it can be replaced"]


def test_a_file_that_is_a_mount_of_its_own_is_told(folder: Path) -> None:
    """As a container is given a single file."""
    path = table(folder).rename(folder / "a table.csv")
    (folder / "outside.csv").touch()
    mount = shutil.which("mount")
    bound = [mount or "mount", "--bind", str(folder / "outside.csv"), str(path)]
    if mount is None or subprocess.run(bound, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert problems(path) == ["something is mounted on this very file, so it can't be replaced"]
    finally:
        subprocess.run(["umount", str(path)], check=True)
