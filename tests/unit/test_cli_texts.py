"""Small texts: numbers with their units, spans of time, money, cleaned words, errors as lines."""

from __future__ import annotations

import unicodedata

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.app import COMMANDS
from runner.cli.arguments import COMMAND_NAMES, Bending, Count, Duration, Session, manifest_options
from runner.cli.boundary import failure_of, interrupted, usage_failure
from runner.cli.crash_log import blotted
from runner.cli.look_commands import FORMATS
from runner.cli.run_command import worst
from runner.cli.texts import clean, counted, money, path_here, size, span, time_left
from runner.errors import (
    DecisionNeededError,
    InputError,
    InterruptedRunError,
    Mistake,
    RunnerError,
    StillRunningError,
)
from runner.results.printing import FORMATS as PRINTABLE


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (9_960, "10 kB"),
        (142_000, "142 kB"),
        (999_600, "1.0 MB"),
        (200_000_000, "200 MB"),
        (1_234_000_000, "1.2 GB"),
        (5_000_000_000_000, "5.0 TB"),
    ],
)
def test_sizes_have_decimal_units(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.42, "0.4 s"),
        (12.4, "12 s"),
        (59.7, "1m 00s"),
        (250.4, "4m 10s"),
        (85_260, "23h 41m"),
        (183_600, "2d 3h"),
        (-1, "0.0 s"),
    ],
)
def test_spans_have_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "due"), (42.9, "42 s"), (119, "1m"), (85_260, "23h 41m")])
def test_a_countdown_does_not_twitch(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (12.3, "USD", "12.30 USD"),
        (1234.5, "EUR", "1,234.50 EUR"),
        (0.1234, None, "0.1234"),
        (0.000012, "USD", "0.000012 USD"),
        (9e-06, "USD", "0.000009 USD"),
        (0.0, "USD", "0.00 USD"),
    ],
)
def test_money_shows_what_matters(amount: float, currency: str | None, text: str) -> None:
    assert money(amount, currency) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "row", "1 row"), (0, "row", "0 rows"), (2_000, "batch", "2,000 batches"), (1, "batch", "1 batch")],
)
def test_nouns_agree_with_their_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("path", "cwd", "text"),
    [
        ("/a/b/results/t.csv", "/a/b", "results/t.csv"),
        ("/a/results/t.csv", "/a/b", "../results/t.csv"),
        ("/x/t.csv", "/a/b/c/d", "/x/t.csv"),
        ("already/relative.csv", "/a", "already/relative.csv"),
    ],
)
def test_paths_are_shown_as_one_would_type_them(path: str, cwd: str, text: str) -> None:
    assert path_here(path, cwd) == text


@given(st.text(max_size=200))
def test_a_cleaned_text_is_one_harmless_line(text: str) -> None:
    shown = clean(text)
    assert all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f") & set(shown)
    assert shown == shown.strip()
    assert shown.encode().decode() == shown


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"]), max_size=100))
def test_a_harmless_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_a_long_text_is_cut() -> None:
    assert clean("a" * 1_000, limit=10) == "aaaaaaaaa…"


@pytest.mark.parametrize(
    "text",
    ["\x1b[31mred\x1b[0m", "\x1b]8;;http://x\x07red\x1b]8;;\x07", "\x9b31mred", "\x1bcred", "r\x00e\x08d"],
)
def test_escape_sequences_go_as_a_whole(text: str) -> None:
    assert clean(text) == "red"


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("30m", 1_800),
        ("2h", 7_200),
        ("1h30m", 5_400),
        ("1d", 86_400),
        ("0", 0),
    ],
)
def test_waiting_is_given_in_seconds_or_with_units(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "-1", "soon", "1x", "h", "1h30", "nan", "inf", "1e9"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="not a length of time"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "²"])
def test_a_limit_is_a_whole_number_of_one_or_more(text: str) -> None:
    with pytest.raises(click.UsageError, match="not a whole number"):
        Count().convert(text, None, None)
    assert Count().convert("1,000", None, None) == 1_000


def test_every_set_without_a_key_and_value_is_named() -> None:
    with pytest.raises(InputError) as caught:
        manifest_options("m.yaml", Bending(set_values=("model.name=x", "model.name", "=x")))
    assert [mistake.what for mistake in caught.value.mistakes] == [
        "'model.name' has no `=`",
        "'=x' has no key",
    ]


def test_the_list_of_names_is_the_list_of_commands() -> None:
    assert [command.name for command in COMMANDS] == list(COMMAND_NAMES)


def test_the_formats_offered_are_those_that_can_be_printed() -> None:
    assert FORMATS == PRINTABLE


def test_the_first_line_of_every_help_fits_the_overview() -> None:
    for command in COMMANDS:
        first = (command.help or "").split("\n")[0]
        assert first.endswith(".")
        assert "..." not in command.get_short_help_str(limit=62)


# ---------------------------------------------------------------- errors as text

RUN = Session(command="run", manifests=("m.yaml",))


def plain(error: RunnerError) -> str:
    return click.unstyle(failure_of(error, RUN).as_text())


def test_one_mistake_has_its_hint_as_the_next_step() -> None:
    mistake = Mistake(
        where="manifests/triage.yaml:9:3", path="dataset.pth", what="unknown key", hint="did you mean `path`?"
    )
    assert plain(InputError([mistake])) == (
        "error: manifests/triage.yaml:9:3: dataset.pth: unknown key\n"
        "next:  did you mean `path`?\n"
        "       (nothing was sent; exit 2)"
    )


def test_several_mistakes_have_a_line_each() -> None:
    mistakes = [Mistake(where=f"m.yaml:{line}:1", what="wrong", hint="mend it") for line in (1, 2)]
    assert plain(InputError(mistakes, next_step="mend both")) == (
        "error: m.yaml:1:1: wrong; mend it\n"
        "error: m.yaml:2:1: wrong; mend it\n"
        "next:  mend both\n"
        "       (nothing was sent; exit 2)"
    )


def test_details_of_one_error_stand_below_it() -> None:
    error = DecisionNeededError("shard 1 is held\n  the reply was lost", next_step="look")
    assert plain(error) == "error: shard 1 is held\n       the reply was lost\nnext:  look\n       (exit 4)"


@pytest.mark.parametrize(
    "error", [InterruptedRunError("stopped"), StillRunningError("2 batches are on their way")]
)
def test_an_end_that_is_no_fault_is_a_note(error: RunnerError) -> None:
    assert plain(error).startswith(f"note:  {error.what}\n")


def test_foreign_text_in_an_error_is_cleaned() -> None:
    assert plain(RunnerError("server: \x1b[31mbad\x1b[0m")) == "error: server: bad\n       (exit 1)"


def test_an_error_as_json_has_what_it_takes_to_react() -> None:
    failure = failure_of(InputError([Mistake(where="m.yaml:1:1", what="wrong")]), RUN, manifest="m.yaml")
    assert failure.as_json() == {
        "event": "error",
        "what": "m.yaml:1:1: wrong",
        "next_step": "",
        "mistakes": [{"where": "m.yaml:1:1", "path": "", "what": "wrong", "hint": ""}],
        "manifest": "m.yaml",
        "exit_code": 2,
    }


def test_a_misspelt_option_asks_what_was_meant() -> None:
    failure = usage_failure(click.NoSuchOption("--jsn", possibilities=["--json"]))
    assert failure.lines == ("no such option '--jsn'",)
    assert failure.next_step == "did you mean '--json'?"


def test_an_interrupt_says_how_to_go_on() -> None:
    session = Session(command="run", manifests=("my manifest.yaml",))
    assert interrupted(session).next_step.startswith("`run 'my manifest.yaml'` goes on from here")
    assert interrupted(Session(command="validate")).next_step == ""


def test_the_worst_of_several_ends_is_the_exit_code() -> None:
    assert worst([0, 75, 3]) == 3
    assert worst([0, 75]) == 75
    assert worst([4, 2, 0]) == 2
    assert worst([0, 0]) == 0
    assert worst([0, 99]) == 99


def test_a_crash_log_blots_out_secrets() -> None:
    environ = {"DOUBLEWORD_API_KEY": "sk-secret-1", "HOME": "/home/ann", "X_TOKEN": "abc"}
    assert blotted("key sk-secret-1 of /home/ann abc", environ) == "key <DOUBLEWORD_API_KEY> of /home/ann abc"
