"""A ledger that knows less than its journal is refused before anything is made or sent."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from runner.errors import LedgerError
from runner.ledger import Ledger, locate
from tests.contract.ledger_factories import Project, place_in, to_send


def sent(tmp_path: Path) -> Path:
    """A closed ledger that has sent something; its file."""
    project = Project.open(tmp_path)
    project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.ledger.close()
    return tmp_path / ".runner" / "ledger.db"


def refused(tmp_path: Path) -> str:
    """Both ways to open it say the same; nothing was made."""
    texts = set()
    for opened in (Ledger.open, Ledger.open_reading):
        with pytest.raises(LedgerError) as caught:
            opened(place_in(tmp_path))
        assert "run rebuild" in caught.value.next_step
        texts.add(caught.value.what)
    (text,) = texts
    return text


def test_a_deleted_ledger_is_not_made_anew(tmp_path: Path) -> None:
    path = sent(tmp_path)
    path.unlink()
    assert "the ledger is gone" in refused(tmp_path)
    assert not path.exists()


def test_an_empty_file_in_its_place_is_refused(tmp_path: Path) -> None:
    path = sent(tmp_path)
    path.write_bytes(b"")
    assert "the ledger is gone" in refused(tmp_path)
    assert path.stat().st_size == 0


def test_an_emptied_ledger_is_refused(tmp_path: Path) -> None:
    path = sent(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    Project.open(other).ledger.close()
    shutil.copyfile(other / ".runner" / "ledger.db", path)
    assert "does not know" in refused(tmp_path)


def test_an_old_copy_is_refused(tmp_path: Path) -> None:
    path = sent(tmp_path)
    copy = path.with_suffix(".old")
    shutil.copyfile(path, copy)
    project = Project.open(tmp_path)
    project.send(project.commit([to_send(0, "a", line=0, request="edited")])[0])
    project.ledger.close()
    copy.replace(path)
    assert "an old copy" in refused(tmp_path)


def test_a_journal_that_is_ahead_by_one_move_of_a_known_shard_is_no_loss(tmp_path: Path) -> None:
    """A kill between the journal's line and the commit: the ledger resolves that by itself."""
    path = sent(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM batch")
        connection.execute("UPDATE shard SET state = 'creating'")
    connection.close()
    with Ledger.open(place_in(tmp_path)) as ledger:
        assert ledger.submission(1).state == "creating"


def test_without_a_journal_or_before_anything_was_sent_there_is_nothing_to_miss(tmp_path: Path) -> None:
    assert Ledger.open_reading(place_in(tmp_path)) is None
    project = Project.open(tmp_path)
    project.commit([to_send(0, "a", line=0)])
    project.ledger.close()
    (tmp_path / ".runner" / "ledger.db").unlink()
    Ledger.open(place_in(tmp_path)).close()


@pytest.mark.parametrize("folder", ["raw", "requests"])
def test_without_ledger_and_journal_what_lies_beside_them_is_believed(tmp_path: Path, folder: str) -> None:
    path = sent(tmp_path)
    path.unlink()
    (tmp_path / ".runner" / "ids.jsonl").unlink()
    Ledger.open(place_in(tmp_path)).close()  # nothing beside them: a project where nothing was ever sent
    path.unlink()
    (tmp_path / ".runner" / folder / "1-file.jsonl").write_text("{}\n")
    assert f"{folder} holds what was sent or answered" in refused(tmp_path)
    assert not path.exists()


def test_two_databases_of_one_folder_don_t_mix_up_their_lines(tmp_path: Path) -> None:
    sent(tmp_path)
    other = locate(str(tmp_path / "job.yaml"), {"RUNNER_LEDGER": f"sqlite:///{tmp_path}/other.db"})
    with Ledger.open(other) as empty, Ledger.open(place_in(tmp_path)) as ledger:
        assert empty.manifests() == []
        assert ledger.submission(1).batch_id is not None


def test_a_journal_whose_end_is_torn_still_warns(tmp_path: Path) -> None:
    path = sent(tmp_path)
    path.unlink()
    with (tmp_path / ".runner" / "ids.jsonl").open("ab") as journal:
        journal.write(b'{"at":"2026-01-02T03:04:05Z","what":"batch crea')
    assert "the ledger is gone" in refused(tmp_path)
