"""`validate` goes on after the first mistake: manifest, dataset, template and output are told together."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions, RunOptions
from runner.commands.plan import plan
from runner.commands.validate import validate
from runner.errors import InputError, Mistake

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")

GOOD = """\
version: 1
dataset: {path: rows.csv, key: id}
prompt: {template: prompt.j2}
model: {provider: local, name: m}
output: {path: out.jsonl}
"""


def project(
    folder: Path, manifest: str, *, rows: str = "id,text\na,one\nb,two\n", prompt: str = "{{ text }}"
) -> Path:
    (folder / "rows.csv").write_text(rows)
    (folder / "prompt.j2").write_text(prompt)
    path = folder / "m.yaml"
    path.write_text(manifest)
    return path


def mistakes_of(path: Path) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        validate(ManifestOptions(path=str(path)), environ={})
    return list(caught.value.mistakes)


def test_a_sound_project_has_none(tmp_path: Path) -> None:
    found = validate(ManifestOptions(path=str(project(tmp_path, GOOD))), environ={})
    assert (found.rows, found.messages) == (2, 1)


def test_mistakes_of_every_room_are_told_at_once(tmp_path: Path) -> None:
    wrong = GOOD.replace("output:", "outptu:").replace("name: m", "nmae: m")
    path = project(tmp_path, wrong, rows="id,text\na,one\na,two\n", prompt="{{ txet }}")
    found = mistakes_of(path)
    told = "\n".join(str(mistake) for mistake in found)
    assert "did you mean 'output'?" in told
    assert "did you mean 'name'?" in told
    assert "key 'a' is used by 2 rows" in told
    assert "did you mean `text`?" in told
    assert len(found) == 4


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("model: {provider: local, name: m}", "model: 7"),
        ("model: {provider: local, name: m}", ""),
        ("model: {provider: local, name: m}", "model: {provider: {name: local, base_url: 3}, name: [m]}"),
        ("output: {path: out.jsonl}", "output: {path: out.docx}"),
        ("version: 1", "version: one"),
        ("version: 1", "verison: 1\nrepeats: -3\nallow_failures: lots"),
    ],
)
def test_what_is_right_is_still_checked(tmp_path: Path, section: str, wrong: str) -> None:
    path = project(tmp_path, GOOD.replace(section, wrong), prompt="{{ txet }}")
    found = mistakes_of(path)
    assert "did you mean `text`?" in str(found[-1])
    assert str(path) in found[0].where
    assert len(found) >= 2


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("prompt: {template: prompt.j2}", "prompt: {template: missing.j2}"),
        ("prompt: {template: prompt.j2}", "promt: {template: prompt.j2}"),
        ("dataset: {path: rows.csv, key: id}", "dataset: [rows.csv]"),
        ("dataset: {path: rows.csv, key: id}", "dataset: {path: 3}"),
    ],
)
def test_a_dataset_or_a_template_that_is_not_there_makes_no_other_mistakes(
    tmp_path: Path, section: str, wrong: str
) -> None:
    path = project(tmp_path, GOOD.replace(section, wrong), prompt="{{ txet }}")
    found = mistakes_of(path)
    assert len(found) == 1
    assert str(path) in found[0].where


@pytest.mark.parametrize("is_isolated", [False, True])
def test_a_missing_template_hides_no_mistake_of_the_dataset(tmp_path: Path, is_isolated: bool) -> None:
    """Nor of the output, and whether it is the file or the section that is missing."""
    wrong = GOOD.replace("prompt.j2", "missing.j2").replace("out.jsonl", "rows.csv/out.jsonl")
    for manifest in (wrong, wrong.replace("prompt: {template: missing.j2}\n", "")):
        path = project(tmp_path, manifest, rows="id,text\na,one\na,two\n")
        with pytest.raises(InputError) as caught:
            validate(ManifestOptions(path=str(path), is_isolated=is_isolated), environ={})
        told = [mistake.what for mistake in caught.value.mistakes]
        assert len(told) == 3
        assert "missing" in told[0]
        assert "key 'a' is used by 2 rows" in told[1]
        assert "a part of the path is a file" in told[2]
        (tmp_path / "rows.csv").unlink()
        assert "no such file" in mistakes_of(path)[1].what


@pytest.mark.parametrize("dataset", ["dataset: 5\n", ""])
def test_a_section_that_is_no_dataset_hides_no_mistake_of_the_template(tmp_path: Path, dataset: str) -> None:
    wrong = GOOD.replace("dataset: {path: rows.csv, key: id}\n", dataset)
    path = project(tmp_path, wrong, prompt="{{ text|uper }}{{ params.tone }}")
    told = [mistake.what for mistake in mistakes_of(path)]
    assert told[1:] == ["no filter named `uper`", "`params.tone` is not a param"]


def test_a_wrong_template_and_an_output_that_is_a_folder_are_told_together(tmp_path: Path) -> None:
    path = project(tmp_path, GOOD, prompt="{{ text ")
    (tmp_path / "out.jsonl").mkdir()
    told = [str(mistake) for mistake in mistakes_of(path)]
    assert len(told) == 2
    assert "out.jsonl is a folder" in told[0]
    assert "prompt.j2:1" in told[1]


def test_mistakes_of_every_stage_of_a_template_are_told_together(tmp_path: Path) -> None:
    path = project(tmp_path, GOOD, prompt="{{ text|uper }}\n{{ now() }}\n{{ txet }}\n{{ params.tone }}")
    told = [f"{mistake.where.rpartition('/')[2]} {mistake.what}" for mistake in mistakes_of(path)]
    assert told == [
        "prompt.j2:1:9 no filter named `uper`",
        "prompt.j2:2:4 `now` is neither a column nor set in the template",
        "prompt.j2:3:4 `txet` is neither a column nor set in the template",
        "prompt.j2:4:11 `params.tone` is not a param",
    ]
    with pytest.raises(InputError) as caught:
        plan(RunOptions(manifest=ManifestOptions(path=str(path)), environ={}), reporter=Silent())
    assert len(caught.value.mistakes) == 4


@pytest.mark.parametrize("prompt", ["{{ text|uper }}{{ params.tone }}", "{{ params.tone }}{{ params.x }}"])
def test_a_missing_dataset_hides_no_mistake_of_the_template(tmp_path: Path, prompt: str) -> None:
    path = project(tmp_path, GOOD, prompt=prompt)
    (tmp_path / "rows.csv").unlink()
    found = mistakes_of(path)
    assert "no such file" in found[0].what
    assert len(found) == 3  # and of no column it is said that it is missing
    with pytest.raises(InputError) as caught:
        plan(RunOptions(manifest=ManifestOptions(path=str(path)), environ={}), reporter=Silent())
    assert list(caught.value.mistakes) == found


def test_a_missing_parent_hides_no_mistake_and_is_not_blamed_for_missing_keys(tmp_path: Path) -> None:
    wrong = (
        "extends: nope.yaml\ndataset: {path: rows.csv, kye: id}\nprompt: {template: prompt.j2}\nrepeats: no\n"
    )
    told = [str(mistake) for mistake in mistakes_of(project(tmp_path, wrong, prompt="{{ txet }}"))]
    assert [text.removeprefix(f"{tmp_path}/").partition(" ")[0] for text in told] == [
        "m.yaml:1:10:",
        "m.yaml:2:27:",
        "m.yaml:4:10:",
        "prompt.j2:1:4:",
    ]


def test_limits_above_the_provider_s_are_warned_of(tmp_path: Path) -> None:
    limits = "batch: {max_file_bytes: 1GB, max_requests_per_file: 60000, max_open_batches: 1}\n"
    path = project(tmp_path, GOOD + limits)
    options = ManifestOptions(path=str(path))
    planned = plan(RunOptions(manifest=options, environ={}), reporter=Silent())
    for warnings in (validate(options, environ={}).warnings, planned.warnings):
        told = [str(warning) for warning in warnings if warning.path.startswith("batch")]
        assert told == [
            (
                f"{path}:6:25: batch.max_file_bytes: "
                "1,000,000,000 has no effect: local takes at most 200,000,000"
            ),
            f"{path}:6:53: batch.max_requests_per_file: 60,000 has no effect: local takes at most 50,000",
        ]


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("rows.csv/out.csv", "a part of the path is a file, not a folder"),
        pytest.param("/proc/x/y/out.csv", "can't be written", marks=needs_proc),
        (f"{'n' * 250}.csv", "name too long"),
        ("/dev/null/out.csv", "a part of the path is a file"),
        ("dangling/out.csv", "a part of the path is a file"),
    ],
)
def test_a_table_that_can_not_be_written_is_told_before_anything_is_paid(
    target: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "dangling").symlink_to("rows.csv")
    path = project(tmp_path, GOOD.replace("out.jsonl", f"[fine/out.jsonl, {target}]"))
    before = sorted(tmp_path.iterdir())
    (found,) = mistakes_of(path)
    assert (found.path, what in found.what) == ("output.path", True)
    assert found.where.startswith(f"{path}:5:")
    with pytest.raises(InputError, match=what):
        plan(RunOptions(manifest=ManifestOptions(path=str(path)), environ={}), reporter=Silent())
    assert sorted(tmp_path.iterdir()) == before


def test_a_database_that_can_not_hold_all_columns_is_told_before_anything_is_paid(tmp_path: Path) -> None:
    path = project(
        tmp_path, GOOD.replace("out.jsonl", "[out.jsonl, out.db]").replace("rows.csv", "w.parquet")
    )
    columns = ", ".join(f"{place} AS c{place}" for place in range(1_990))
    with duckdb.connect() as connection:
        for table, others in (("w", columns), ("fits", "1")):
            select = f"SELECT 'a' AS id, 'hi' AS text, {others}"
            connection.execute(f"COPY ({select}) TO '{tmp_path}/{table}.parquet'")
    (found,) = mistakes_of(path)
    assert found.where.startswith(f"{path}:5:")
    assert (found.path, found.what, found.hint) == (
        "output.path",
        f"{tmp_path}/out.db: a SQLite table holds at most 2,000 columns, and this one has 2,010",
        "write another kind of table, or leave columns out in `dataset.query`",
    )
    path.write_text(path.read_text().replace("w.parquet", "fits.parquet"))
    assert validate(ManifestOptions(path=str(path)), environ={}).rows == 1


@pytest.mark.parametrize("value", ['"\\ud800"', '"\\0"', "99999999999999999999"])
def test_a_value_of_an_option_that_can_not_be_sent_is_a_mistake(tmp_path: Path, value: str) -> None:
    options = ManifestOptions(path=str(project(tmp_path, GOOD)), set_values=(f"params.x={value}",))
    with pytest.raises(InputError) as caught:
        validate(options, environ={})
    [mistake] = caught.value.mistakes
    assert (mistake.where, mistake.path) == ("--set params.x=...", "prompt.params.x")
