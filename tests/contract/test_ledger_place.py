"""Where a ledger is, who may read it, on which disks it may lie, and one process at a time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runner.errors import LedgerError, StillRunningError
from runner.ledger import HeldElsewhereError, Ledger, hold, locate
from runner.ledger.disks import file_system_of, refuse_network_disk
from tests.contract.ledger_factories import Project, place_in, to_send


def test_the_nearest_folder_with_a_runner_folder_wins_over_a_nearer_project(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / ".runner").mkdir()
    (tmp_path / "a" / "b" / "pyproject.toml").touch()
    place = locate(str(tmp_path / "a/b/c/job.yaml"), {})
    assert place.project == tmp_path / "a"
    assert place.folder == tmp_path / "a" / ".runner"
    assert place.url == f"sqlite:///{tmp_path}/a/.runner/ledger.db"


@pytest.mark.parametrize("sign", ["pyproject.toml", ".git"])
def test_without_a_runner_folder_the_nearest_project_is_taken(tmp_path: Path, sign: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / sign).mkdir()
    assert locate(str(tmp_path / "a/b/job.yaml"), {}).project == tmp_path / "a"


def test_the_current_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / ".runner").mkdir(parents=True)
    (tmp_path / "elsewhere" / ".runner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert locate("../project/job.yaml", {}).project == tmp_path / "project"


def test_a_variable_overrides_the_database_and_not_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".runner").mkdir()
    place = locate(str(tmp_path / "job.yaml"), {"RUNNER_LEDGER": "sqlite:////elsewhere/l.db"})
    assert place.url == "sqlite:////elsewhere/l.db"
    assert place.folder == tmp_path / ".runner"


def test_a_password_in_the_url_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".runner").mkdir()
    place = locate(str(tmp_path / "job.yaml"), {"RUNNER_LEDGER": "postgresql+nodriver://me:hush@host/db"})
    assert "hush" not in repr(place)
    with pytest.raises(LedgerError) as caught:
        Ledger.open(place)
    assert "hush" not in str(caught.value) + caught.value.next_step


@pytest.mark.parametrize("url", ["nonsense", "mysql+nodriver://host/db", "sqlite+nodriver:///x"])
def test_a_url_that_can_not_be_used_says_what_to_give(tmp_path: Path, url: str) -> None:
    (tmp_path / ".runner").mkdir()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(locate(str(tmp_path / "job.yaml"), {"RUNNER_LEDGER": url}))
    assert "RUNNER_LEDGER" in caught.value.what
    assert "sqlite:////" in caught.value.next_step


def test_a_manifest_is_named_by_its_path_below_the_project(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    assert place.relative(tmp_path / "jobs" / "a.yaml") == "jobs/a.yaml"
    assert place.relative("jobs/a.yaml") == "jobs/a.yaml"
    assert place.relative(tmp_path.parent / "a.yaml") == "../a.yaml"


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_everything_is_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        project = Project.open(tmp_path)
        project.send(project.commit([to_send(0, "a", line=0)])[0])
        with hold(project.ledger.place.manifest_lock("job.yaml")):
            found = {
                path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
                for path in [tmp_path / ".runner", *(tmp_path / ".runner").rglob("*")]
            }
    finally:
        os.umask(before)
    project.ledger.close()
    names = ("shards", "requests", "raw", "snapshots", "scratch", "locks")
    folders = {".runner", *(f".runner/{name}" for name in names)}
    assert {name: mode for name, mode in found.items() if name in folders} == dict.fromkeys(folders, 0o700)
    files = {name: mode for name, mode in found.items() if name not in folders}
    assert set(files.values()) == {0o600}
    assert {".runner/ledger.db", ".runner/ledger.db-wal", ".runner/ids.jsonl", ".runner/.gitignore"} <= set(
        files
    )


def test_the_folder_is_ignored_by_git(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.prepare()
    place.prepare()
    assert (tmp_path / ".runner" / ".gitignore").read_text() == "*\n"


def test_looking_at_a_project_without_a_ledger_makes_nothing(tmp_path: Path) -> None:
    assert Ledger.open_reading(locate(str(tmp_path / "job.yaml"), {})) is None
    assert not (tmp_path / ".runner").exists()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / ".runner").write_text("a file")
    place = locate(str(tmp_path / "job.yaml"), {})
    assert place.folder == tmp_path / ".runner"
    with pytest.raises(LedgerError, match="can't be made"):
        Ledger.open(place)


# ---------------------------------------------------------------- disks

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local\\040disk ext4 rw 0 0
C:\\134 /mnt/c 9p rw 0 0
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/ledger.db", "nfs4"),
        ("/home/me/local disk/ledger.db", "ext4"),
        ("/homes/ledger.db", None),
        ("/mnt/c/ledger.db", "9p"),
    ],
)
def test_the_disk_of_a_path_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(path), mounts) == kind


def test_a_network_disk_is_refused_unless_allowed(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    with pytest.raises(LedgerError) as caught:
        refuse_network_disk(Path("/home/me/ledger.db"), is_allowed=False, mounts=mounts)
    assert "nfs4" in caught.value.what
    assert "RUNNER_LEDGER" in caught.value.next_step
    refuse_network_disk(Path("/home/me/ledger.db"), is_allowed=True, mounts=mounts)
    refuse_network_disk(Path("/srv/ledger.db"), is_allowed=False, mounts=mounts)
    refuse_network_disk(Path("/home/me/ledger.db"), is_allowed=False, mounts=tmp_path / "none")


# ---------------------------------------------------------------- locks


def test_a_lock_is_held_once_and_says_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with (
        hold(path),
        pytest.raises(HeldElsewhereError, match=f"process {os.getpid()} since 20"),
        hold(path),
    ):
        pass
    with hold(path):
        assert path.exists()


def test_a_lock_held_elsewhere_is_work_still_running() -> None:
    assert issubclass(HeldElsewhereError, StillRunningError)


def test_a_lock_is_free_after_an_error_inside_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "a.lock"):
        1 / 0  # noqa: B018
    with hold(tmp_path / "a.lock"):
        assert "process" in (tmp_path / "a.lock").read_text()


def test_a_lock_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / "a.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(LedgerError), hold(tmp_path / "a.lock"):
        pass
    assert (tmp_path / "precious").read_text() == "data"


def test_two_manifests_have_two_locks(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    assert place.manifest_lock("a.yaml") != place.manifest_lock("b.yaml")
    assert place.manifest_lock("a.yaml") == place.manifest_lock(tmp_path / "a.yaml")
