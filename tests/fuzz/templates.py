"""Templates: a grammar of Jinja2 with odd expressions, escapes, bombs, message blocks and several files.

Judged: a template is refused with the place of every mistake, or it renders every row to messages or a
cause, the second time as the first; neither rows nor params are changed, what comes out is text that holds
nothing of the sandbox's inside. The limits of a row's time and of a value's size are set low here, so that
many bombs can be tried.
"""

from __future__ import annotations

import copy
import datetime
import decimal
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from runner.core.model import Cause
from runner.errors import InputError
from runner.prompt import compile_prompt, compiling, environment
from tests.fuzz.mutation import in_odd_encoding, shaken
from tests.fuzz.template_grammar import SIGNS, Writer

MAX_SECONDS_PER_ROW = 0.05
MAX_OUTPUT_BYTES = 20_000
VALUE_LIMIT = 50_000
SECRET = "canary-in-the-module"
LEAKS = ("<class ", "<module ", "<function ", "<built-in", "<bound method", " object at 0x", SECRET)

ROWS: tuple[dict[str, Any], ...] = (
    {"a": 1, "b": "x", "text": "plain", "xs": [3, 1, 2], "deep": {"k": {"n": [1, {"m": None}]}}},
    {
        "a": None,
        "b": "{{ 7 * 7 }}{% set z = 1 %}\0\x1b[31m",
        "text": "b" * 9_999,
        "xs": [],
        "deep": {},
        "day": datetime.date(2024, 1, 2),
        "price": decimal.Decimal("3.10"),
    },
    {
        "a": 2**70,
        "b": float("nan"),
        "text": "\ud800",
        "xs": [["x"], {"y": 1}, "z", None],
        "deep": [[[]]],
        "x": b"\xff",
    },
)
PARAMS: dict[str, Any] = {"tone": "kind", "n": 3, "list": [1, "two", None], "map": {"k": "v"}}


@dataclass(frozen=True)
class TemplateExample:
    """The files by their names; `main.j2` is the template."""

    files: dict[str, bytes]


class Templates:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "t"
        self._folder.mkdir()
        environment.MAX_SECONDS_PER_ROW = MAX_SECONDS_PER_ROW
        compiling.MIN_VALUE_LIMIT = VALUE_LIMIT  # type: ignore[attr-defined]
        (folder / "outside.j2").write_text(SECRET)

    def make(self, random: Random) -> TemplateExample:
        """A text by the grammar most often; then shaken; then signs; sometimes with more files."""
        writer = Writer(random)
        match random.randrange(36):
            case 0 | 4 | 5:
                main = shaken(random, writer.template().encode("utf-8", "surrogatepass"))
            case 1 | 6 | 7:
                main = "".join(random.choice(SIGNS) for _ in range(random.randrange(40))).encode()
            case 2:
                main = writer.deep().encode()
            case 3 | 8:
                text = writer.template()
                main = (
                    in_odd_encoding(random, text)
                    if random.random() < 0.3
                    else text.encode("utf-8", "replace")
                )
            case _:
                main = writer.template().encode("utf-8", "surrogatepass")
        files = {"main.j2": main}
        if b"lib.j2" in main or b"base.j2" in main or b"part.j2" in main:
            for name in ("lib.j2", "base.j2", "part.j2"):
                files[name] = writer.template().encode("utf-8", "surrogatepass")
        return TemplateExample(files)

    def judge(self, example: TemplateExample) -> str:
        """Refused, or what the first row came to."""
        for path in self._folder.iterdir():
            path.unlink()
        for name, data in example.files.items():
            (self._folder / name).write_bytes(data)
        params = copy.deepcopy(PARAMS)
        try:
            prompt = compile_prompt(
                str(self._folder / "main.j2"),
                search_root=str(self._folder),
                params=params,
                max_output_bytes=MAX_OUTPUT_BYTES,
            )
        except InputError as error:
            self._check_mistakes(error)
            return "refused"
        prompt.check(["a", "b", "text"])
        prompt.warnings(["a", "row"])
        prompt.digest()
        ending = ""
        for row in ROWS:
            given = copy.deepcopy(row)
            outcome = prompt.render(given)
            ending = ending or self._checked(outcome)
            self._checked(outcome)
            assert repr(given) == repr(row), "the row was changed"
        assert params == PARAMS, "the params were changed"
        again = prompt.render(copy.deepcopy(ROWS[0]))
        timed_out = "render_timeout" in (ending, getattr(again, "error_class", ""))
        assert timed_out or self._checked(again) == ending, "another outcome the second time"
        return ending

    def _check_mistakes(self, error: InputError) -> None:
        assert error.mistakes
        for mistake in error.mistakes:
            assert mistake.where.startswith(str(self._folder)), mistake
            assert len(str(mistake)) < 3000, len(str(mistake))
            str(mistake).encode()

    def _checked(self, outcome: Any) -> str:
        if isinstance(outcome, Cause):
            assert outcome.message
            assert len(outcome.message) <= 500
            assert "\n" not in outcome.message
            outcome.message.encode()
            assert SECRET not in outcome.message
            return outcome.error_class
        size = 0
        for message in outcome:
            size += len(message.content.encode())
            for leak in LEAKS:
                assert leak not in message.content, message.content[:300]
        assert size <= MAX_OUTPUT_BYTES
        return "rendered"
