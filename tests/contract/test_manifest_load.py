"""What a right manifest becomes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from runner.core.model import (
    BatchSettings,
    Budget,
    Prices,
    ProviderSettings,
    RetrySettings,
    ScheduleSettings,
    Tolerance,
    TruncatedSettings,
)
from runner.manifest import load, schema, schema_text
from tests.contract.manifest_factories import GOOD, load_text, make_project

FULL = """\
# yaml-language-server: $schema=../runner/manifest/schema.json
version: 1
name: ticket-triage
description: Route support tickets
dataset:
  path: [a/*.csv, /abs/b.csv]
  query: SELECT * FROM dataset
  key: [country, id]
prompt:
  template: triage.j2
  params: {tone: neutral, day: 2026-01-01, no: no, 1: one, nothing: null}
model:
  provider: {name: local, upstream: "http://127.0.0.1:11434/v1/", max_file_bytes: 90MB,
    poll_interval_s: 500ms}
  name: Qwen/Qwen3.5-9B
  endpoint: /v1/responses
  parameters: {temperature: 0, stop: [a, b]}
  prices: {input_per_million: 0.1, output_per_million: 2}
batch: {completion_window: 1h, max_file_bytes: 1MiB, max_requests_per_file: 10, max_open_batches: 2}
output: {schema: s.json, path: [../r/t.csv, t.db], prefix: a_, csv_safe: true}
retry: {attempts: 5}
allow_failures: 0.5%
budget: {max_cost: 20, confirm_above: 1}
"""


def test_every_key_arrives(tmp_path: Path) -> None:
    made = load_text(tmp_path, FULL, s__json='{"type": "object"}')
    here = str(tmp_path)
    assert (made.path, made.name, made.description) == (
        f"{here}/m.yaml",
        "ticket-triage",
        "Route support tickets",
    )
    assert made.dataset.paths == (f"{here}/a/*.csv", "/abs/b.csv")
    assert (made.dataset.query, made.dataset.key) == ("SELECT * FROM dataset", ("country", "id"))
    assert made.prompt.template == f"{here}/triage.j2"
    assert made.prompt.params == {
        "tone": "neutral",
        "day": "2026-01-01",
        "no": "no",
        "1": "one",
        "nothing": None,
    }
    assert made.model.provider == ProviderSettings(
        name="local", upstream="http://127.0.0.1:11434/v1", max_file_bytes=90_000_000, poll_interval_s=0.5
    )
    assert (made.model.name, made.model.endpoint) == ("Qwen/Qwen3.5-9B", "/v1/responses")
    assert made.model.parameters == {"temperature": 0, "stop": ["a", "b"]}
    assert made.model.prices == Prices(input_per_million=0.1, output_per_million=2.0)
    assert made.batch == BatchSettings(
        completion_window="1h", max_file_bytes=1_048_576, max_requests_per_file=10, max_open_batches=2
    )
    assert made.output.paths == (f"{tmp_path.parent}/r/t.csv", f"{here}/t.db")
    assert (made.output.schema, made.output.schema_path) == ({"type": "object"}, f"{here}/s.json")
    assert (made.output.prefix, made.output.csv_safe) == ("a_", True)
    assert made.retry == RetrySettings(attempts=5)
    assert made.allow_failures == Tolerance(share=0.005, count=None, declared=True)
    assert made.budget == Budget(max_cost=20.0, confirm_above=1.0)


def test_pauses_and_larger_limits_are_read(tmp_path: Path) -> None:
    lines = """  parameters: {max_tokens: 200}
retry: {attempts: 5, backoff: {initial: 500ms, factor: 1.5, max: 2h}}
on_truncated: {max_tokens_factor: 2, ceiling: 8000}
"""
    made = load_text(tmp_path, GOOD + lines)
    assert made.retry == RetrySettings(attempts=5, initial_s=0.5, factor=1.5, max_s=7200.0)
    assert made.on_truncated == TruncatedSettings(factor=2.0, ceiling=8000)
    bare = load_text(tmp_path, GOOD)
    assert (bare.retry, bare.on_truncated) == (RetrySettings(attempts=3), None)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    path = make_project(tmp_path, name="Ticket Triage (v2).yaml")
    made = load(path, environ={})
    assert made.name == "ticket-triage-v2"
    assert made.output.paths == (f"{tmp_path}/results/ticket-triage-v2.parquet",)
    assert made.dataset.key == ()
    assert made.model.endpoint == "/v1/chat/completions"
    assert made.allow_failures == Tolerance()
    assert made.batch == BatchSettings()


def test_a_byte_order_mark_and_crlf_are_tolerated(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert str(load(path, environ={}).positions["dataset.path"]) == f"{path}:3:9"


def test_aliases_repeat_a_value(tmp_path: Path) -> None:
    text = GOOD.replace("triage.j2", "triage.j2\n  params: {a: &x [1, 2], b: *x}")
    assert load_text(tmp_path, text).prompt.params == {"a": [1, 2], "b": [1, 2]}


def test_values_know_where_they_were_written(tmp_path: Path) -> None:
    made = load_text(tmp_path, set_values=["model.name=x"])
    assert made.where("dataset.path") == f"{tmp_path}/m.yaml:3:9"
    assert made.where("dataset.key") == f"{tmp_path}/m.yaml:2:1"
    assert made.where("model.name") == "--set model.name=..."


def test_a_file_below_the_current_folder_is_shown_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("m.yaml", environ={}).where("version") == "m.yaml:1:10"
    assert load(tmp_path / "m.yaml", environ={}).where("version") == "m.yaml:1:10"


# ---------------------------------------------------------------- layers


def test_a_parent_is_merged_under_its_child(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    base = GOOD + "budget: {max_cost: 5}\nprofiles: {dev: {retry: {attempts: 1}}}\n"
    make_project(tmp_path / "shared", base, "base.yaml")
    child = "extends: shared/base.yaml\ndataset: {key: id}\nmodel: {name: other}\nbudget: null\n"
    made = load_text(tmp_path, child, profile="dev")
    assert made.prompt.template == f"{tmp_path}/shared/triage.j2"
    assert made.dataset.paths == (f"{tmp_path}/shared/data/tickets.csv",)
    assert (made.dataset.key, made.model.name) == (("id",), "other")
    assert made.budget == Budget()
    assert made.retry.attempts == 1
    assert made.where("model.provider") == f"{tmp_path}/shared/base.yaml:7:13"
    assert made.where("model.name") == f"{tmp_path}/m.yaml:3:15"
    assert made.output.paths == (f"{tmp_path}/results/m.parquet",)


def test_lists_replace(tmp_path: Path) -> None:
    make_project(tmp_path, GOOD.replace("data/tickets.csv", "[a.csv, b.csv]"), "base.yaml")
    made = load_text(tmp_path, "extends: base.yaml\ndataset: {path: [c.csv]}\n")
    assert made.dataset.paths == (f"{tmp_path}/c.csv",)


def test_set_wins_over_the_profile_and_that_over_the_file(tmp_path: Path) -> None:
    text = GOOD + "profiles: {prod: {model: {name: p}, retry: {attempts: 7}}}\n"
    made = load_text(tmp_path, text, profile="prod", set_values=["model.name=s"])
    assert (made.model.name, made.retry.attempts) == ("s", 7)
    assert load_text(tmp_path, text).model.name == "some-model"


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("no", "no"), ("[1, a]", [1, "a"]), ("'5'", "5"), ("a=b", "a=b"), ("", None)],
)
def test_set_reads_the_value_as_yaml(tmp_path: Path, text: str, value: object) -> None:
    made = load_text(tmp_path, set_values=[f"params.tone={text}", "prompt.params.deep.er=1"])
    assert made.prompt.params == {"tone": value, "deep": {"er": 1}}


def test_an_unused_profile_needs_no_variables(tmp_path: Path) -> None:
    text = GOOD + 'profiles: {prod: {dataset: {path: "${BUCKET:?}/t.csv"}, retry: {attempts: "${N}"}}}\n'
    assert load_text(tmp_path, text).name == "m"
    made = load_text(tmp_path, text, profile="prod", environ={"BUCKET": "/b", "N": "4"})
    assert (made.dataset.paths, made.retry.attempts) == (("/b/t.csv",), 4)


# ---------------------------------------------------------------- interpolation


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${V}", "v"),
        ("a${V}b${V}", "avbv"),
        ("${V:-d}", "v"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-a $5}", "a $5"),
        ("${V:?needed}", "v"),
        ("$$", "$"),
        ("$${V}", "${V}"),
        ("$V and $5", "$V and $5"),
        ("${STRUCTURE}", "{a: [1]}"),
        ("${NUMBER}", "5"),
    ],
)
def test_variables_are_put_into_text(tmp_path: Path, text: str, value: str) -> None:
    environ = {"V": "v", "EMPTY": "", "STRUCTURE": "{a: [1]}", "NUMBER": "5"}
    whole = GOOD + f"description: '{text}'\n"
    assert load_text(tmp_path, whole, environ=environ).description == value


def test_a_lone_variable_becomes_a_number_only_where_no_text_is_taken(tmp_path: Path) -> None:
    text = GOOD.replace("triage.j2", "triage.j2\n  params: {n: '${N}'}") + "retry: {attempts: '${N}'}\n"
    text += "output: {csv_safe: '${FLAG}'}\nallow_failures: ${N}\n"
    made = load_text(
        tmp_path, text, environ={"N": "4", "FLAG": "true"}, set_values=["model.parameters.seed=${N}"]
    )
    assert made.prompt.params == {"n": "4"}
    assert (made.retry.attempts, made.output.csv_safe, made.allow_failures.count) == (4, True, 4)
    assert made.model.parameters == {"seed": 4}


# ---------------------------------------------------------------- canonical form and schema


def test_a_moved_project_keeps_its_canonical_form(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = FULL.replace("name: ticket-triage\n", "")
    first = load_text(tmp_path / "a", text, s__json='{"type": "object"}')
    shutil.move(tmp_path / "a", tmp_path / "b")
    second = load(tmp_path / "b" / "m.yaml", environ={})
    assert first.canonical == second.canonical
    document = json.loads(second.canonical)
    assert document["dataset"]["path"] == ["a/*.csv", "/abs/b.csv"]
    assert document["output"]["path"] == ["../r/t.csv", "t.db"]
    assert document["name"] == "m"


def test_the_canonical_form_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    lines = GOOD.splitlines(keepends=True)
    turned = "".join([*lines[5:], *lines[3:5], *lines[1:3], lines[0]])
    assert load_text(tmp_path, turned).canonical == load_text(tmp_path, GOOD).canonical


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    document = schema()
    jsonschema.Draft202012Validator.check_schema(document)
    assert json.loads(schema_text()) == document

    def bare(part: object, path: str) -> list[str]:
        if not isinstance(part, dict):
            return []
        missing = [
            f"{path}.{key}"
            for key, value in part.get("properties", {}).items()
            if "else" not in path and "description" not in value and "$ref" not in value
        ]
        return missing + [name for key, value in part.items() for name in bare(value, f"{path}.{key}")]

    assert bare(document, "") == []


def test_every_mapping_of_ours_is_closed() -> None:
    for name, part in schema()["$defs"].items():
        if part.get("type") == "object" and name != "parameters":
            assert part["additionalProperties"] is False, name


def test_an_editor_accepts_what_load_accepts(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    validator = jsonschema.Draft202012Validator(schema())
    for text in (GOOD, FULL, "extends: base.yaml\n"):
        assert (
            list(
                validator.iter_errors(yaml.safe_load(text.replace("2026-01-01", "x").replace("1: one, ", "")))
            )
            == []
        )


# ---------------------------------------------------------------- schedules


def test_a_schedule_has_its_defaults(tmp_path: Path) -> None:
    schedule = load_text(tmp_path, GOOD + "schedule: {cron: 17 2 * * 1-5}\n").schedule
    assert schedule == ScheduleSettings(
        cron="17 2 * * 1-5",
        timezone="UTC",
        overlap="skip",
        missed="latest",
        start_within_s=None,
        jitter_s=0,
        reprocess="changed",
        refresh_older_than_s=None,
    )
    assert load_text(tmp_path).schedule is None


def test_a_schedule_says_it_all(tmp_path: Path) -> None:
    keys = (
        "cron: 0 2 * * *, timezone: Europe/London, overlap: queue, missed: all, start_within: 6h, jitter: 10m"
    )
    text = GOOD + f"schedule: {{{keys}, reprocess: {{older_than: 30d}}}}\n"
    schedule = load_text(tmp_path, text).schedule
    assert schedule == ScheduleSettings(
        cron="0 2 * * *",
        timezone="Europe/London",
        overlap="queue",
        missed="all",
        start_within_s=6 * 3600,
        jitter_s=600,
        refresh_older_than_s=30 * 86_400,
    )


def test_a_schedule_is_put_together_like_any_other_part(tmp_path: Path) -> None:
    text = GOOD + "schedule: {cron: 0 2 * * *}\nprofiles: {paris: {schedule: {timezone: Europe/Paris}}}\n"
    assert load_text(tmp_path, text).schedule == ScheduleSettings(cron="0 2 * * *")
    schedule = load_text(tmp_path, text, profile="paris", set_values=["schedule.cron=0 3 * * *"]).schedule
    assert schedule == ScheduleSettings(cron="0 3 * * *", timezone="Europe/Paris")


def test_one_answer_and_plain_numbers_may_be_asked_for(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    path.write_text(GOOD + "  parameters: {n: 1, encoding_format: float}\n", encoding="utf-8")
    assert load(path, environ={}).model.parameters == {"n": 1, "encoding_format": "float"}
