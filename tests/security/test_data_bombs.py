"""Little that becomes much, and data that would be code elsewhere."""

from __future__ import annotations

import gzip
import pickle
import zlib
from pathlib import Path

import pytest

from runner.dataset import inputs
from tests.contract.dataset_factories import mistakes_of, rows_of, take, write


def packed(start: bytes, piece: bytes, megabytes: int) -> bytes:
    """A gzip of `start` and then `piece` again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = piece * ((1 << 20) // len(piece))
    return (
        packer.compress(start) + b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()
    )


@pytest.mark.parametrize(
    ("name", "start", "piece"),
    [
        ("bomb.csv.gz", b"id\n", b"1\n"),
        ("bomb.tsv.gz", b"id\ttext\n", b"\0"),
        ("bomb.jsonl.gz", b"", b'{"id": 1}\n'),
        ("bomb.json.gz", b"[", b" "),
    ],
)
def test_a_compressed_bomb_is_refused_by_its_ratio(
    tmp_path: Path, name: str, start: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "UNPACKED_ALLOWANCE_BYTES", 4 << 20)
    path = write(tmp_path / name, packed(start, piece, 24))
    [found] = mistakes_of(path, into=tmp_path)
    assert found == f"{path}: unpacks to more than 250 times its size; unpack it, if it is to be trusted"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_table_that_packs_well_is_no_bomb(tmp_path: Path) -> None:
    rows = "id,text\n" + "".join(f"{number},the same text in every row\n" for number in range(20_000))
    path = write(tmp_path / "fine.csv.gz", gzip.compress(rows.encode()))
    assert len(rows_of(take(path, into=tmp_path))) == 20_000


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (Path("owned"),))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.parquet", "x.csv.gz"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / name, pickle.dumps([Evil()]))
    assert mistakes_of(path, into=tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["x.pkl", "x.arrow", "x.feather", "x.xlsx", "x.py", "x.npy", "x.duckdb"])
def test_formats_that_can_hold_more_than_rows_are_not_read(tmp_path: Path, name: str) -> None:
    [found] = mistakes_of(write(tmp_path / name, b"x"), into=tmp_path)
    assert "unknown suffix" in found
