# ruff: noqa: E501 - a pinned text stands on one line, as the user sees it
"""What a wrong manifest is told: the texts that people meet most are pinned whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.errors import InputError
from runner.manifest import load
from tests.contract.manifest_factories import GOOD, complaint, make_project


def with_line(line: str) -> str:
    """GOOD with a line in place of the one that begins with the same key, else after the last."""
    key = line.split(":")[0]
    lines = GOOD.split("\n")
    at = [index for index, each in enumerate(lines) if each.startswith(key + ":")]
    if at:
        lines[at[0]] = line
        return "\n".join(lines)
    return GOOD + line + "\n"


def test_a_misspelt_key_is_named_at_its_own_place(tmp_path: Path) -> None:
    text = GOOD.replace("  path:", "  pth:")
    assert complaint(tmp_path, text) == "m.yaml:3:3: dataset.pth: unknown key; did you mean 'path'?"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("version: 1\n", None),
        (GOOD.replace("  name: some-model\n", ""), "m.yaml:6:1: model.name: required key is missing; for example name: Qwen/Qwen3.5-9B"),
        (GOOD.replace("version: 1\n", ""), "m.yaml:1:1: version: required key is missing; for example version: 1"),
        (with_line("version: 2"), "m.yaml:1:10: version: expected 1, got the number 2; this runner reads version 1"),
        (with_line("retry: {attempts: many}"), "m.yaml:9:19: retry.attempts: expected a whole number, got the text 'many'"),
        (with_line("retry: {attempts: 0}"), "m.yaml:9:19: retry.attempts: 0 is too small; at least 1"),
        (with_line("retry: {backoff: {initial: soon}}"), "m.yaml:9:28: retry.backoff.initial: 'soon' has the wrong form; write seconds, or a duration such as 30s or 10m"),
        (with_line("retry: {backoff: {initial: 48h}}"), "m.yaml:9:28: retry.backoff.initial: '48h' is out of range; at most a day"),
        (with_line("retry: {backoff: {initial: 20m, max: 10m}}"), "m.yaml:9:28: retry.backoff.initial: is more than max; the first wait is the shortest"),
        (with_line("retry: {backoff: {factor: 0.5}}"), "m.yaml:9:27: retry.backoff.factor: 0.5 is too small; at least 1"),
        (with_line("on_truncated: {ceiling: 8000}"), None),
        (with_line("on_truncated: {max_tokens_factor: 2, ceiling: 8000}"), "m.yaml:9:1: on_truncated: needs max_tokens or max_completion_tokens in model.parameters: the limit that is to be raised"),
        (with_line("  parameters: {max_tokens: 9000}") + "on_truncated: {max_tokens_factor: 2, ceiling: 8000}\n", "m.yaml:10:47: on_truncated.ceiling: is not above model.parameters.max_tokens, which is 9000; write a larger ceiling"),
        (with_line("  endpoint: /v1/embeddings") + "on_truncated: {max_tokens_factor: 2, ceiling: 8000}\n", "m.yaml:10:1: on_truncated: embeddings have no token limit; leave on_truncated out"),
        (with_line("retry: 3"), "m.yaml:9:8: retry: expected a mapping, got the number 3"),
        (with_line("description: 5"), "m.yaml:9:14: description: expected text, got the number 5; quotes make it text"),
        (with_line("budget:"), "m.yaml:9:8: budget: expected a mapping, got nothing; write a value, or leave the key out"),
        (with_line("  provider: doublword"), "m.yaml:7:13: model.provider: 'doublword' is not known; did you mean 'doubleword'? allowed: local, doubleword, openai"),
        (with_line("  endpoint: /v1/messages"), "m.yaml:9:13: model.endpoint: '/v1/messages' is not known; did you mean '/v1/responses'? allowed: /v1/chat/completions, /v1/responses, /v1/embeddings, /v1/completions"),
        (with_line("batch: {completion_window: 24}"), "m.yaml:9:28: batch.completion_window: expected text, got the number 24; write a duration such as 24h or 1h"),
        (with_line("allow_failures: 0.5"), "m.yaml:9:17: allow_failures: expected a whole number or text, got the number 0.5; write a share such as 0.5%, or a whole number of rows"),
        (with_line("allow_failures: 101%"), "m.yaml:9:17: allow_failures: '101%' is out of range; at most 100%"),
        (with_line("name: Ticket Triage"), "m.yaml:9:7: name: 'Ticket Triage' has the wrong form; use lower-case letters, digits and dashes, such as ticket-triage"),
        (with_line("schedul: {}"), "m.yaml:9:1: schedul: unknown key; did you mean 'schedule'?"),
        (with_line("colour: {}"), "m.yaml:9:1: colour: unknown key; known keys: version, name, description, dataset, prompt, model, batch, output, retry, allow_failures, budget, refresh, repeats, on_truncated, on_edit, schedule, notify, extends, profiles"),
        (with_line("schedule: {}"), "m.yaml:9:1: schedule.cron: required key is missing; for example cron: 17 2 * * 1-5"),
        (with_line("schedule: {cron: 0 2 * *}"), "m.yaml:9:18: schedule.cron: '0 2 * *' is no cron expression: has 4 fields, not five; minute, hour, day of the month, month, day of the week, such as 17 2 * * 1-5"),
        (with_line("schedule: {cron: 0 25 * * *}"), "m.yaml:9:18: schedule.cron: '0 25 * * *' is no cron expression: its hour is wrong; minute, hour, day of the month, month, day of the week, such as 17 2 * * 1-5"),
        (with_line("schedule: {cron: '*/90 * * * *'}"), "m.yaml:9:18: schedule.cron: '*/90 * * * *' says something else than it seems to: its minute steps by 90, and there are 60 in each hour; steps begin anew with each hour; step in hours, such as 0 */2 * * *"),
        (with_line("schedule: {cron: 0 0 31 2 *}"), "m.yaml:9:18: schedule.cron: '0 0 31 2 *' is no cron expression: its day-of-month is wrong; minute, hour, day of the month, month, day of the week, such as 17 2 * * 1-5"),
        (with_line("schedule: {cron: 0 2 * * *, timezone: europe/london}"), "m.yaml:9:39: schedule.timezone: 'europe/london' is not a known time zone; did you mean 'Europe/London'?"),
        (with_line("schedule: {cron: 0 2 * * *, timezone: Paris}"), "m.yaml:9:39: schedule.timezone: 'Paris' is not a known time zone; did you mean 'Europe/Paris'?"),
        (with_line("schedule: {cron: 0 2 * * *, timezone: ../etc/passwd}"), "m.yaml:9:39: schedule.timezone: '../etc/passwd' is not a known time zone; write an IANA name such as Europe/London, or UTC"),
        (with_line("schedule: {cron: 0 2 * * *, overlap: wait}"), "m.yaml:9:38: schedule.overlap: 'wait' is not known; allowed: skip, queue, replace"),
        (with_line("schedule: {cron: 0 2 * * *, missed: every}"), "m.yaml:9:37: schedule.missed: 'every' is not known; allowed: latest, none, all"),
        (with_line("schedule: {cron: 0 2 * * *, start_within: soon}"), "m.yaml:9:43: schedule.start_within: 'soon' has the wrong form; write a duration such as 30m or 6h"),
        (with_line("schedule: {cron: 0 2 * * *, start_within: 0s}"), "m.yaml:9:43: schedule.start_within: '0s' is out of range; at least 1s"),
        (with_line("schedule: {cron: \"*/5 * * * *\", jitter: 10m}"), "m.yaml:9:41: schedule.jitter: '10m' is not shorter than the time between two due times; less than 5 minutes"),
        (with_line("schedule: {cron: 0 2 * * *, reprocess: {older_than: 3}}"), "m.yaml:9:53: schedule.reprocess.older_than: expected text, got the number 3; write a duration such as 12h or 30d"),
        (with_line("schedule: {cron: 0 2 * * *, reprocess: some}"), "m.yaml:9:40: schedule.reprocess: 'some' is not known; allowed: changed, failed, all"),
        (with_line("notify: {on: [failed]}"), "m.yaml:9:1: notify.url_env: required key is missing; for example url_env: ALERT_URL"),
        (with_line("notify: {url_env: ALERT-URL}"), "m.yaml:9:19: notify.url_env: 'ALERT-URL' has the wrong form; write the name of an environment variable, such as ALERT_URL, and never the address itself"),
        (with_line("notify: {url_env: 'https://hooks.example.com/T0/canary'}"), "m.yaml:9:19: notify.url_env: is an address, and that is a secret; put it into an environment variable, and write that variable's name here"),
        (with_line("notify: {url_env: A, on: failed}"), "m.yaml:9:26: notify.on: expected a list, got the text 'failed'"),
        (with_line("notify: {url_env: A, on: [failed, complete]}"), "m.yaml:9:35: notify.on.1: 'complete' is not known; did you mean 'completed'? allowed: failed, completed, budget"),
        (with_line("notify: {url_env: A, on: []}"), "m.yaml:9:22: notify.on: is empty; write a value, or leave the key out"),
        (with_line("notify: {url: x}"), None),
        (with_line("template: x.j2"), "m.yaml:9:1: template: unknown key; it belongs in prompt"),
        (with_line("  temperature: 0"), "m.yaml:9:3: model.temperature: unknown key; it belongs in model.parameters"),
        (with_line("model: {provider: local}"), None),
        (with_line("  template: triag.j2"), "m.yaml:5:13: prompt.template: there is no file triag.j2; did you mean 'triage.j2'?"),
        (with_line("  template: no/such.j2"), "m.yaml:5:13: prompt.template: there is no file no/such.j2; there is no folder no either"),
        (with_line("  template: ~/x.j2"), "m.yaml:5:13: prompt.template: '~' is not expanded; write ${HOME}/... or a path from this file"),
        (with_line("  path: s3://bucket/x.csv"), "m.yaml:3:9: dataset.path: 's3://bucket/x.csv' is a URL; only local files can be used; download it, or mount it as a folder"),
        (with_line("output: {path: x.xlsx}"), "m.yaml:9:16: output.path: 'x.xlsx' has the wrong form; the suffix decides the format: .parquet, .csv, .jsonl or .db"),
        (with_line("output: {path: [a.csv, b/../a.csv]}"), "m.yaml:9:24: output.path.1: the same file twice"),
        (with_line("output: {path: data/tickets.csv}"), "m.yaml:9:16: output.path: would overwrite the dataset; choose another file"),
        (with_line("batch: {max_file_bytes: 0MB}"), "m.yaml:9:25: batch.max_file_bytes: '0MB' is out of range; at least one byte"),
        (with_line("batch: {max_file_bytes: 1 parsec}"), "m.yaml:9:25: batch.max_file_bytes: '1 parsec' has the wrong form; write bytes, or a size such as 90MB or 100MiB"),
        (with_line("  parameters: {n: 3}"), "m.yaml:9:19: model.parameters.n: 3 answers to each request are paid, and the table holds the first alone; leave it out and write repeats: 3"),
        (with_line("  parameters: {best_of: 5}"), "m.yaml:9:25: model.parameters.best_of: 5 answers to each request are paid, and the server shows no more than the best; leave it out, or see them all with repeats: 5"),
        (with_line("  parameters: {encoding_format: base64}"), "m.yaml:9:33: model.parameters.encoding_format: embeddings in base64 are not read; leave it out; the table holds lists of numbers"),
        (with_line("  parameters: {stream: true}"), "m.yaml:9:16: model.parameters.stream: is not a parameter that can be set; answers of a batch come as files"),
        (with_line('name: "abc\\n"'), "m.yaml:9:7: name: 'abc\\n' has the wrong form; use lower-case letters, digits and dashes, such as ticket-triage"),
    ],
)  # fmt: skip
def test_values_and_keys(tmp_path: Path, text: str, wanted: str | None) -> None:
    said = complaint(tmp_path, text)
    assert wanted is None or said == wanted


def test_missing_sections_are_named_with_an_example(tmp_path: Path) -> None:
    assert complaint(tmp_path, "version: 1\n").split("\n") == [
        "m.yaml:1:1: dataset: required key is missing; for example dataset: {path: data/tickets.csv}",
        "m.yaml:1:1: prompt: required key is missing; for example prompt: {template: ../templates/triage.j2}",
        "m.yaml:1:1: model: required key is missing; for example model: {provider: local, name: Qwen/Qwen3.5-9B}",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "m.yaml:1:1: the file is empty"),
        ("# only a comment\n", "m.yaml:1:1: the file is empty"),
        ("- a\n", "m.yaml:1:1: a manifest is a mapping of keys to values; begin with 'version: 1'"),
        ("a: 1\n\tb: 2\n", "m.yaml:2:1: not valid YAML: a tab where only spaces may stand; indent with spaces"),
        ("a: b: c\n", "m.yaml:1:5: not valid YAML: mapping values are not allowed here; check the indentation, and quote text that holds ': '"),
        ("a: [1,\nb: 2\n", None),
        ('a: "x\n', None),
        ("a:\n  b: 1\n c: 2\n", None),
        ("a: 1\n---\nb: 2\n", "m.yaml:2:1: a second document begins here; only one is allowed"),
        ("a: *x\n", "m.yaml:1:4: a: the alias *x has no anchor before it"),
        ("a: &x [*x]\n", "m.yaml:1:8: a.0: the alias *x stands inside its own anchor"),
        ("a: \x07\n", 'm.yaml:1:4: the character U+0007 is not allowed; in text write it as an escape, such as "\\u0007"'),
        ('a: "\\UFFFFFFFF"\n', None),
        ("a: " + "[" * 70, None),
        ("a: &a [1,2,3,4,5,6,7,8,9]\nb: &b [" + "*a," * 9 + "]\nc: &c [" + "*b," * 9 + "]\nd: &d [" + "*c," * 9 + "]\ne: [" + "*d," * 9 + "]\n", "m.yaml:5:5: e.0: more than 10,000 keys and values, aliases expanded"),
    ],
)  # fmt: skip
def test_what_is_not_one_document_is_one_mistake(tmp_path: Path, text: str, wanted: str | None) -> None:
    said = complaint(tmp_path, text)
    assert "\n" not in said
    assert wanted is None or said == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("version: 1", "m.yaml:9:1: version: duplicate key; the first is at line 1, column 1"),
        ("description: !!python/name:os.system x", "m.yaml:9:14: description: the tag !!python/name:os.system is not allowed; write the value without it; quotes make it text"),
        ("description: !x y", "m.yaml:9:14: description: the tag !x is not allowed; write the value without it; quotes make it text"),
        ("<<: {}", "m.yaml:9:1: merge keys (<<) are not supported; use `extends`, `profiles`, or an alias for the whole value"),
        ("? [a]\n: b", "m.yaml:9:3: a key must be plain text"),
        ("budget: {max_cost: .inf}", "m.yaml:9:20: budget.max_cost: .inf is not a number that JSON can hold"),
        ("budget: {max_cost: 99999999999999999999}", "m.yaml:9:20: budget.max_cost: 99999999999999999999 does not fit into 64 bits; quotes make it text"),
        ('description: "\\ud800"', "m.yaml:9:14: description: holds NUL or half of a surrogate pair, which can't be sent"),
    ],
)  # fmt: skip
def test_strict_yaml_goes_on_reading(tmp_path: Path, line: str, wanted: str) -> None:
    assert complaint(tmp_path, GOOD + line + "\n") == wanted


def test_every_mistake_is_told_at_once_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("path:", "pth:").replace("local", "lcal").replace("triage.j2", "nothing.j2")
    said = complaint(tmp_path, text, set_values=["retry.attempts=x", "nonsense"])
    assert [line.split(": ")[0] for line in said.split("\n")] == [
        "m.yaml:3:3",
        "m.yaml:5:13",
        "m.yaml:7:13",
        "--set nonsense",
        "--set retry.attempts=...",
    ]


def test_a_mistake_has_its_parts(tmp_path: Path) -> None:
    path = make_project(tmp_path, GOOD.replace("path:", "pth:"))
    with pytest.raises(InputError) as caught:
        load(path, environ={})
    (mistake,) = caught.value.mistakes
    assert (mistake.where, mistake.path) == (f"{path}:3:3", "dataset.pth")
    assert (mistake.what, mistake.hint) == ("unknown key", "did you mean 'path'?")


# ---------------------------------------------------------------- files


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    make_project(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for name, wanted in (
        ("n.yaml", f"{tmp_path}/n.yaml: there is no such file; did you mean 'm.yaml'?"),
        (".", f"{tmp_path}: not a file"),
        ("pipe", f"{tmp_path}/pipe: not a file"),
    ):
        with pytest.raises(InputError) as caught:
            load(tmp_path / name, environ={})
        assert str(caught.value) == wanted


@pytest.mark.parametrize("path", ["", "a\0b", "a\udcffb"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(InputError):
        load(path, environ={})


def test_a_file_that_is_not_utf8_is_told_the_offset(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    path.write_bytes(b"version: 1\nname: caf\xe9\n")
    with pytest.raises(InputError) as caught:
        load(path, environ={})
    assert str(caught.value) == f"{path}:2:10: not UTF-8: byte 0xe9 at offset 20; save the file as UTF-8"


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    assert (
        complaint(tmp_path, "#" * 1_000_001) == "m.yaml:1:1: larger than 1,000,000 bytes; is this a manifest?"
    )


# ---------------------------------------------------------------- layers


def test_a_circle_of_parents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("extends: m.yaml\n")
    said = complaint(tmp_path, "extends: b.yaml\n").replace(str(tmp_path) + "/", "")
    assert said == "b.yaml:1:10: extends: manifests extend each other in a circle: m.yaml -> b.yaml -> m.yaml"


def test_a_parent_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("")
    said = complaint(tmp_path, "extends: bas.yaml\n")
    assert said == "m.yaml:1:10: extends: there is no file bas.yaml; did you mean 'base.yaml'?"


def test_a_mistake_in_a_parent_names_the_parent(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD.replace("path:", "pth:"))
    assert (
        complaint(tmp_path, "extends: base.yaml\n")
        == "base.yaml:3:3: dataset.pth: unknown key; did you mean 'path'?"
    )


def test_an_unknown_profile_lists_the_known(tmp_path: Path) -> None:
    text = GOOD + "profiles: {prod: {}, dev: {}}\n"
    said = complaint(tmp_path, text, profile="prd")
    assert said == "--profile prd: unknown profile; did you mean 'prod'? it has: prod, dev"
    assert complaint(tmp_path, profile="x") == "--profile x: unknown profile; this manifest has no profiles"


def test_a_profile_that_is_not_used_is_checked_too(tmp_path: Path) -> None:
    text = GOOD + "profiles: {prod: {modl: {}, retry: {attempts: x}}, dev: 3}\n"
    assert complaint(tmp_path, text).split("\n") == [
        "m.yaml:9:19: profiles.prod.modl: unknown key; did you mean 'model'?",
        "m.yaml:9:47: profiles.prod.retry.attempts: expected a whole number, got the text 'x'",
        "m.yaml:9:52: profiles.dev: expected a mapping, got the number 3",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("model.nam=x", "--set model.nam=...: model.nam: unknown key; did you mean 'name'?"),
        ("model.name", "--set model.name: not an assignment; write it as key.key=value, such as model.name=X"),
        ("=x", "--set =...: not an assignment; write it as key.key=value, such as model.name=X"),
        ("model..name=x", "--set model..name=...: not an assignment; write it as key.key=value, such as model.name=X"),
        ("model.name=[", None),
        ("model.name=a: b", "--set model.name=...: model.name: expected text, got a mapping"),
        ("profiles.x=1", "--set profiles.x=...: profiles: can't be set from the command line"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_as_given(tmp_path: Path, text: str, wanted: str | None) -> None:
    said = complaint(tmp_path, set_values=[text])
    assert wanted is None or said == wanted


# ---------------------------------------------------------------- variables and secrets


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${NONE}", "environment variable NONE is not set; set it, or write ${NONE:-default}"),
        ("${NONE:?which team?}", "environment variable NONE is not set; which team?"),
        ("${NONE:?}", "environment variable NONE is not set"),
        ("${", "'${' is not a variable; write ${NAME}, ${NAME:-default} or ${NAME:?message}; $$ stands for a dollar sign"),
        ("${a b}", "'${a b}' is not a variable; write ${NAME}, ${NAME:-default} or ${NAME:?message}; $$ stands for a dollar sign"),
        ("${X_API_KEY}", "X_API_KEY looks like a secret, and this value would be stored; name the key's variable in model.provider.api_key_env, without ${...}"),
        ("${DB_PASSWORD:-x}", "DB_PASSWORD looks like a secret, and this value would be stored; name the key's variable in model.provider.api_key_env, without ${...}"),
        ("${BYTES}", "environment variable BYTES is not UTF-8"),
    ],
)  # fmt: skip
def test_a_variable_that_can_not_be_put_in(tmp_path: Path, text: str, wanted: str) -> None:
    said = complaint(
        tmp_path, GOOD + f"description: '{text}'\n", environ={"X_API_KEY": "k", "BYTES": "\udcff"}
    )
    assert said == f"m.yaml:9:14: description: {wanted}"


SECRET = "sk-proj-abcdefghij0123456789ABCDEF"  # looks like a key and is none


@pytest.mark.parametrize(
    "line",
    [
        f"  provider: {{base_url: 'https://x.example/v1', api_key_env: {SECRET}}}",
        "  provider: {base_url: 'https://x.example/v1', api_key_env: abcdefghij0123456789ABCDEF}",
        "  provider: {base_url: 'https://x.example/v1', api_key_env: 'a b abcdefghij0123456789ABCDEF'}",
        "  provider: {base_url: 'https://user:abcdefghij0123456789ABCDEF@x.example/v1'}",
        "  provider: {base_url: 'https://x.example/v1?key=abcdefghij0123456789ABCDEF'}",
        f"  provider: {SECRET}",
        f"  parameters: {{max_tokens: {SECRET}}}",
        f"description: Bearer {SECRET}",
        f"profiles: {{a: {{model: {{provider: {SECRET}}}}}}}",
    ],
)
def test_a_key_in_the_manifest_is_refused_and_not_shown(tmp_path: Path, line: str) -> None:
    said = complaint(tmp_path, with_line(line))
    assert "abcdefghij" not in said
    assert said.count("\n") == 0


def test_a_key_in_an_option_is_refused_and_not_shown(tmp_path: Path) -> None:
    said = complaint(tmp_path, set_values=[f"model.provider={SECRET}"])
    assert said.startswith("--set model.provider=...: model.provider: looks like an API key; ")
    assert "abcdefghij" not in said


def test_a_column_that_begins_like_a_key_is_no_key(tmp_path: Path) -> None:
    path = make_project(tmp_path, GOOD.replace("tickets.csv", "tickets.csv\n  key: pk_customer_identifier"))
    assert load(path, environ={}).dataset.key == ("pk_customer_identifier",)


# ---------------------------------------------------------------- the provider


@pytest.mark.parametrize(
    ("provider", "wanted"),
    [
        ("{}", "m.yaml:7:3: model.provider: needs base_url (a server of your own) or name (a known server)"),
        ("{base_url: 'ftp://x/v1'}", "m.yaml:7:24: model.provider.base_url: is not an http(s) address; such as https://llm.example.com/v1"),
        ("{base_url: 'http://gpu:8000/v1', api_key_env: K}", "m.yaml:7:24: model.provider.base_url: would send the API key unencrypted; use https, or leave api_key_env out where no key is needed"),
        ("{base_url: 'https://x/v1', upstream: 'http://127.0.0.1:1/v1'}", "m.yaml:7:50: model.provider.upstream: goes with name: local only; another server is named by base_url"),
        ("{nme: local}", None),
        ("[local]", "m.yaml:7:3: model.provider: expected text or a mapping, got a list"),
    ],
)  # fmt: skip
def test_a_wrong_provider(tmp_path: Path, provider: str, wanted: str | None) -> None:
    said = complaint(tmp_path, with_line(f"  provider: {provider}"))
    assert wanted is None or said == wanted


@pytest.mark.parametrize(
    "provider",
    [
        "{base_url: 'http://gpu:8000/v1'}",
        "{base_url: 'http://localhost:8000/v1', api_key_env: K}",
        "{base_url: 'http://[::1]:8000/v1', api_key_env: K}",
        "{base_url: 'https://x.example/v1/', api_key_env: K}",
    ],
)
def test_a_right_provider(tmp_path: Path, provider: str) -> None:
    path = make_project(tmp_path, with_line(f"  provider: {provider}"))
    made = load(path, environ={}).model.provider
    assert made.name is None
    assert made.base_url is not None
    assert not made.base_url.endswith("/")


# ---------------------------------------------------------------- output.schema


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("{", None),
        ("[]", ": a JSON Schema must be a JSON object"),
        ("{}", ':1:1: the schema\'s type must be object; write "type": "object" at the top'),
        ('{"type": "objekt"}', None),
        ('{"type": "object", "properties": {"a": {"pattern": "("}}}', None),
        ('{"type": "object", "properties": {"a": {"$ref": "https://x.example/s"}}}', ":1:49: $ref 'https://x.example/s' leads out of the file; put what it names under $defs"),
        ('{"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}', ":1:49: $ref '#/$defs/b' leads nowhere in the file"),
        ('{"type": "object", "$ref": "#"}', ":1:28: $ref '#' leads in a circle"),
        ('{"type": "object", "x": ' + "[" * 100 + "]" * 100 + "}", None),
    ],
)  # fmt: skip
def test_a_wrong_answer_schema(tmp_path: Path, content: str, wanted: str | None) -> None:
    said = complaint(tmp_path, with_line("output: {schema: s.json}"), s__json=content)
    assert said.startswith("m.yaml:9:18: output.schema: s.json")
    assert "\n" not in said
    assert wanted is None or said == f"m.yaml:9:18: output.schema: s.json{wanted}"


def test_an_answer_schema_that_is_not_json_is_told_the_place(tmp_path: Path) -> None:
    said = complaint(tmp_path, with_line("output: {schema: s.json}"), s__json='{\n  "type": object\n}')
    assert said.startswith("m.yaml:9:18: output.schema: s.json:2:11: not JSON: ")


def test_every_mistake_of_an_answer_schema_is_told_with_its_place(tmp_path: Path) -> None:
    schema = """{
  "type": "array",
  "properties": {
    "a": {"type": "strng"},
    "b": {"enum": "x"},
    "c": {"$ref": "other.json"},
    "d": {"items": {"pattern": "(["}},
    "e": 5
  },
  "required": "a"
}"""
    said = complaint(tmp_path, with_line("output: {schema: s.json}"), s__json=schema).split("\n")
    assert [line.removeprefix("m.yaml:9:18: output.schema: s.json:") for line in said] == [
        '2:11: the schema\'s type must be object; write "type": "object" at the top',
        "4:19: not a JSON Schema: properties.a.type: 'strng' is no type; did you mean 'string'?",
        "5:19: not a JSON Schema: properties.b.enum: 'x' is not of type 'array'",
        "6:19: $ref 'other.json' leads out of the file; put what it names under $defs",
        "7:32: not a JSON Schema: properties.d.items.pattern: '([' is not a 'regex'",
        "8:10: not a JSON Schema: properties.e: 5 is not of type 'object', 'boolean'",
        "10:15: not a JSON Schema: required: 'a' is not of type 'array'",
    ]


def test_two_answer_schemas_contradict_each_other(tmp_path: Path) -> None:
    text = with_line("  parameters: {response_format: {}}") + "output: {schema: s.json}\n"
    said = complaint(tmp_path, text, s__json='{"type": "object"}')
    assert (
        said
        == "m.yaml:9:16: model.parameters.response_format: is set by output.schema; leave one of the two out"
    )
