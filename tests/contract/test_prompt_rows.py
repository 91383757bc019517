"""A row that makes no prompt becomes a cause, with the template's file and line; the next row is rendered."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from runner.core.model import Message
from runner.prompt.filters import build_filters
from tests.contract.prompt_factories import cause_of, make_prompt, only_text

CAUSES: list[tuple[str, dict[str, Any], str, str]] = [
    ("a\n{{ subject }}", {}, "missing_variable", "main.j2:2: 'subject' is undefined"),
    ("{{ row['A b'] }}", {}, "missing_variable", "main.j2:1: 'dict object' has no attribute 'A b'"),
    ("{{ a.b }}", {"a": {}}, "missing_variable", "main.j2:1: 'dict object' has no attribute 'b'"),
    ("{% if x > 1 %}a{% endif %}", {"x": None}, "template_error",
     "main.j2:1: TypeError: '>' not supported between instances of 'NoneType' and 'int'"),
    ("a\n\n{{ 1 / x }}", {"x": 0}, "template_error", "main.j2:3: ZeroDivisionError: division by zero"),
    ("{{ x }}", {"x": b"ab"}, "template_error",
     "main.j2:1: TypeError: a binary value has no text; convert it in the dataset's query"),
    ("{{ x|map('upper') }}", {"x": ["a"]}, "template_error",
     "main.j2:1: TypeError: a generator was printed; add |list or |join(', ') to it"),
    ("{{ x.items }}", {"x": {"items": 1}}, "template_error",
     ("main.j2:1: TypeError: a builtin_function_or_method was printed; "
     "call it with (), or write x['name'] for a field's value")),
    ("{% set self = 1 %}{% block user %}{{ [self] }}{% endblock %}", {}, "template_error",
     ("main.j2:1: TypeError: the template itself was printed; "
     "call one of its blocks, or write row['self']")),
    ("{{ x }}", {"x": " \n"}, "empty_prompt", "the prompt is blank for this row"),
    ("{% block system %}s{% endblock %}{% block user %}{{ x }}{% endblock %}", {"x": None}, "empty_prompt",
     "the prompt has no user message: the block `user` is blank for this row"),
    ("{{ x }}", {"x": "a" * 1001}, "prompt_too_large", "the prompt is larger than 1000 bytes"),
    ("{{ x }}", {"x": "é" * 501}, "prompt_too_large", "the prompt is larger than 1000 bytes"),
    ("{% for i in range(9999) %}abc{% endfor %}", {}, "prompt_too_large",
     "the prompt is larger than 1000 bytes"),
    ("{{ x }}", {"x": "a\ud800"}, "template_error", "the text holds half a character (a lone surrogate)"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "row", "error_class", "message"), CAUSES)
def test_a_bad_row_is_a_cause(
    tmp_path: Path, template: str, row: dict[str, Any], error_class: str, message: str
) -> None:
    prompt = make_prompt(tmp_path, template, max_output_bytes=1000)
    assert cause_of(prompt.render(row)) == (error_class, message)


def test_the_place_is_that_of_the_innermost_file(tmp_path: Path) -> None:
    files = {"main.j2": "a\n{% include 'parts/inc.j2' %}", "parts/inc.j2": "\n\n{{ missing }}"}
    assert cause_of(make_prompt(tmp_path, files).render({})) == (
        "missing_variable",
        "parts/inc.j2:3: 'missing' is undefined",
    )


def test_a_prompt_of_exactly_the_limit_passes(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "\n {{ x }}\n", max_output_bytes=1000)
    assert only_text(prompt.render({"x": "é" * 500})) == "é" * 500
    assert only_text(prompt.render({"x": "a" * 1000})) == "a" * 1000


def test_causes_hold_no_control_characters_and_are_short(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "{{ row[x] }}")
    _, message = cause_of(prompt.render({"x": "\x1b[31m\n" + "a" * 10_000}))
    assert len(message) == 500
    assert message.endswith("...")
    assert message.isprintable()


def test_rows_after_a_bad_row_are_rendered_as_if_it_had_not_been(tmp_path: Path) -> None:
    template = (
        "{% set ns = namespace(n=0) %}{% set top = x %}"
        "{% block user %}{% for i in x %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }} "
        "{{ top }}{% endblock %}"
    )
    prompt = make_prompt(tmp_path, template)
    assert only_text(prompt.render({"x": [1, 2]})) == "3 [1, 2]"
    assert cause_of(prompt.render({"x": [1, "a"]}))[0] == "template_error"
    assert cause_of(prompt.render({}))[0] == "missing_variable"
    assert only_text(prompt.render({"x": [1]})) == "1 [1]"


def test_nothing_that_is_set_leaks_into_the_next_row(tmp_path: Path) -> None:
    files = {
        "main.j2": (
            "{% import 'lib.j2' as lib %}{% if first %}{% set kept = 1 %}{% endif %}"
            "{% block user %}{{ kept is defined }} {{ lib.count() }} {{ lib.turn() }}{% endblock %}"
        ),
        "lib.j2": (
            "{% set ns = namespace(n=0) %}{% set wheel = cycler('a', 'b') %}"
            "{% macro count() %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endmacro %}"
            "{% macro turn() %}{{ wheel.next() }}{% endmacro %}"
        ),
    }
    prompt = make_prompt(tmp_path, files)
    assert only_text(prompt.render({"first": True})) == "True 1 a"
    assert only_text(prompt.render({"first": False})) == "False 1 a"


def test_a_column_of_one_row_is_not_seen_by_the_next(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "{{ x|default('none') }}")
    assert only_text(prompt.render({"x": "a"})) == "a"
    assert only_text(prompt.render({})) == "none"


def test_what_a_bad_row_had_set_is_not_seen_by_the_next(tmp_path: Path) -> None:
    template = "{% if first %}{% set kept = 1 %}{% endif %}{{ kept is defined }}{{ 1 / n }}"
    prompt = make_prompt(tmp_path, template)
    assert cause_of(prompt.render({"first": True, "n": 0}))[0] == "template_error"
    assert only_text(prompt.render({"first": False, "n": 1})) == "False1.0"


def test_no_row_changes_a_param_of_the_next(tmp_path: Path) -> None:
    """Jinja2's `indent` adds a line break to a list before it fails."""
    template = "{% if first %}{{ params.words|indent }}{% endif %}{{ params.words|join('-') }}"
    prompt = make_prompt(tmp_path, template, params={"words": ["a", "b"]})
    assert cause_of(prompt.render({"first": True}))[0] == "template_error"
    assert only_text(prompt.render({"first": False})) == "a-b"


@pytest.mark.parametrize("name", sorted(build_filters(1_000, lambda: None)))
def test_no_filter_changes_what_it_is_given(tmp_path: Path, name: str) -> None:
    values: dict[str, Any] = {
        "numbers": [3, 1, 2],
        "nested": [[2, "b"], [1, "a"]],
        "map": {"b": [1], "a": [2]},
        "maps": [{"n": 2}, {"n": 1}],
        "text": "a b",
        "bytes": b"ab",
    }
    calls = [f"{name}", f"{name}(1)", f"{name}('n')", f"{name}(attribute='n')", f"{name}(3, 'x')"]
    for value in values:
        for call in calls:
            for source in (f"params.{value}", value):
                given, params = deepcopy(values), deepcopy(values)
                prompt = make_prompt(tmp_path, f"{{{{ {source}|{call} }}}}", params=params)
                prompt.render(given)
                assert (given, params) == (values, values)


def test_a_parent_is_added_once_for_every_row(tmp_path: Path) -> None:
    files = {
        "main.j2": "{% extends 'base.j2' %}{% block user %}{{ super() }}{% endblock %}",
        "base.j2": "{% block user %}{{ super() if deep else 'base' }}{% endblock %}",
    }
    prompt = make_prompt(tmp_path, files)
    assert only_text(prompt.render({"deep": False})) == "base"
    assert cause_of(prompt.render({"deep": True})) == (
        "missing_variable",
        "base.j2:1: there is no parent block called 'user'.",
    )
    for _ in range(3):
        assert only_text(prompt.render({"deep": False})) == "base"
    assert [len(blocks) for blocks in prompt._renderer._context.blocks.values()] == [1]  # type: ignore[union-attr]


def test_a_file_imported_twice_keeps_its_state_within_a_row_and_not_beyond(tmp_path: Path) -> None:
    counter = (
        "{% set ns = namespace(n=0) %}{% macro count() %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endmacro %}"
    )
    twice = "{% import 'lib.j2' as lib %}{{ lib.count() }}{% import 'lib.j2' as lib %}{{ lib.count() }}"
    prompt = make_prompt(tmp_path, {"main.j2": twice, "lib.j2": counter})
    assert [prompt.render({}) for _ in range(2)] == [(Message(role="user", content="12"),)] * 2
