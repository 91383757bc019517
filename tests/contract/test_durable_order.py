"""Durable before the next step: what is synced, and before what (I11, I23). Watched, not replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.commands.collecting import ShardBook
from runner.commands.sharding import SealedShard, ShardFiles
from runner.core.model import Download, Limits
from runner.core.states import upload_intended
from tests.contract.ledger_factories import Project, to_send
from tests.contract.results_factories import plain_snapshot, put, record
from tests.fault.provider_factories import ScriptedServer, always, client_for, reply


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every sync and every rename in order, with the name of the file or folder it was of."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def watched_sync(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))

    def watched_replace(old: str, new: str) -> None:
        replace(old, new)
        seen.append(("rename", Path(old).name))

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return seen


def test_an_intent_is_synced_in_the_journal_itself(tmp_path: Path, order: list[tuple[str, str]]) -> None:
    """Before the commit, as test_ledger_submissions shows; and the file, not only the folder it is new in."""
    project = Project.open(tmp_path)
    (submission,) = project.commit([to_send(0, "a", line=0)])
    for name in ("ids.jsonl, new", "ids.jsonl, once more"):
        order.clear()
        project.ledger.save(upload_intended(submission), what=name)
        assert order[0] == ("sync", project.ledger.place.journal.name)
    project.ledger.close()


def test_a_shard_file_is_synced_before_it_gets_its_name(tmp_path: Path, order: list[tuple[str, str]]) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "scratch").mkdir()
    limits = Limits(max_file_bytes=1000, max_requests_per_file=10, max_body_bytes=500)
    files = ShardFiles(limits, folder=tmp_path / "shards", scratch=tmp_path / "scratch", owner="m")
    files.place(b'{"custom_id":"a"}\n')
    files.seal()
    part = "shard-0000.part"
    assert order == [("sync", part), ("rename", part), ("sync", "shards")]


def test_of_two_manifests_with_the_same_requests_each_has_its_own_file(tmp_path: Path) -> None:
    """The one whose answers are there removes its file, and the other has yet to send its own."""
    (tmp_path / "shards").mkdir()
    limits = Limits(max_file_bytes=1000, max_requests_per_file=10, max_body_bytes=500)
    writers: list[ShardFiles] = []
    shards: list[SealedShard] = []
    for owner in ("a", "b"):
        writers.append(ShardFiles(limits, folder=tmp_path / "shards", scratch=tmp_path, owner=owner))
        writers[-1].place(b'{"custom_id":"a"}\n')
        shards += writers[-1].seal()
    one, two = shards
    assert one.sha == two.sha
    writers[0].discard()
    assert [Path(shard.path).exists() for shard in (one, two)] == [False, True]


def test_a_download_is_synced(tmp_path: Path, order: list[tuple[str, str]]) -> None:
    with ScriptedServer(always(reply(200, b'{"custom_id":"a"}\n'))) as server, client_for(server) as client:
        client.download("f", tmp_path / "x.part")
    assert ("sync", "x.part") in order


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".db"])
def test_a_table_is_synced_before_it_replaces_the_old_one(
    suffix: str, tmp_path: Path, order: list[tuple[str, str]]
) -> None:
    put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], suffix)
    renamed = [place for place, (what, _) in enumerate(order) if what == "rename"]
    assert len(renamed) == 1
    draft = order[renamed[0]][1]
    assert ("sync", draft) in order[: renamed[0]]
    assert ("sync", "out") in order[renamed[0] :]


def test_lines_added_to_a_raw_file_are_synced_before_the_ledger_knows_them(
    tmp_path: Path, order: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.open(tmp_path)
    submission = project.send(project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])[0])
    folder = project.ledger.place.folder / "raw"
    folder.mkdir(exist_ok=True)
    raw = project.ledger.raw_file(submission.shard_id, "output", "out-1")
    book = ShardBook(project.ledger, submission.shard_id)
    known: list[tuple[str, str]] = []
    store = project.ledger.store_outcomes

    def watched_store(*arguments: object) -> None:
        known.extend(order)
        store(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(project.ledger, "store_outcomes", watched_store)
    ids = list(project.ledger.expected(submission.shard_id))
    book.take_in(downloaded(tmp_path, ids[:1]), raw, folder)
    order.clear()
    known.clear()
    book.take_in(downloaded(tmp_path, ids), raw, folder)
    assert book.outstanding == []
    assert ("sync", Path(raw.path).name) in known
    project.ledger.close()


def downloaded(folder: Path, ids: list[str]) -> Download:
    """A result file with an answer for each of these."""
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    lines = [
        json.dumps({"custom_id": one, "response": {"status_code": 200, "body": body}}) + "\n" for one in ids
    ]
    path = folder / "download.part"
    path.write_text("".join(lines))
    return Download(
        path=str(path),
        size_bytes=path.stat().st_size,
        lines=len(ids),
        skip=0,
        is_whole=True,
        incomplete=False,
        last_line=None,
    )
