"""Bits that flip in a closed ledger are found at open, whatever they stood for; an edit by hand is not."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runner.errors import LedgerError
from runner.ledger import Ledger, LedgerPlace
from runner.ledger.seal import BLOCK_BYTES, Verdict, examine, seal_path, write_seal
from tests.contract.ledger_factories import Project, place_in, succeeded, to_send, unsendable

FLIPS = 200


def done(tmp_path: Path) -> LedgerPlace:
    """The closed ledger of a run that has its answers."""
    project = Project.open(tmp_path)
    rows = [*(to_send(n, f"k{n}", line=n) for n in range(300)), unsendable(300, "u")]
    sent = project.send(project.commit(rows)[0])
    project.answer(sent, [(line, succeeded()) for line in range(300)])
    project.finish(sent)
    project.ledger.close()
    return place_in(tmp_path)


def flip(path: Path, data: bytes, byte: int, change: int) -> None:
    path.write_bytes(data[:byte] + bytes([data[byte] ^ change]) + data[byte + 1 :])


def test_each_of_two_hundred_flipped_bits_is_found_at_open_and_nothing_is_written(tmp_path: Path) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    data = path.read_bytes()
    chance = random.Random(20260102)
    for _ in range(FLIPS):
        byte, bit = chance.randrange(len(data)), chance.randrange(8)
        flip(path, data, byte, 1 << bit)
        damaged = path.read_bytes()
        for opened in (Ledger.open, Ledger.open_reading):
            with pytest.raises(LedgerError, match="damaged") as caught:
                opened(place)
            assert "run rebuild" in caught.value.next_step
        assert path.read_bytes() == damaged
    path.write_bytes(data)
    Ledger.open(place).close()


def test_a_changed_byte_in_every_block_is_found(tmp_path: Path) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    data = bytearray(path.read_bytes())
    chance = random.Random(7)
    for block in range(len(data) // BLOCK_BYTES):
        data[block * BLOCK_BYTES + chance.randrange(BLOCK_BYTES)] ^= chance.randrange(1, 256)
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger.open(place)


@pytest.mark.parametrize("seed", range(20))
def test_two_hundred_flips_anywhere_end_in_advice_and_never_in_a_traceback(tmp_path: Path, seed: int) -> None:
    """More than one in a block: the seal can't tell them from an edit, SQLite's own check must."""
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(FLIPS):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    with pytest.raises(LedgerError) as caught:
        Ledger.open(place)
    assert "run rebuild" in caught.value.next_step


def test_a_person_may_change_the_ledger_with_tools_of_their_own(tmp_path: Path) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    assert examine(path) is Verdict.WHOLE
    with closing(sqlite3.connect(path)) as ledger, ledger:
        ledger.execute("UPDATE shard SET problem = 'a note of mine'")
    assert examine(path) is Verdict.NOTHING
    with Ledger.open(place) as opened:
        assert opened.shards(1)[0].problem == "a note of mine"
    assert examine(path) is Verdict.WHOLE


def test_where_a_single_byte_was_changed_on_purpose_the_seal_is_removed(tmp_path: Path) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    data = path.read_bytes()
    flip(path, data, data.index(b"k17"), 1)
    with pytest.raises(LedgerError, match=r"removes ledger\.db-seal"):
        Ledger.open(place)
    seal_path(path).unlink()
    path.write_bytes(data)
    Ledger.open(place).close()


@pytest.mark.parametrize("spoil", ["absent", "torn", "flipped", "empty"])
def test_a_spoilt_seal_says_nothing(tmp_path: Path, spoil: str) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    seal = seal_path(path)
    data = seal.read_bytes()
    if spoil == "absent":
        seal.unlink()
    else:
        seal.write_bytes({"torn": data[:-3], "flipped": data[:-1] + b"?", "empty": b""}[spoil])
    assert examine(path) is Verdict.NOTHING
    Ledger.open(place).close()
    assert examine(path) is Verdict.WHOLE


def test_a_seal_counts_only_while_nobody_works(tmp_path: Path) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    with Ledger.open(place) as one:
        one.ensure_manifest("other.yaml", "other")
        assert examine(path) is Verdict.NOTHING
        with Ledger.open(place) as two:
            assert len(two.manifests()) == 2
    assert examine(path) is Verdict.WHOLE


def test_a_copy_that_was_killed_over_its_log_opens_and_is_checked_otherwise(tmp_path: Path) -> None:
    place = done(tmp_path)
    path = place.folder / "ledger.db"
    with Ledger.open(place) as ledger:
        ledger.ensure_manifest("other.yaml", "other")
        killed = tmp_path / "killed"
        killed.mkdir()
        shutil.copytree(place.folder, killed / ".runner")
    with Ledger.open(place_in(killed)) as ledger:
        assert len(ledger.manifests()) == 2
    write_seal(path)
    assert examine(path) is Verdict.WHOLE
