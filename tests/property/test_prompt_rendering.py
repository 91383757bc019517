"""Generated templates and rows: our one pass with a reused context gives what a fresh Jinja2 would give.

The other side is Jinja2 as it comes: a new environment for every row, nothing of ours but NULL as empty
text, and visible marks written around the message blocks.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import jinja2
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.core.model import Cause
from runner.errors import InputError
from runner.prompt import Prompt
from tests.contract.prompt_factories import make_prompt

LIBRARY = (
    "{% set ns = namespace(n=0) %}{% macro count() %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endmacro %}"
    "{% macro greet(x, y='!') %}<{{ x }}{{ y }}{{ params.tone }}"
    "{% if caller is defined %}{{ caller() }}{% endif %}>{% endmacro %}"
)
FIXED = "{% macro shout(x) %}{{ x|upper }}{% endmacro %}{% set word = 'w' %}"
PART = "(part {{ a|default(0) }}{% set y = 5 %}{% for i in xs %}{{ i }}{% endfor %})"
PROBE = "{{ x is defined }}{{ y is defined }}{{ lib.count() if lib is defined }}"
"""Stands in every prompt: what a row left behind would show here."""
PARAMS = {"tone": "kind", "many": ["p", "q"]}

SAFE = ["a|default('d')", "b|default('e')|upper", "x|default(b)|default(1)", "y|default('-')", "params.tone",
        "'t' ~ params.tone", "xs|join('-')", "xs|map('string')|list", "xs|sum", "params.many|first", "none",
        "ns.v", "ns.v + 1", "lib.count()", "lib.greet(1)", "greet(2, y='?')", "shout('s')", "wheel.next()",
        "xs|length", "x is defined", "y is defined"]  # fmt: skip
RISKY = ["a", "b", "x", "y", "xs[0]", "a ~ b", "row.a", "a if b else x", "double(a)", "missing",
         "self.part()", "loop.index", "caller()"]  # fmt: skip
expressions = st.sampled_from(SAFE * 4 + RISKY)
conditions = st.sampled_from(["a is defined", "b is defined and b", "x is defined", "xs", "y is not defined"])
words = st.sampled_from(["text ", "é", "{# c #}", "- "])


def _tags(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, conditions, inner, inner),
        st.builds("{{% for i in xs %}}{}{{{{ i }}}}{{% else %}}{}{{% endfor %}}".format, inner, inner),
        st.builds("{{% for x in xs if x %}}{}{{{{ loop.index }}}}{{% endfor %}}".format, inner),
        st.builds("{{% set x %}}{}{{% endset %}}".format, inner),
        st.builds("{{% filter upper %}}{}{{% endfilter %}}".format, inner),
        st.builds("{{% with y = {} %}}{}{{% endwith %}}".format, expressions, inner),
        st.builds("{{% call greet(1) %}}{}{{% endcall %}}".format, inner),
        st.builds("{{% macro double(k) %}}{}{{{{ k }}}}{{% endmacro %}}".format, inner),
    )


leaves = st.one_of(
    words,
    st.builds("{{{{ {} }}}}".format, expressions),
    st.builds("{{% set x = {} %}}".format, expressions),
    st.builds("{{% set y = {} %}}".format, expressions),
    st.just("{% set ns.v = ns.v + 1 %}"),
    st.just("{% include 'part.j2' %}"),
    st.just("{% import 'lib.j2' as lib %}"),
    st.just("{% from 'lib.j2' import greet %}"),
    st.just("{% from 'fixed.j2' import shout %}"),
)
bodies = st.recursive(
    leaves, lambda inner: st.one_of(st.builds("{}{}".format, inner, inner), _tags(inner)), max_leaves=5
)
BEGINNING = (
    "{% set ns = namespace(v=0) %}",
    "{% import 'lib.j2' as lib %}",
    "{% from 'lib.j2' import greet %}",
    "{% from 'fixed.j2' import shout %}",
    "{% set wheel = cycler(1, 2) %}",
    "{% macro double(k) %}{{ k }}{{ k }}{% endmacro %}",
)
tops = st.lists(
    st.one_of(
        st.builds("{{% set x = {} %}}".format, expressions),
        st.builds("{{% if {} %}}{{% set y = {} %}}{{% endif %}}".format, conditions, expressions),
        st.builds("{{% macro double(k) %}}{}{{{{ k }}}}{{% endmacro %}}".format, bodies),
        st.sampled_from([*BEGINNING]),
    ),
    max_size=4,
)  # fmt: skip
rows = st.fixed_dictionaries(
    {"xs": st.lists(st.integers(0, 3), max_size=3)},
    optional={
        "a": st.none() | st.integers(0, 2) | st.text("ab<&", max_size=3),
        "b": st.sampled_from(["", "u"]),
    },
)

SYSTEM, PLACE, USER, END = "[[system]]", "[[place]]", "[[user]]", "[[end]]"


@st.composite
def families(draw: st.DrawFn) -> dict[str, str]:
    """The files of a prompt, with visible marks where a message of the root begins and ends."""
    top = "".join(BEGINNING if draw(st.integers(0, 9)) else ()) + "".join(draw(tops))
    system = "{% block system %}" + draw(bodies) + "{% endblock %}"
    part = "{% block part %}" + draw(bodies) + "{% endblock %}"
    user = "{% block user %}" + draw(bodies) + part + draw(bodies) + PROBE + "{% endblock %}"
    files = {"lib.j2": LIBRARY, "fixed.j2": FIXED, "part.j2": PART}
    if draw(st.booleans()):
        return files | {"main.j2": f"{top}{SYSTEM}{system}{END}{USER}{user}{END}"}
    child = "".join(draw(tops)) + "{% extends 'base.j2' %}" + "".join(draw(tops))
    if draw(st.booleans()):
        child += "{% block user %}{{ super() }}" + draw(bodies) + "{% endblock %}"
    if draw(st.booleans()):
        child += "{% block part %}" + draw(bodies) + "{{ super() }}{% endblock %}"
    return files | {"main.j2": child, "base.j2": f"{top}{SYSTEM}{system}{END}{USER}{user}{END}"}


def _plain_render(files: dict[str, str], row: dict[str, Any]) -> list[tuple[str, str]] | str:
    """What Jinja2 gives in a new environment: messages, or `missing` or `error`."""
    # With us `~` takes NULL as empty text, as the output of a value does.
    plain = {name: text.replace("a ~ b", "(a if a is not none else '') ~ b") for name, text in files.items()}
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.DictLoader(plain),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: "" if value is None else value,
    )
    environment.globals["params"] = PARAMS
    try:
        text = environment.get_template("main.j2").render({**row, "params": PARAMS, "row": row})
    except jinja2.UndefinedError:
        return "missing"
    except Exception:
        return "error"
    found = re.findall(r"\[\[(system|user)\]\](.*?)\[\[end\]\]", text, re.DOTALL)
    return [(role, content.strip()) for role, content in found if content.strip()]


def _ours(outcome: Any) -> list[tuple[str, str]] | str:
    if not isinstance(outcome, Cause):
        return [(message.role, message.content) for message in outcome]
    return {"missing_variable": "missing", "template_error": "error"}.get(
        outcome.error_class, outcome.error_class
    )


@settings(max_examples=60)
@given(files=families(), table=st.lists(rows, min_size=2, max_size=4))
def test_a_reused_context_gives_what_a_fresh_jinja_gives(
    files: dict[str, str], table: list[dict[str, Any]]
) -> None:
    unmarked = {
        name: text.replace(SYSTEM, "").replace(USER, "").replace(END, "") for name, text in files.items()
    }
    prompt: Prompt | None
    with tempfile.TemporaryDirectory() as folder:
        try:
            prompt = make_prompt(Path(folder), unmarked, params=PARAMS)
        except InputError:
            prompt = None
    if prompt is None:
        assert _plain_render(files, table[0]) == "error"
        return
    for row in table:
        expected = _plain_render(files, row)
        if isinstance(expected, list) and "user" not in [role for role, _ in expected]:
            expected = "empty_prompt"
        assert _ours(prompt.render(row)) == expected


@settings(max_examples=100)
@given(text=st.text(max_size=50))
def test_a_value_reaches_the_prompt_unchanged(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prompt = make_prompt(Path(folder), "{% block user %}<{{ x }}>{% endblock %}")
    [message] = prompt.render({"x": text})  # type: ignore[misc]
    assert message.content == f"<{text}>"
