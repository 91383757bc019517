"""The sandbox in which templates are compiled and run. A prompt is a pure function of row and params.

Jinja2's immutable sandbox, made stricter: a short list of globals, bounded operators, methods and filters,
a limit of processor time per row, templates from a frozen set of texts only, modules of imported files
never kept from row to row unless nothing in them can change. What it can't stop: one single call into
Python's own code on values that are still within the limits (a sort, a comparison of long lists) runs to
its end before the time is looked at; and memory is bounded per value, not as a whole.

Not safe for several threads at a time: the time already spent on a row is kept here.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import BuiltinMethodType
from typing import Any

from jinja2 import FunctionLoader, StrictUndefined, Template
from jinja2.lexer import Lexer
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from runner.prompt import limits
from runner.prompt.codegen import PromptCodeGenerator
from runner.prompt.filters import build_filters, build_tests
from runner.prompt.lexing import PromptLexer

MAX_SECONDS_PER_ROW = 1.0
_ROUNDS_BETWEEN_LOOKS = 64
_GLOBALS = ("range", "namespace", "cycler", "joiner")
_CLOCK_METHODS = ("now", "today", "utcnow")


def _new_dict(*pairs: Any, **items: Any) -> dict[Any, Any]:
    """The global `dict`. Not the type: `dict.pop(row, 'x')` would change the row, sandbox or not."""
    return dict(*pairs, **items)


class _BoundedFormat(SandboxedFormatter):
    """`str.format` in the sandbox, with bounded widths and a bounded result."""

    def __init__(self, environment: PromptEnvironment) -> None:
        super().__init__(environment)
        self.limit = environment.value_limit
        self.size = 0

    def vformat(self, format_string: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        self.size = len(format_string)
        return super().vformat(format_string, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        limits.check_format_spec(format_spec, self.limit)
        if not isinstance(value, str | int | float):
            limits.weigh(value, self.limit)
            limits.refuse_addresses(value)
        text = super().format_field(value, format_spec)
        self.size += len(text)
        limits.refuse_above(self.size, self.limit)
        return text


class PromptTemplate(Template):
    """A template whose module (for `{% import %}`) is kept for good only if nothing in it can change.

    Else it is kept for one row: who imports the file twice meets the same state twice, as in Jinja2.
    """

    is_constant = False
    environment: PromptEnvironment

    def _get_default_module(self, ctx: Context | None = None) -> Any:
        if self.is_constant:
            return super()._get_default_module(ctx)
        modules = self.environment.row_modules
        if self.name not in modules:
            modules[self.name] = self.make_module()
        return modules[self.name]


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and runs the templates in `texts` (name to path and text), and no others."""

    code_generator_class = PromptCodeGenerator
    template_class = PromptTemplate
    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(
        self,
        *,
        texts: Mapping[str, tuple[str, str]],
        params: Mapping[str, Any],
        times: Mapping[str, datetime.datetime],
        value_limit: int,
        mark: str,
        constants: Collection[str] = (),
        constant_params: Mapping[str, Any] | None = None,
    ) -> None:
        """`mark` is put around messages and `constant_params` are put in where they are read (`codegen`);
        `constants` names files that hold no state.
        """
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            auto_reload=False,
            cache_size=-1,
            finalize=self.text_of,
            loader=FunctionLoader(
                lambda name: (texts[name][1], texts[name][0], None) if name in texts else None
            ),
        )
        self.mark = mark
        self.constant_params: Mapping[str, Any] = constant_params or {}
        self._constants = frozenset(constants)
        self.value_limit = value_limit
        self._prompt_lexer = PromptLexer(self)
        self._rounds = 0
        self._deadline_s = float("inf")
        self._ready: dict[str, Template] = {}
        self.row_modules: dict[str | None, Any] = {}
        self.concat = self._concat  # type: ignore[method-assign]
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        self.globals |= {"dict": _new_dict, "params": params, "run": times}
        self.filters = build_filters(value_limit, self.tick)
        self.tests = build_tests(self.tests, self.comparable)

    @property
    def lexer(self) -> Lexer:
        """Our own white space rule; see `lexing`."""
        return self._prompt_lexer

    def get_template(self, name: Any, parent: str | None = None, globals: Any = None) -> Template:  # noqa: A002
        """A compiled template by its name, compiled once. Raises TemplateNotFound."""
        found = self._ready.get(name)
        if found is None:
            found = self._ready[name] = super().get_template(name, parent, globals)
            if isinstance(found, PromptTemplate):
                found.is_constant = name in self._constants
        return found

    # -------------------------------------------------------- time

    def start_clock(self) -> None:
        """A new row begins: MAX_SECONDS_PER_ROW of this thread's processor time from now."""
        self._rounds = 0
        self._deadline_s = time.thread_time() + MAX_SECONDS_PER_ROW

    def tick(self) -> None:
        """One round of a loop, one call of a macro, one item of a lazy filter. Raises RenderTimeoutError."""
        self._rounds += 1
        if self._rounds % _ROUNDS_BETWEEN_LOOKS == 0 and time.thread_time() > self._deadline_s:
            raise limits.RenderTimeoutError(
                f"the row took more than {MAX_SECONDS_PER_ROW:g} s ({self._rounds} rounds of its loops)"
            )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As in the immutable sandbox; and a date does not tell what time it is now."""
        if attr in _CLOCK_METHODS and isinstance(obj, datetime.date):
            return False
        return super().is_safe_attribute(obj, attr, value)

    # -------------------------------------------------------- texts and sizes

    def text_of(self, value: object) -> str:
        """How a value is printed: `{{ value }}`. Raises TypeError for what has no text."""
        if value.__class__ is str:
            return value
        return limits.text_of(value, self.value_limit)

    def comparable(self, value: Any) -> Any:
        """A value that is about to be compared. Raises LimitError where that might never end."""
        return value if value.__class__ is str else limits.comparable(value, self.value_limit)

    def _concat(self, pieces: Iterable[str]) -> str:
        """What macros, `{% set %}` blocks, `super()` and the like put together."""
        kept: list[str] = []
        size = 0
        for piece in pieces:
            size += len(piece)
            limits.refuse_above(size, self.value_limit)
            kept.append(piece)
        return "".join(kept)

    def join_texts(self, values: tuple[object, ...]) -> str:
        """`a ~ b`."""
        return self._concat(self.text_of(value) for value in values)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**`, `+` and `%`, bounded."""
        if operator == "*":
            return limits.multiply(left, right, self.value_limit)
        if operator == "**":
            return limits.power(left, right)
        if operator == "%":
            return limits.modulo(left, right, self.value_limit)
        return limits.add(left, right, self.value_limit)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call in a template, bounded where it is a text method that makes much out of little."""
        if type(__obj) is BuiltinMethodType:
            limits.check_method(__obj, (*args, *kwargs.values()), __self.value_limit)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` and `format_map` in the sandbox, bounded."""
        if type(value) is not BuiltinMethodType or value.__name__ not in ("format", "format_map"):
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None
        formatter = _BoundedFormat(self)

        def bounded_format(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                return formatter.vformat(text, (), *args)
            return formatter.vformat(text, args, kwargs)

        return bounded_format
