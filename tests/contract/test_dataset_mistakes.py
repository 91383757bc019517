"""What is wrong with a dataset is said with file, line or row, in words that a user can act on."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.dataset import describe, take_snapshot
from runner.dataset.inputs import Inputs, digest_of_inputs
from runner.errors import InputError
from tests.contract.dataset_factories import make_manifest, mistakes_of, rows_of, take, write

FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "a short line, after lines of two": (
        "a.csv",
        b'id,x\n1,"a\nb"\n2,"c\n\nd"\n3\n4,x\n',
        ["{path}:7: 1 cell where the header has 2 columns; is a quote or a delimiter missing?"],
    ),
    "two lines of the wrong length": (
        "a.csv",
        b"id,x,y\n1,2,3\n4,5\n6,7,8,9\n",
        [
            "{path}:3: 2 cells where the header has 3 columns; is a quote or a delimiter missing?",
            "{path}:4: 4 cells where the header has 3 columns; is a quote or a delimiter missing?",
        ],
    ),
    "a quote that is never closed": (
        "a.csv",
        b'id,x\n1,a\n2,"abc\n3,d\n',
        ['{path}:3: a quote is opened here and never closed; inside quotes, a quote is written twice ("")'],
    ),
    "text after a quote": (
        "a.csv",
        b'id,x\n2,"a"b\n',
        ['{path}:2: text follows a closing quote; inside quotes, a quote is written twice ("")'],
    ),
    "mixed line ends": (
        "a.csv",
        b"id,x\r\n1,a\n2,b\r\n",
        ["{path}: mixed line endings or quotes against RFC 4180; end all lines alike (LF or CRLF)"],
    ),
    "a doubled name": (
        "a.csv",
        b"a,b,a\n1,2,3\n",
        ["{path}:1: column 'a' appears twice (columns 1 and 3); names must differ by more than case"],
    ),
    "names that differ in case": (
        "a.csv",
        b"a,A\n1,2\n",
        ["{path}:1: column 'A' appears twice (columns 1 and 2); names must differ by more than case"],
    ),
    "an empty file": ("a.csv", b"", ["{path}:1: the first line is empty; it must hold the column names"]),
    "Latin-1": (
        "a.csv",
        "id,x\n1,a\n2,caf\u00e9\n".encode("latin-1"),
        [
            (
                "{path}:3: not UTF-8: byte 0xe9 at offset 14; "
                "save it as UTF-8 (for example: iconv -f WINDOWS-1252 -t UTF-8)"
            )
        ],
    ),
    "UTF-16": (
        "a.csv",
        "id,x\n".encode("utf-16"),
        [
            (
                "{path}:1: not UTF-8: byte 0xff at offset 0; "
                "the file is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
            )
        ],
    ),
    "UTF-8 that is cut": (
        "a.jsonl",
        b'{"a": "\xc3',
        [
            (
                "{path}:1: not UTF-8: byte 0xc3 at offset 7; "
                "save it as UTF-8 (for example: iconv -f WINDOWS-1252 -t UTF-8)"
            )
        ],
    ),
    "two broken records": (
        "a.jsonl",
        b'{"a": 1}\n{"a": }\n{"a": 3}\n{"a" 4}\n',
        [
            "{path}:2:7: not JSON: unexpected character, expected a JSON value",
            "{path}:4:6: not JSON: unexpected character, expected ':' after key",
        ],
    ),
    "records that are no objects": (
        "a.jsonl",
        b'{"a": 1}\n[1]\n"x"\n',
        [
            "{path}:2: a record is not a JSON object; an array of records belongs into a .json file",
            "{path}:3: a record is not a JSON object",
        ],
    ),
    "a document over several lines": (
        "a.jsonl",
        b'{\n"a": 1}\n',
        [
            (
                "{path}:1:1: not JSON: unexpected end of data; "
                "one record per line; a document over several lines belongs into a .json file"
            ),
            "{path}:2:4: not JSON: unexpected content after document",
        ],
    ),
    "half a pair": ("a.jsonl", b'{"a": "x\\ud800y"}\n', ["{path}:1:9: not JSON: no low surrogate in string"]),
    "no records": ("a.jsonl", b"\n", ["{path}: no records with fields, so there are no columns"]),
    "no fields": ("a.jsonl", b"{}\n{}\n", ["{path}: no records with fields, so there are no columns"]),
    "a record that is null": (
        "a.jsonl",
        b'{"a": 1}\nnull\n',
        ["{path}:2: a record is not a JSON object"],
    ),
    "nulls first": ("a.jsonl", b'null\n{"a": 1}\n', ["{path}:1: a record is not a JSON object"]),
    "a null in an array": ("a.json", b'[{"a": 1}, null]', ["{path}: record 2 is not a JSON object"]),
    "fields that differ in case": (
        "a.jsonl",
        b'{"a": 1}\n{"A": 1}\n',
        ["{path}: fields 'a' and 'A' differ only in case"],
    ),
    "a cut array": ("a.json", b'[{"a": 1},\n{"a": 2}', ["{path}:2:9: not JSON: unexpected end of data"]),
    "numbers in an array": (
        "a.json",
        b"[1, 2]",
        ["{path}: record 1 is not a JSON object", "{path}: record 2 is not a JSON object"],
    ),
    "no Parquet": (
        "a.parquet",
        b"PAR1 but not really, it is text",
        ["{path}: not a Parquet file (no Parquet footer), or cut short"],
    ),
    "empty Parquet": ("a.parquet", b"", ["{path}: not a Parquet file (no Parquet footer), or cut short"]),
    "no gzip": ("a.csv.gz", b"id,x\n1,a\n", ["{path}: can't be read: Not a gzipped file (b'id')"]),
    "cut gzip": (
        "a.csv.gz",
        gzip.compress(b"id,x\n1,a\n")[:-4],
        ["{path}: can't be read: Compressed file ended before the end-of-stream marker was reached"],
    ),
}


@pytest.mark.parametrize("rule", FILES)
def test_a_broken_file_is_named_with_the_line(rule: str, tmp_path: Path) -> None:
    name, content, texts = FILES[rule]
    path = write(tmp_path / name, content)
    assert mistakes_of(path, into=tmp_path) == [text.replace("{path}", str(path)) for text in texts]


@pytest.mark.parametrize("rule", FILES)
def test_describe_never_shows_a_traceback_for_a_broken_file(rule: str, tmp_path: Path) -> None:
    name, content, _ = FILES[rule]
    path = write(tmp_path / name, content)
    try:
        found = str(describe(make_manifest(path)))
    except InputError as error:
        found = str(error)
    assert str(path) in found or found.startswith("(Column")


def test_a_broken_line_far_down_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,x\n" + "1,a\n" * 50_000 + "1,a,b\n")
    assert mistakes_of(path, into=tmp_path) == [
        f"{path}:50002: 3 cells where the header has 2 columns; is a quote or a delimiter missing?"
    ]


def test_all_broken_files_are_reported_together(tmp_path: Path) -> None:
    one = write(tmp_path / "1.csv", b"a\n\xff\n")
    two = write(tmp_path / "2.csv", b"a\n\n\xfe\n")
    found = mistakes_of(one, two, into=tmp_path)
    assert [text.partition(": not")[0] for text in found] == [f"{one}:2", f"{two}:3"]


# ---------------------------------------------------------------- which files


def test_no_such_file_shows_what_the_folder_holds(tmp_path: Path) -> None:
    write(tmp_path / "tickets.csv", "a\n1\n")
    write(tmp_path / "notes.txt", "x")
    path = tmp_path / "ticket.csv"
    assert mistakes_of(path, into=tmp_path) == [
        f"m.yaml:4:9: dataset.path: no such file: {path}; {tmp_path} holds tickets.csv"
    ]


def test_a_glob_that_matches_nothing_and_a_missing_folder_are_told_together(tmp_path: Path) -> None:
    one, two = tmp_path / "*.csv", tmp_path / "none" / "a.csv"
    assert mistakes_of(one, two, into=tmp_path) == [
        f"m.yaml:4:9: dataset.path.0: no file matches {one}; {tmp_path} holds no dataset files",
        f"m.yaml:4:9: dataset.path.1: no such file: {two}; the folder {two.parent} does not exist",
    ]


def test_unknown_suffixes_and_folders_are_refused(tmp_path: Path) -> None:
    odd = write(tmp_path / "a.xlsx", "x")
    packed = write(tmp_path / "a.parquet.gz", "x")
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    allowed = "allowed: .csv .tsv .jsonl .ndjson .json (each also with .gz) and .parquet"
    assert mistakes_of(odd, packed, folder, into=tmp_path) == [
        f"m.yaml:4:9: dataset.path.0: {odd}: unknown suffix (.xlsx); {allowed}",
        f"m.yaml:4:9: dataset.path.1: {packed}: unknown suffix (.parquet.gz); {allowed}",
        f"m.yaml:4:9: dataset.path.2: {folder}: is a folder; name files, or a glob such as *.csv",
    ]


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.csv", "a\n1\n"), write(tmp_path / "b.jsonl", '{"a": 1}\n')
    assert mistakes_of(one, two, into=tmp_path) == [
        (
            "m.yaml:4:9: dataset.path: files of different formats: a.csv (CSV), b.jsonl (JSONL); "
            "all files of a dataset have one format"
        )
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\n1\n")
    path.chmod(0)
    assert mistakes_of(path, into=tmp_path) == [f"m.yaml:4:9: dataset.path: {path}: permission denied"]


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", "a\n1\n")
    real = digest_of_inputs

    def read_then_write(inputs: Inputs) -> bytes:
        digest = real(inputs)
        path.write_text("a\n2\n3\n")
        return digest

    monkeypatch.setattr("runner.dataset.snapshot.digest_of_inputs", read_then_write)
    assert mistakes_of(path, into=tmp_path) == [f"{path}: the file changed while it was read"]


# ---------------------------------------------------------------- keys


def test_a_key_that_is_no_column_brings_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "ticket_id,body\n1,a\n")
    assert mistakes_of(path, into=tmp_path, key=("tiket_id", "zzz")) == [
        "m.yaml:6:8: dataset.key: the dataset has no column 'tiket_id'; did you mean 'ticket_id'?",
        "m.yaml:6:8: dataset.key: the dataset has no column 'zzz'; columns: ticket_id, body",
    ]


@pytest.mark.parametrize("key", ["id", "x" * 199_000])
def test_a_name_without_end_is_shown_in_part(key: str, tmp_path: Path) -> None:
    (found,) = mistakes_of(write(tmp_path / "a.csv", "x" * 200_000), into=tmp_path, key=key)
    assert len(found) < 400 + len(str(tmp_path))
    assert "xxx..." in found


def test_doubled_keys_are_shown_with_value_row_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,x\nb,"1\n2"\na,\n\nb,\na,\nb,\nc,\n')
    assert mistakes_of(path, into=tmp_path, key="id") == [
        (
            f"m.yaml:6:8: dataset.key: key 'b' is used by 3 rows: "
            f"row 1 ({path}:2), row 3 ({path}:6), row 5 ({path}:8)"
        ),
        f"m.yaml:6:8: dataset.key: key 'a' is used by 2 rows: row 2 ({path}:4), row 4 ({path}:7)",
    ]


def test_keys_that_several_files_share_are_told_with_file_and_line(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", "k,t\na,x\n\nb,x\n")
    second = write(tmp_path / "2.csv", 't;k\n"a\nb";c\nx;a\nx;\n')
    assert mistakes_of(tmp_path / "?.csv", into=tmp_path, key="k") == [
        f"m.yaml:6:8: dataset.key: 1 row has no key (NULL in 'k'): row 5 ({second}:5)",
        f"m.yaml:6:8: dataset.key: key 'a' is used by 2 rows: row 1 ({first}:2), row 4 ({second}:4)",
    ]
    lines = [write(tmp_path / f"{name}.jsonl", '{"k": 1}\n\n{"k": 2}\n') for name in "ab"]
    assert mistakes_of(*lines, into=tmp_path, key="k") == [
        f"m.yaml:6:8: dataset.key: key '1' is used by 2 rows: row 1 ({lines[0]}:1), row 3 ({lines[1]}:1)",
        f"m.yaml:6:8: dataset.key: key '2' is used by 2 rows: row 2 ({lines[0]}:3), row 4 ({lines[1]}:3)",
    ]
    arrays = [write(tmp_path / f"{name}.json", f'[{{"k": "{name}"}}, {{"k": 0}}]') for name in "ab"]
    assert mistakes_of(*arrays, into=tmp_path, key="k") == [
        (
            "m.yaml:6:8: dataset.key: key '0' is used by 2 rows: "
            f"row 2 ({arrays[0]}, record 2), row 4 ({arrays[1]}, record 2)"
        )
    ]


def test_rows_without_a_key_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": "a"}\n\n{"id": null}\n{"x": 1}\n')
    assert mistakes_of(path, into=tmp_path, key="id") == [
        f"m.yaml:6:8: dataset.key: 2 rows have no key (NULL in 'id'): row 2 ({path}:3), row 3 ({path}:4)"
    ]


def test_of_many_doubled_keys_the_first_five_and_the_count_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id\n" + "".join(f"{number % 700}\n" for number in range(1_400)))
    found = mistakes_of(path, into=tmp_path, key="id", query="SELECT id FROM dataset")
    assert found == [
        *(
            f"m.yaml:6:8: dataset.key: key '{number}' is used by 2 rows: row {number + 1}, row {number + 701}"
            for number in range(5)
        ),
        "m.yaml:6:8: dataset.key: 700 keys are used more than once; the first 5 are shown",
    ]


def test_keys_of_several_columns_do_not_run_into_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\nx|y,z\nx,y|z\nx\\,|\nx,\\|\n")
    snapshot = take(path, into=tmp_path, key=("a", "b"))
    assert len(rows_of(snapshot)) == 4


TAKEN: list[Callable[[Path], Path]] = [
    lambda folder: write(folder / "a.csv", "_key,a\n1,2\n"),
    lambda folder: write(folder / "a.jsonl", '{"_Key": 1}\n'),
]


@pytest.mark.parametrize("make", TAKEN)
def test_our_own_column_names_are_taken(make: Callable[[Path], Path], tmp_path: Path) -> None:
    (found,) = mistakes_of(make(tmp_path), into=tmp_path)
    assert found.lower() == (
        "m.yaml:4:9: dataset.path: the results table has its own column '_key'; "
        "give it another name in dataset.query (select * rename ...)"
    )


def test_a_snapshot_that_is_there_already_is_kept_when_a_new_one_fails(tmp_path: Path) -> None:
    target = write(tmp_path / "s.parquet", "old")
    path = write(tmp_path / "a.csv", "a\n1\n1\n")
    with pytest.raises(InputError) as caught:
        take_snapshot(make_manifest(path, key="a"), target, scratch=tmp_path)
    assert caught.value.next_step == "mend the keys, or leave out dataset.key to go by content"
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("levels", [70, 120, 300, 900, 2_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_record_of_any_depth_is_a_row_or_a_mistake(
    levels: int, opening: str, closing: str, tmp_path: Path
) -> None:
    deep = '{"id": 2, "d": ' + opening * levels + "1" + closing * levels + "}\n"
    path = write(tmp_path / "deep.jsonl", '{"id": 1, "d": 0}\n' + deep)
    if levels <= 120:
        assert [row["id"] for row in rows_of(take(path, into=tmp_path))] == [1, 2]
        return
    (found,) = mistakes_of(path, into=tmp_path)
    assert found.startswith(str(path))
    assert "recursion depth" in found or "depth limit exceeded" in found


def test_a_parquet_file_whose_names_are_no_text_is_a_mistake(tmp_path: Path) -> None:
    good = take(write(tmp_path / "a.csv", "wordsx,other\n1,2\n"), into=tmp_path)
    content = Path(good.path).read_bytes()
    assert content.count(b"wordsx") > 0
    path = write(tmp_path / "b.parquet", content.replace(b"wordsx", b"words\xff"))
    query = "SELECT * EXCLUDE (_position, _key) FROM dataset"
    (found,) = mistakes_of(path, into=tmp_path, query=query)
    assert found == f"{path}: a name in the file is not UTF-8; the file is damaged"
