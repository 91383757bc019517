"""Any printable words come through each scheduler's quotes as they were."""

from __future__ import annotations

import ast
import json
import re
import shlex

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.schedule import quoting

NASTY = st.sampled_from(
    ["%", "\\", "\\%", "'", '"', "$", "$$", "${{", "}}", "{{", "$(", " ", "~", "#", "*", "-"]
)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=0x2FFF).filter(str.isprintable)
WORD = st.lists(st.one_of(NASTY, PRINTABLE), min_size=1, max_size=12).map("".join)
WORDS = st.lists(WORD, min_size=1, max_size=4)


def as_cron_runs_it(line: str) -> str:
    """What Debian's cron hands to the shell: `\\%` is `%`, any other escaped character stays as it is."""
    command, is_escaped = "", False
    for mark in line:
        assert mark != "%" or is_escaped, "a bare % ends the command"
        command = command[:-1] + mark if is_escaped and mark == "%" else command + mark
        is_escaped = not is_escaped and mark == "\\"
    return command


@settings(max_examples=150)
@given(WORDS)
def test_cron_and_its_shell(words: list[str]) -> None:
    assert shlex.split(as_cron_runs_it(quoting.cron_command(quoting.shell(words)))) == words


@settings(max_examples=150)
@given(WORDS)
def test_systemd(words: list[str]) -> None:
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', quoting.systemd(words))
    plain = [re.sub(r"\\(.)", r"\1", word) for word in quoted]
    assert all(len(run) % 2 == 0 for word in plain for run in re.findall("%+", word))
    program, *rest = [word.replace("%%", "%") for word in plain]
    assert [program, *(word.replace("$$", "$") for word in rest)] == words


@settings(max_examples=150)
@given(WORDS)
def test_yaml_github_and_python(words: list[str]) -> None:
    assert yaml.safe_load(quoting.yaml_list(words)) == words
    assert ast.literal_eval(quoting.python(words)) == words
    for word in words:
        assert yaml.safe_load(quoting.yaml(word)) == word == json.loads(quoting.yaml(word))
        seen = yaml.safe_load(quoting.github(word))
        assert "${{" not in seen.replace("${{ '${{' }}", "")
        assert seen.replace("${{ '${{' }}", "${{") == word
