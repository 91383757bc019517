"""What is wrong with a template is said before a row is rendered, all at once, with file, line and column."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from runner.errors import InputError
from runner.prompt import compile_prompt
from runner.prompt.wording import readable
from tests.contract.prompt_factories import cause_of, make_prompt, mistakes_in, only_text, write_templates

COLUMNS = ["ticket_id", "subject", "body"]


def test_every_file_with_a_syntax_error_is_reported(tmp_path: Path) -> None:
    files = {
        "main.j2": "{% include 'a.j2' %}\n{% include 'b.j2' %}\n{{ x|uper }}",
        "a.j2": "\n{% if %}",
        "b.j2": "{{ x",
    }
    assert mistakes_in(tmp_path, files) == [
        "a.j2:2: template syntax: Expected an expression, got 'end of statement block'",
        "b.j2:1: template syntax: unexpected end of template, expected 'end of print statement'",
        "main.j2:3:6: no filter named `uper`; did you mean `upper`?",
    ]


def test_a_missing_include_is_named(tmp_path: Path) -> None:
    assert mistakes_in(tmp_path, "x\n{% include 'none.j2' %}") == [
        f"main.j2:2:13: template 'none.j2' not found; it must lie in {tmp_path}"
    ]


def test_an_include_that_may_miss_may_miss(tmp_path: Path) -> None:
    make_prompt(tmp_path, "x{% include 'none.j2' ignore missing %}").render({})
    prompt = make_prompt(tmp_path, {"main.j2": "{% include ['none.j2', 'a.j2'] %}", "a.j2": "a"})
    assert str(tmp_path / "a.j2") in prompt.files()


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        (
            "Hi\n{% block user %}u{% endblock %}",
            "main.j2:1: text outside of the blocks is not sent; put it in a block (system, user, assistant)",
        ),
        (
            "{% block user %}u{% endblock %}\n\n\n bye",
            "main.j2:4: text outside of the blocks is not sent; put it in a block (system, user, assistant)",
        ),
        (
            "{% block user %}u{% endblock %}\n{{ x }}",
            "main.j2:2: text outside of the blocks is not sent; put it in a block (system, user, assistant)",
        ),
        ("{% block system %}s{% endblock %}", "main.j2:1: no block `user`: the prompt has nothing to answer"),
        (
            "{% block user %}{% block system %}s{% endblock %}{% endblock %}",
            "main.j2:1:26: block `system` stands inside the message `user`",
        ),
        (
            "{% macro m() %}{% block user %}s{% endblock %}{% endmacro %}{{ m() }}",
            "main.j2:1:25: block `user` stands inside a macro, filter, call or set block",
        ),
        (
            "{{ [1, 2]|random }}",
            (
                "main.j2:1:11: no filter named `random`; "
                "a prompt must be the same each time; pick by the row's values"
            ),
        ),
        ("{{ 1 is odder }}", "main.j2:1:9: no test named `odder`; did you mean `odd`?"),
        (
            "{% include x ~ '.j2' %}",
            (
                "main.j2:1:4: the name of a template is computed; "
                "write the name out; use {% if %} where it depends on the row"
            ),
        ),
        (
            "{% include '../x.j2' %}",
            (
                "main.j2:1:13: '../x.j2' can't be loaded; "
                "`.` and `..` are not allowed: names count from the templates folder"
            ),
        ),
        (
            "{% include '/etc/passwd' %}",
            "main.j2:1:13: '/etc/passwd' can't be loaded; write a path below the templates folder, with /",
        ),
        (
            "{% autoescape true %}x{% endautoescape %}",
            (
                "main.j2:1:4: {% autoescape %} has no meaning in a prompt; "
                "remove it; use |escape where HTML is wanted"
            ),
        ),
        (
            "{% block sytem %}s{% endblock %}{% block user %}u{% endblock %}",
            "main.j2:1:10: block `sytem` is not a message; did you mean `system`?",
        ),
        (
            "{% block system %}s{% endblock %}\nuser {{ 1 }}{% block usr %}u{% endblock %}",
            "main.j2:2:22: block `usr` is not a message; did you mean `user`?",
        ),
        ("{% extends 'main.j2' %}", "main.j2:1:4: 'main.j2' extends itself, through its parents"),
    ],
)
def test_what_would_silently_go_wrong_is_a_mistake(tmp_path: Path, template: str, mistake: str) -> None:
    assert mistake in mistakes_in(tmp_path, template)


def test_a_message_of_a_child_that_its_parent_never_places_is_a_mistake(tmp_path: Path) -> None:
    files = {
        "main.j2": "{% extends 'base.j2' %}\n{% block system %}s{% endblock %}\ntext",
        "base.j2": "{% block user %}{% endblock %}",
    }
    assert mistakes_in(tmp_path, files) == [
        "main.j2:3: text outside of the blocks is not sent; put it in a block (system, user, assistant)",
        (
            "main.j2:2:10: block `system` is never sent: the template it extends has no such block; "
            "put {% block system %}{% endblock %} into base.j2"
        ),
    ]


def test_a_misspelt_message_is_one_mistake(tmp_path: Path) -> None:
    template = "{% block system %}s{% endblock %}{% block usr %}u {{ x }}{% if x %}y{% endif %}{% endblock %}"
    assert mistakes_in(tmp_path, template) == [
        "main.j2:1:43: block `usr` is not a message; did you mean `user`?"
    ]


def test_a_place_has_a_column_where_the_line_holds_the_word_inside_a_tag(tmp_path: Path) -> None:
    template = "subjct: {{ body }} {{ body ~ subjct }}\n{{ body\n ~ sbject }}"
    assert [mistake.partition(" ")[0] for mistake in _checked(tmp_path, template)] == [
        "main.j2:1:30:",
        "main.j2:3:",
    ]
    assert mistakes_in(tmp_path, "x {% iff x %}{% endif %}")[0].startswith("main.j2:1:6: template syntax")


def test_comments_sets_and_text_in_inner_blocks_are_no_mistakes(tmp_path: Path) -> None:
    files = {
        "main.j2": (
            "{% extends 'base.j2' %}\n{# why #}\n{% set x = 1 %}\n{% block inner %}text{% endblock %}\n"
            "{% block body %}{{ super() }}{% endblock %}"
        ),
        "base.j2": (
            "{% block body %}{% block user %}{% block inner %}{% endblock %}{% endblock %}{% endblock %}"
        ),
    }
    assert make_prompt(tmp_path, files).render({}) != ()


def test_a_message_included_inside_a_message_is_a_mistake(tmp_path: Path) -> None:
    files = {
        "main.j2": "{% block user %}{% include 'other.j2' %}{% endblock %}",
        "other.j2": "{% block user %}u{% endblock %}",
    }
    assert mistakes_in(tmp_path, files) == [
        "main.j2:1:20: an included template with messages stands inside a message"
    ]


# ---------------------------------------------------------------- files


def test_links_that_lead_out_of_the_folder_are_not_found(tmp_path: Path) -> None:
    write_templates(tmp_path, {"secret.txt": "secret"})
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "link.j2").symlink_to(tmp_path / "secret.txt")
    [mistake] = mistakes_in(folder, "{% include 'link.j2' %}")
    assert mistake.startswith("main.j2:1:13: template 'link.j2' not found")


def test_files_that_are_no_templates_are_refused(tmp_path: Path) -> None:
    cases = {
        "none.j2": "the template does not exist",
        "folder": "the template is not a regular file",
        "latin.j2": "not UTF-8 text; save the file as UTF-8",
        "big.j2": "the template is larger than 1000000 bytes",
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.j2").write_bytes(b"a\nb\xe9")
    (tmp_path / "big.j2").write_bytes(b"a" * 1_000_001)
    for name, what in cases.items():
        with pytest.raises(InputError) as caught:
            compile_prompt(str(tmp_path / name), search_root=None, params={}, max_output_bytes=1000)
        [mistake] = caught.value.mistakes
        place = ":2" if name == "latin.j2" else ""
        assert str(mistake) == f"{tmp_path / name}{place}: {what}"


@pytest.mark.parametrize("template", ["{% if x %}" * 30 + "{% endif %}" * 30, "{{ " + "(" * 3000 + "x"])
def test_absurd_nesting_is_a_mistake_and_no_crash(tmp_path: Path, template: str) -> None:
    try:
        make_prompt(tmp_path, template)
        message = str(tmp_path / "main.j2")
    except InputError as error:
        message = str(error)
    assert str(tmp_path / "main.j2") in message


def test_too_many_nested_loops_are_a_mistake(tmp_path: Path) -> None:
    loops = "".join(f"{{% for i{n} in x %}}" for n in range(30)) + "{% endfor %}" * 30
    [mistake] = mistakes_in(tmp_path, loops)
    assert mistake.startswith("main.j2: the template can't be compiled: too many statically nested blocks")


# ---------------------------------------------------------------- names against columns and params


def _checked(
    tmp_path: Path, template: str | dict[str, str], params: dict[str, object] | None = None
) -> list[str]:
    prompt = make_prompt(tmp_path, template, params=params)
    return [str(mistake).replace(f"{tmp_path}/", "") for mistake in prompt.check(COLUMNS)]


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        (
            "a\n{{ subjct }}\n{{ subjct }}",
            "main.j2:2:4: `subjct` is neither a column nor set in the template; did you mean `subject`?",
        ),
        (
            "{{ zzz }}",
            (
                "main.j2:1:4: `zzz` is neither a column nor set in the template; "
                "columns: ticket_id, subject, body"
            ),
        ),
        (
            "{{ tone }}",
            "main.j2:1:4: `tone` is neither a column nor set in the template; did you mean `params.tone`?",
        ),
        ("{{ params.tne }}", "main.j2:1:11: `params.tne` is not a param; did you mean `tone`?"),
        (
            "{{ params['x'] }}",
            "main.j2:1:12: `params.x` is not a param; add it to `prompt.params`: params: tone",
        ),
        ("{{ row['Subject'] }}", "main.j2:1:9: `Subject` is not a column; did you mean `subject`?"),
        (
            "{% for x in [1] %}{% block user %}{{ x }}{% endblock %}{% endfor %}",
            (
                "main.j2:1:8: `x` is neither a column nor set in the template; "
                "a block sees the variables of a loop around it only as {% block ... scoped %}"
            ),
        ),
        (
            "{% if subject %}{{ bdy }}{% endif %}",
            "main.j2:1:20: `bdy` is neither a column nor set in the template; did you mean `body`?",
        ),
    ],
)
def test_a_name_that_nothing_defines_is_a_mistake(tmp_path: Path, template: str, mistake: str) -> None:
    assert _checked(tmp_path, template, {"tone": "x"}) == [mistake]


@pytest.mark.parametrize(
    "template",
    [
        "{% if x is defined %}{{ x }}{% endif %}",
        "{{ x|default('') }}{{ params.y|d(1) }}{% if params.z is defined %}{{ params.z }}{% endif %}",
        "{% set x = 1 %}{% block user %}{{ x }}{% endblock %}",
        "{% for x in body %}{{ x }}{{ loop.index }}{% endfor %}",
        "{% macro m(x) %}{{ x }}{{ varargs }}{% endmacro %}{{ m(1) }}",
        "{{ range(3)|list }}{{ dict(a=1) }}{% set ns = namespace(x=1) %}{{ ns.x }}",
        "{{ row|tojson }}{{ row.subject }}{% for k, v in params.items() %}{{ k }}{% endfor %}",
        "{% with x = subject %}{{ x }}{% endwith %}",
    ],
)
def test_names_that_are_defined_or_may_miss_are_no_mistakes(tmp_path: Path, template: str) -> None:
    assert _checked(tmp_path, template) == []


def test_names_are_followed_into_other_files(tmp_path: Path) -> None:
    files = {
        "main.j2": (
            "{% extends 'base.j2' %}{% set a = 1 %}\n"
            "{% block user %}{% include 'inc.j2' %}{% import 'lib.j2' as lib %}{% endblock %}"
        ),
        "base.j2": "{% set b = 2 %}{% block user %}{% endblock %}",
        "inc.j2": "{{ a }}{{ b }}{{ subject }}\n{{ sbject }}",
        "lib.j2": "{% macro m() %}{{ body }}{% endmacro %}",
    }
    assert _checked(tmp_path, files) == [
        "inc.j2:2:4: `sbject` is neither a column nor set in the template; did you mean `subject`?",
        (
            "lib.j2:1:19: column `body` can't be seen in an imported file; "
            "import it `with context`, or hand the value to the macro"
        ),
    ]


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        (
            "{{ ＩＤ }}\n{{ ID }}{{ ID }}",
            (
                "main.j2:2:4: `ID` and `ＩＤ` are one name in a template; "
                'write row["ＩＤ"] for a column; rename what the template sets'
            ),
        ),
        (
            "{{ caf\u00e9 }}{{ cafe\u0301 }}",
            (
                "main.j2:1:14: `cafe\u0301` and `caf\u00e9` are one name in a template; "
                'write row["cafe\\u0301"] for a column; rename what the template sets'
            ),
        ),
        (
            "{% set ＩＤ = 'set' %}{{ ID }}",
            (
                "main.j2:1:24: `ID` and `ＩＤ` are one name in a template; "
                'write row["ＩＤ"] for a column; rename what the template sets'
            ),
        ),
        (
            "{% block ａ %}1{% endblock %}{% block a %}2{% endblock %}",
            "main.j2:1:38: the blocks `a` and `ａ` have one name in a template; rename one of them",
        ),
        (
            "{{ dict(ＩＤ=1) }}",
            (
                "main.j2:1:9: the argument `ＩＤ` would be handed on as `ID`; "
                "write it so, where it is named too"
            ),
        ),
    ],
)
def test_two_names_that_python_takes_for_one_are_a_mistake(
    tmp_path: Path, template: str, mistake: str
) -> None:
    assert mistakes_in(tmp_path, template) == [mistake]


@pytest.mark.parametrize(
    "template",
    [
        "{% for ＩＤ in [1] %}{{ ID }}{% endfor %}",
        "{% macro ＩＤ(x) %}{% endmacro %}{{ ID }}",
        "{% macro m(ＩＤ) %}{% endmacro %}{{ ID }}",
        "{% with ＩＤ = 1 %}{{ ID }}{% endwith %}",
        "{% import 'lib.j2' as ＩＤ %}{{ ID }}",
        "{% from 'lib.j2' import m as ＩＤ %}{{ ID }}",
        "{% from 'lib.j2' import ＩＤ %}{{ ID }}",
        "{% for x in [1] recursive %}{{ ｌoop }}{% endfor %}",
        "{% include 'twice.j2' %}",
        "{{ row.x }}{{ ｒow }}",
    ],
)
def test_whatever_makes_a_name_counts(tmp_path: Path, template: str) -> None:
    files = {"main.j2": template, "lib.j2": "{% macro m() %}{% endmacro %}", "twice.j2": "{{ ＩＤ }}{{ ID }}"}
    [mistake] = mistakes_in(tmp_path, files)
    assert "are one name in a template" in mistake


def test_a_name_alone_in_its_form_in_a_file_has_its_own_value(tmp_path: Path) -> None:
    row = {"ＩＤ": "wide", "ID": "plain"}
    assert only_text(make_prompt(tmp_path, "{{ ＩＤ }}").render(row)) == "wide"
    assert only_text(make_prompt(tmp_path, '{{ row["ＩＤ"] }} {{ ID }}').render(row)) == "wide plain"
    assert (
        only_text(make_prompt(tmp_path, '{{ row["\\uff29\\uff24"] }} {{ ID }}').render(row)) == "wide plain"
    )
    files = {
        "main.j2": "{{ ＩＤ }} {% include 'inc.j2' %} {% from 'lib.j2' import ＭＡＸ as m %}{{ m(1) }}",
        "inc.j2": "{{ ID }}",
        "lib.j2": "{% macro ＭＡＸ(ＩＤ) %}{{ ＩＤ }}{% endmacro %}",
    }
    assert only_text(make_prompt(tmp_path, files).render(row)) == "wide plain 1"


@pytest.mark.parametrize("template", ["{{ self }}", "{{ [self]|join }}", "{% if self %}x{% endif %}"])
def test_the_template_itself_is_no_value(tmp_path: Path, template: str) -> None:
    [mistake] = mistakes_in(tmp_path, {"main.j2": "{% include 'inc.j2' %}", "inc.j2": template})
    place, _, rest = mistake.partition(": ")
    assert place.startswith("inc.j2:1:")
    assert rest == (
        '`self` is the template itself and has no text; a column is row["self"], a block self.name()'
    )


def test_a_column_named_self_is_reached_by_its_row_and_warned_of(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "{% block a %}A{% endblock %}{{ self.a() }}{{ row['self'] }}")
    assert only_text(prompt.render({"self": "me"})) == "AAme"
    [warning] = prompt.warnings(["self", "subject"])
    assert warning.what == "in a template `self` is not the column of that name"
    assert warning.hint == 'the column is row["self"]'
    named = make_prompt(tmp_path, "{% set self = row['self'] %}{{ self }}")
    assert only_text(named.render({"self": "me"})) == "me"


def test_unused_params_and_hidden_columns_are_warnings(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "{{ params.a }}{{ subject }}{{ row['x'] }}", params={"a": 1, "b": 2})
    assert [str(mistake).replace(f"{tmp_path}/", "") for mistake in prompt.warnings(["row", "subject"])] == [
        "main.j2: prompt.params.b: `params.b` is not used",
        'main.j2: in a template `row` is not the column of that name; the column is row["row"]',
    ]
    assert prompt.variables() == ("subject", "x")
    assert not prompt.reads_whole_row()
    whole = make_prompt(tmp_path, "{{ params|tojson }}{{ row|tojson }}", params={"a": 1})
    assert whole.warnings(["subject"]) == []
    assert whole.reads_whole_row()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{{ a", " + a" * 990 + " }}"),
        ("{{ a", "|upper" * 300 + " }}"),
        ("{{ a", ".b" * 300 + " }}"),
        ("{{ " + "not " * 990, "a }}"),
        ("{% if a %}" * 250, "{% endif %}" * 250),
        ("{{ " + "(a if b else " * 250, "a" + ")" * 250 + " }}"),
    ],
)
def test_a_template_that_is_too_deep_for_its_checks_is_a_mistake(
    tmp_path: Path, before: str, after: str
) -> None:
    [mistake] = mistakes_in(tmp_path, before + after)
    assert mistake.startswith("main.j2: the template is nested too deeply; ")


def test_a_long_sum_is_not_too_deep(tmp_path: Path) -> None:
    assert only_text(make_prompt(tmp_path, "{{ a" + " + a" * 150 + " }}").render({"a": 1})) == "151"


def test_what_python_thinks_of_a_templates_code_is_not_shown(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        make_prompt(tmp_path, "{{ 1(2) }}{{ 1[2] }}{{ 'a'() }}")
    assert seen == []


def test_a_constant_that_is_nothing_has_a_cause_and_no_traceback(tmp_path: Path) -> None:
    prompt = make_prompt(tmp_path, "{% set x = 'a'.b ~ 'c' %}{{ subject }}{{ sbject }}")
    assert ["sbject" in str(mistake) for mistake in prompt.check(COLUMNS)] == [True]
    assert cause_of(prompt.render({"subject": "s"}))[0] == "missing_variable"


def test_a_number_without_end_is_a_mistake(tmp_path: Path) -> None:
    [mistake] = mistakes_in(tmp_path, "{{ " + "9" * 5000 + " }}")
    assert mistake == "main.j2: a number in the template has too many digits"


def test_what_is_said_of_a_template_can_be_written_and_read(tmp_path: Path) -> None:
    """The template's own words may be halves of characters, signals to a terminal, or have no end."""
    prompt = make_prompt(tmp_path, "{{ params['\\ud800\\x1b[31m'] }}{{ row['" + "a" * 5000 + "'] }}")
    [param, column] = [str(mistake).replace(f"{tmp_path}/", "") for mistake in prompt.check(COLUMNS)]
    assert param.startswith("main.j2:1: `params.\\ud800 [31m` is not a param; ")
    assert column.startswith("main.j2:1:39: `aaa")
    assert readable("a\n\n\n" + "b" * 600).endswith("b..."), "what is cut says so"
    [tag] = mistakes_in(tmp_path, "{% end" + "9" * 20_000 + " %}")
    assert tag.startswith("main.j2:1:4: template syntax: Encountered unknown tag 'end99")
    for said in (param, column, tag):
        assert said.encode()
        assert said.isprintable()
        assert len(said) < 700
