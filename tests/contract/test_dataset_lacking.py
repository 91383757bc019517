"""Columns that some files of a dataset lack are told: before a prompt is paid for that has a hole in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions, RunOptions
from runner.commands.plan import PlanResult, plan
from runner.commands.validate import ValidateResult, validate
from runner.dataset import Snapshot
from runner.errors import InputError
from tests.contract.dataset_factories import mistakes_of, take, write

Rows = Sequence[Mapping[str, Any]]
FIXED = (".csv", ".tsv", ".parquet")
LOOSE = (".jsonl", ".json")
BODIES: Rows = ({"id": 1, "body": "one"}, {"id": 2, "body": "two"})
TEXTS: Rows = ({"id": 3, "text": "three"},)


def file_of(rows: Rows, path: Path, columns: Sequence[str] = ()) -> Path:
    """A file of the format that its suffix names. `columns`: for one without rows."""
    names = list(columns or rows[0])
    match path.suffix:
        case ".jsonl":
            return write(path, "".join(f"{json.dumps(row)}\n" for row in rows))
        case ".json":
            return write(path, json.dumps(rows))
        case ".parquet":
            listed = ", ".join(f"{names.index(name)} AS {name}" for name in names)
            values = ", ".join(str(tuple(row[name] for name in names)) for row in rows)
            query = (
                f"FROM (VALUES {values}) t({', '.join(names)})" if rows else f"SELECT {listed} WHERE false"
            )
            with duckdb.connect() as connection:
                connection.execute(f"COPY ({query}) TO '{path}'")
            return path
        case _:
            sign = "\t" if path.suffix == ".tsv" else ","
            lines = [names, *([str(row[name]) for name in names] for row in rows)]
            return write(path, "".join(f"{sign.join(line)}\n" for line in lines))


def lacking(snapshot: Snapshot) -> list[tuple[str, list[str]]]:
    return [(one.column, [Path(path).name for path in one.files]) for one in snapshot.lacking]


# ---------------------------------------------------------------- what a dataset lacks


def test_a_column_that_comes_of_folders_names_is_lacked_by_none(tmp_path: Path) -> None:
    for year, rows in ((2024, BODIES), (2025, ({"id": 3, "body": "three"},))):
        (tmp_path / f"year={year}").mkdir()
        file_of(rows, tmp_path / f"year={year}" / "part.parquet")
    snapshot = take(tmp_path / "*" / "*.parquet", into=tmp_path)
    assert "year" in [column.name for column in snapshot.columns]
    assert lacking(snapshot) == []


@pytest.mark.parametrize("suffix", [*FIXED, *LOOSE])
def test_a_column_that_only_some_files_have_is_known(tmp_path: Path, suffix: str) -> None:
    files = [file_of(rows, tmp_path / f"{name}{suffix}") for name, rows in (("a", BODIES), ("b", TEXTS))]
    snapshot = take(*files, into=tmp_path)
    assert lacking(snapshot) == [("body", [f"b{suffix}"]), ("text", [f"a{suffix}"])]
    assert {one.is_fixed for one in snapshot.lacking} == {suffix in FIXED}


@pytest.mark.parametrize("suffix", FIXED)
def test_letter_case_makes_no_other_column(tmp_path: Path, suffix: str) -> None:
    one = file_of(BODIES, tmp_path / f"a{suffix}")
    other = file_of([{"ID": 3, "Body": "three"}], tmp_path / f"b{suffix}")
    snapshot = take(one, other, into=tmp_path)
    assert ([column.name for column in snapshot.columns], lacking(snapshot)) == (["id", "body"], [])


@pytest.mark.parametrize("suffix", FIXED)
def test_another_type_makes_no_other_column(tmp_path: Path, suffix: str) -> None:
    one = file_of(BODIES, tmp_path / f"a{suffix}")
    other = file_of([{"id": "x", "body": 7}], tmp_path / f"b{suffix}")
    assert lacking(take(one, other, into=tmp_path)) == []


def test_a_field_inside_a_value_is_no_column(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS id, 'x' AS body, 2 AS last) TO '{paths[0]}'")
        value = "{'body': 1, 'inner': {'last': [1]}}"
        connection.execute(f"COPY (SELECT 2 AS id, {value} AS value, 3 AS last) TO '{paths[1]}'")
    assert lacking(take(*paths, into=tmp_path)) == [("body", ["b.parquet"]), ("value", ["a.parquet"])]


@pytest.mark.parametrize("suffix", FIXED)
def test_a_file_without_rows_lacks_nothing(tmp_path: Path, suffix: str) -> None:
    one = file_of(BODIES, tmp_path / f"a{suffix}")
    other = file_of((), tmp_path / f"b{suffix}", columns=("id",))
    assert lacking(take(one, other, into=tmp_path)) == []


@pytest.mark.parametrize("suffix", LOOSE)
def test_one_record_that_has_a_field_is_enough(tmp_path: Path, suffix: str) -> None:
    one = file_of(BODIES, tmp_path / f"a{suffix}")
    other = file_of(({"id": 3}, {"id": 4, "body": None}, {"id": 5}), tmp_path / f"b{suffix}")
    assert lacking(take(one, other, into=tmp_path)) == []


def test_names_with_the_signs_of_a_glob_are_told_apart(tmp_path: Path) -> None:
    one = file_of(BODIES, tmp_path / "a[1].jsonl")
    assert lacking(take(one, file_of(TEXTS, tmp_path / "b.jsonl"), into=tmp_path))[0] == ("body", ["b.jsonl"])


def test_a_query_says_itself_what_is_meant(tmp_path: Path) -> None:
    files = [file_of(rows, tmp_path / f"{name}.csv") for name, rows in (("a", BODIES), ("b", TEXTS))]
    assert lacking(take(*files, into=tmp_path, query="SELECT * FROM dataset")) == []


@pytest.mark.parametrize("suffix", FIXED)
def test_a_key_that_a_file_lacks_is_told_with_the_file(tmp_path: Path, suffix: str) -> None:
    files = [file_of(rows, tmp_path / f"{name}{suffix}") for name, rows in (("a", BODIES), ("b", TEXTS))]
    (told,) = mistakes_of(*files, into=tmp_path, key=("id", "text"))
    assert told.startswith(
        "m.yaml:4:9: dataset.path: dataset.key reads the column 'text', and 1 of 2 files has"
    )
    assert f": a{suffix}; add it there" in told


# ---------------------------------------------------------------- who reads it


def project(folder: Path, suffix: str, template: str, dataset: str = "") -> Path:
    data = folder / "data"
    data.mkdir()
    file_of(BODIES, data / f"0{suffix}")
    for number in range(1, 6):
        file_of(TEXTS if number == 1 else ({"id": 10 + number, "text": "x"},), data / f"{number}{suffix}")
    (folder / "prompt.j2").write_text(template)
    path = folder / "m.yaml"
    path.write_text(
        f'version: 1\ndataset: {{path: "data/*{suffix}", key: id{dataset}}}\n'
        "prompt: {template: prompt.j2}\nmodel: {provider: local, name: m}\noutput: {path: out.jsonl}\n"
    )
    return path


def validated(path: Path) -> ValidateResult:
    return validate(ManifestOptions(path=str(path)), environ={})


def planned(path: Path) -> PlanResult:
    return plan(RunOptions(manifest=ManifestOptions(path=str(path)), environ={}), reporter=Silent())


@pytest.mark.parametrize("suffix", FIXED)
def test_a_prompt_with_a_hole_in_it_is_refused(tmp_path: Path, suffix: str) -> None:
    path = project(tmp_path, suffix, "Say {{ body }}")
    for look in (validated, planned):
        with pytest.raises(InputError) as caught:
            look(path)
        (mistake,) = caught.value.mistakes
        assert (mistake.where[-4:], mistake.path) == ("2:17", "dataset.path")
        assert mistake.what == (
            "the template reads the column 'body', and 5 of 6 files have none (it is NULL in their rows): "
            f"1{suffix}, 2{suffix}, 3{suffix} and 2 more"
        )
        assert "SELECT * REPLACE (coalesce(body, ...) AS body) FROM dataset" in mistake.hint


@pytest.mark.parametrize("query", ["SELECT * REPLACE (coalesce(body, text) AS body) FROM dataset"])
@pytest.mark.parametrize("suffix", FIXED)
def test_the_query_that_is_advised_is_taken(tmp_path: Path, suffix: str, query: str) -> None:
    path = project(tmp_path, suffix, "Say {{ body }}", dataset=f', query: "{query}"')
    assert (validated(path).rows, planned(path).warnings) == (7, ())


@pytest.mark.parametrize("suffix", LOOSE)
def test_what_no_record_of_a_json_file_has_is_a_warning(tmp_path: Path, suffix: str) -> None:
    path = project(tmp_path, suffix, "Say {{ body }}")
    for look in (validated, planned):
        told = [warning.what for warning in look(path).warnings if "NULL" in warning.what]
        assert len(told) == 1
        assert told[0].startswith("the template reads the column 'body', and 5 of 6 files have none")


@pytest.mark.parametrize("suffix", [*FIXED, *LOOSE])
def test_what_no_template_reads_may_be_lacking(tmp_path: Path, suffix: str) -> None:
    path = project(tmp_path, suffix, "Say {{ id }}")
    assert not [warning for warning in validated(path).warnings if "NULL" in warning.what]


@pytest.mark.parametrize("suffix", [*FIXED, *LOOSE])
def test_a_template_that_reads_the_whole_row_is_a_warning(tmp_path: Path, suffix: str) -> None:
    path = project(tmp_path, suffix, "Say {{ row | tojson }}")
    told = [warning.what for warning in planned(path).warnings]
    assert told == [
        "the template reads the whole row, and some files lack some columns (NULL there): body, text"
    ]
