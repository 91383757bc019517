"""What a template and a row make: messages, white space, values as text, inheritance."""

from __future__ import annotations

import datetime
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.contract.prompt_factories import make_prompt, only_text, texts, write_templates

BOTH = "{% block system %}Be {{ params.tone }}.{% endblock %}\n{% block user %}{{ a }}{% endblock %}\n"


def test_a_file_without_blocks_is_one_user_message(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "Hello {{ name }}\n")
    assert texts(prompt.render({"name": "Ann"})) == [("user", "Hello Ann")]


def test_blocks_are_messages_in_the_order_of_the_template(tmp_path: Path) -> None:
    template = (
        "{% block user %}q{% endblock %}{% block assistant %}a{% endblock %}{% block system %}s{% endblock %}"
    )
    assert texts(make_prompt(tmp_path, template).render({})) == [
        ("user", "q"),
        ("assistant", "a"),
        ("system", "s"),
    ]


def test_a_blank_block_gives_no_message(tmp_path: Path) -> None:
    prompt = make_prompt(
        tmp_path, "{% block system %}\n {{ s }}\n{% endblock %}{% block user %}u{% endblock %}"
    )
    assert texts(prompt.render({"s": "  "})) == [("user", "u")]
    assert texts(prompt.render({"s": None})) == [("user", "u")]


def test_other_blocks_are_ordinary(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "{% block user %}a{% block inner %}b{% endblock %}c{% endblock %}")
    assert only_text(prompt.render({})) == "abc"


def test_a_message_block_in_a_loop_gives_a_message_for_each_round(tmp_path: Path) -> None:
    template = (
        "{% for shot in params.shots %}{% block user scoped %}{{ shot.q if shot else text }}{% endblock %}"
        "{% block assistant scoped %}{{ shot.a if shot else '' }}{% endblock %}{% endfor %}"
    )
    params = {"shots": [{"q": "1+1", "a": "2"}, None]}
    prompt = make_prompt(tmp_path, template, params=params)
    assert texts(prompt.render({"text": "2+2"})) == [("user", "1+1"), ("assistant", "2"), ("user", "2+2")]


def test_a_message_block_may_stand_under_a_condition(tmp_path: Path) -> None:
    template = "{% if s %}{% block system %}{{ s }}{% endblock %}{% endif %}{% block user %}u{% endblock %}"
    prompt = make_prompt(tmp_path, template)
    assert texts(prompt.render({"s": "x"})) == [("system", "x"), ("user", "u")]
    assert texts(prompt.render({"s": ""})) == [("user", "u")]


def test_sets_macros_and_imports_outside_of_blocks_are_seen_inside(tmp_path: Path) -> None:
    files = {
        "main.j2": (
            "{% import 'lib.j2' as lib %}{% from 'lib.j2' import shout as loud %}\n"
            "{% set greeting = 'Dear ' ~ name %}\n{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}\n"
            "{% block user %}{{ greeting }} {{ twice('a') }} {{ lib.shout('b') }} "
            "{{ loud('c') }}{% endblock %}"
        ),
        "lib.j2": "{% macro shout(x) %}{{ x|upper }}!{% endmacro %}",
    }
    prompt = make_prompt(tmp_path, files)
    assert only_text(prompt.render({"name": "Ann"})) == "Dear Ann aa B! C!"
    assert only_text(prompt.render({"name": "Bob"})) == "Dear Bob aa B! C!"


def test_a_child_fills_the_blocks_of_its_parent(tmp_path: Path) -> None:
    files = {
        "main.j2": (
            "{% extends 'base.j2' %}{% set who = 'Ann' %}"
            "{% block question %}What is {{ x }}?{% endblock %}"
            "{% block system %}{{ super() }} Be {{ params.tone }}.{% endblock %}"
        ),
        "base.j2": (
            "{% block system %}You are {{ who }}.{% endblock %}\n"
            "{% block user %}Q: {% block question %}{% endblock %}{% endblock %}\n"
        ),
    }
    prompt = make_prompt(tmp_path, files, params={"tone": "kind"})
    for x in ("1", "2"):
        assert texts(prompt.render({"x": x})) == [
            ("system", "You are Ann. Be kind."),
            ("user", f"Q: What is {x}?"),
        ]


def test_included_files_see_the_row_and_may_hold_messages(tmp_path: Path) -> None:
    files = {
        "main.j2": "{% include 'shots.j2' %}\n{% block user %}{% include 'ask.txt' %}{% endblock %}",
        "shots.j2": "{% block system %}Shots for {{ x }}{% endblock %}",
        "ask.txt": "Ask {{ x }}",
    }
    assert texts(make_prompt(tmp_path, files).render({"x": 7})) == [
        ("system", "Shots for 7"),
        ("user", "Ask 7"),
    ]


# ---------------------------------------------------------------- where files are found


def test_parents_are_found_in_the_templates_folder_of_the_project(tmp_path: Path) -> None:
    write_templates(tmp_path, {"templates/base.j2": "{% block user %}{% endblock %}"})
    prompt = make_prompt(
        tmp_path / "prompts",
        "{% extends 'base.j2' %}{% block user %}u{% endblock %}",
        search_root=str(tmp_path),
    )
    assert only_text(prompt.render({})) == "u"


def test_parents_are_found_in_the_nearest_templates_folder_above(tmp_path: Path) -> None:
    write_templates(tmp_path / "templates", {"shared/base.j2": "{% block user %}{% endblock %}"})
    prompt = make_prompt(
        tmp_path / "templates" / "tickets",
        "{% extends 'shared/base.j2' %}{% block user %}u{% endblock %}",
    )
    assert only_text(prompt.render({})) == "u"


def test_the_digest_covers_every_file_and_only_them(tmp_path: Path) -> None:
    files = {"main.j2": "{% include 'a.j2' %}", "a.j2": "one", "b.j2": "unused"}
    before = make_prompt(tmp_path, files, params={"p": 1})
    assert before.files() == (str(tmp_path / "main.j2"), str(tmp_path / "a.j2"))
    assert make_prompt(tmp_path, files | {"b.j2": "other"}).digest() == before.digest()
    assert make_prompt(tmp_path, files | {"a.j2": "two"}).digest() != before.digest()
    assert len(before.digest()) == 64


def test_a_source_travels_with_the_texts_that_were_read(tmp_path: Path) -> None:
    files = {"main.j2": "{% include 'a.j2' %} {{ params.tone }}", "a.j2": "old {{ x }}"}
    prompt = make_prompt(tmp_path, files, params={"tone": "kind"})
    (tmp_path / "a.j2").write_text("new")
    (tmp_path / "main.j2").unlink()
    copy = pickle.loads(pickle.dumps(prompt.source)).compile()
    assert only_text(copy.render({"x": 1})) == "old 1 kind"
    assert copy.digest() == prompt.digest()


# ---------------------------------------------------------------- white space

WHITE_SPACE = [
    ("a\n{% if x %}\nb\n{% endif %}\nc", "a\nb\nc"),
    ("a\n  {% if x %}  \nb\n\t{% endif %}\nc", "a\nb\nc"),
    ("a {% if x %}b{% endif %}\nc", "a b\nc"),
    ("a {{ x }}\nc", "a 1\nc"),
    ("a\n{# why #}\n{% set y = 2 %} {# and #}\nc{{ y }}", "a\nc2"),
    ("a\n\n{% if x %}\n\nb\n{% endif %}\n\nc", "a\n\n\nb\n\nc"),
    ("{% if x %}\na\n{% endif %}", "a"),
    ("a\n  {%+ if x %}\nb{% endif %}", "a\n  \nb"),
    ("a\n  {%- if x -%}\n  b{% endif %}", "ab"),
    ("{% for i in [1, 2] %}\n- {{ i }}\n{% endfor %}\nend", "- 1\n- 2\nend"),
    ("{% raw %}\n{{ a }}\n{% if %}\n{% endraw %}\nb", "{{ a }}\n{% if %}\nb"),
    ("a\r\n{% if x %}\r\nb\r\n{% endif %}\r\nc", "a\nb\nc"),
    ("{{ x }} {% if x %}\ny{% endif %}", "1 \ny"),
    ("\n\n  a  \n\n", "a"),
    ("a {#- cut -#} b", "ab"),
]


@pytest.mark.parametrize(("template", "text"), WHITE_SPACE)
def test_a_line_of_nothing_but_tags_leaves_no_line(tmp_path: Path, template: str, text: str) -> None:
    assert only_text(make_prompt(tmp_path, template).render({"x": 1})) == text


def test_lines_keep_their_numbers_when_tag_lines_are_cut(tmp_path: Path) -> None:
    outcome = make_prompt(tmp_path, "{# c #}\n{% set a = 1 %}\n\nx\n{{ missing }}").render({})
    assert "main.j2:5" in str(outcome)


# ---------------------------------------------------------------- values

VALUES: list[tuple[str, Any, str]] = [
    ("[{{ v }}]", None, "[]"),
    ("[{{ v is none }}]", None, "[True]"),
    ("[{{ 'a' ~ v ~ 1 }}]", None, "[a1]"),
    ("[{{ 'a' ~ none }}]", None, "[a]"),
    ("[{{ v|upper }}{{ v|trim }}{{ v|title }}{{ v|truncate(3) }}]", None, "[]"),
    ("[{{ v|join(',') }}]", ["a", None, 1], "[a,,1]"),
    ("[{{ v|default('x') }}]", None, "[]"),
    ("[{{ v or 'x' }}]", None, "[x]"),
    ("{{ v }}", Decimal("1.50"), "1.50"),
    ("{{ v }}", datetime.date(2024, 2, 3), "2024-02-03"),
    ("{{ v }}", "<b> & {{ x }}", "<b> & {{ x }}"),
    ("{{ v|escape ~ '<' }}", "<b>", "&lt;b&gt;<"),
    ("{{ v.city }} {{ v['zip'] }}", {"city": "Ulm", "zip": 1}, "Ulm 1"),
    ("{{ v|tojson }}", {"b": "é<", "a": [Decimal("1.5"), None]}, '{"b": "é<", "a": ["1.5", null]}'),
    (
        "{{ v|tojson }}",
        datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.UTC),
        '"2024-01-02T03:04:00+00:00"',
    ),
    ("{{ v|tojson(indent=1) }}", [float("nan")], "[\n null\n]"),
    ("{{ v|sum(attribute='n') }}", [{"n": 1}, {"n": 2}], "3"),
    ("{{ v|map('upper')|join(' ') }}", ["a", "b"], "A B"),
    ("{{ v|replace('a', 'bb') }}", "aXa", "bbXbb"),
    ("{{ '%05.1f|%s'|format(v, 'x') }}", 3.14159, "003.1|x"),
    ("{{ '|{:>4}|{a}'.format(v, a=1) }}", "x", "|   x|1"),
    ("{{ v|center(5) }}|", "x", "x  |"),
]


@pytest.mark.parametrize(("template", "value", "text"), VALUES)
def test_values_become_text(tmp_path: Path, template: str, value: Any, text: str) -> None:
    assert only_text(make_prompt(tmp_path, template).render({"v": value})) == text


def test_columns_that_are_no_identifiers_are_read_through_the_row(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, '{{ row["First name"] }} {{ row.row }} {{ params.p }}', params={"p": "P"})
    row = {"First name": "Ann", "row": "column", "params": "no"}
    assert only_text(prompt.render(row)) == "Ann column P"


def test_params_that_a_template_rebinds_are_not_constants(tmp_path: Path) -> None:
    template = "{% for params in [{'t': 1}, {'t': 2}] %}{{ params.t }}{% endfor %}{{ params.t }}"
    assert only_text(make_prompt(tmp_path, template, params={"t": "x"}).render({})) == "12x"


def test_a_prompt_is_the_same_for_the_same_row_in_every_compilation(tmp_path: Path) -> None:
    row = {"a": {"z": 1, "b": [1, 2]}}
    first = make_prompt(tmp_path, BOTH, params={"tone": "kind"}).render(row)
    assert first == make_prompt(tmp_path, BOTH, params={"tone": "kind"}).render(row)
    assert texts(first) == [("system", "Be kind."), ("user", "{'z': 1, 'b': [1, 2]}")]
