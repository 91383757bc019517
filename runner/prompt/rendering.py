"""One row to its messages, or to the cause why not. Called a million times.

Theory. Jinja2's `Template.render` makes a context per call, and most of a short prompt's time goes there.
Here one context is kept and its dictionary of variables is replaced for every row. What a rendering may
write into a context is exactly: `vars` and `exported_vars` (sets, macros and imports at top level) and
`blocks` (a parent adds its own, each time); those are put back after each row. `eval_ctx` is only changed by
`{% autoescape %}`, which is refused. After any exception the context is thrown away. Included files make
contexts of their own, imported modules are made anew unless they hold no state (`environment`).
A property test compares this with `Template.render` over generated templates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Template, UndefinedError
from jinja2.runtime import Context

from runner.core.model import Cause, Message
from runner.prompt.codegen import END, LETTERS
from runner.prompt.environment import PromptEnvironment
from runner.prompt.limits import RenderTimeoutError
from runner.prompt.wording import readable

_made: Callable[[type[Message], tuple[str, str]], Message] = tuple.__new__
"""`Message` without its checks of arguments: there is one for every row."""


class PromptTooLargeError(Exception):
    """The text of a prompt passed its limit while it was put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is known of a template before the first row.

    `has_messages`: it has message blocks. `has_parents`: it extends another. `has_rounds`: it has loops,
    macros, includes or lazy filters, so that size and time must be watched while it runs.
    """

    has_messages: bool
    has_parents: bool
    has_rounds: bool


class Renderer:
    """Renders rows, one after another; not safe for several threads at a time."""

    def __init__(
        self,
        *,
        environment: PromptEnvironment,
        template: Template,
        shape: Shape,
        params: Mapping[str, Any],
        max_output_bytes: int,
        names: Collection[str],
    ) -> None:
        """`names` are all names that the files read: no other globals are put into the context."""
        self._environment = environment
        self._template = template
        self._has_parents = shape.has_parents
        self._has_rounds = shape.has_rounds
        self._messages = self._split if shape.has_messages else self._single
        self._params = params
        self._max_output_bytes = max_output_bytes
        self._mark = environment.mark
        self._globals = {name: value for name, value in environment.globals.items() if name in names}
        self._context: Context | None = None
        self._last = {letter: Message(role=role, content="") for role, letter in LETTERS.items()}

    def render(self, row: Mapping[str, Any]) -> tuple[Message, ...] | Cause:
        """Messages in the order of the template, white space around each cut off. Never raises."""
        try:
            text = self._text(row)
            messages = self._messages(text)
            if len(text) * 4 > self._max_output_bytes or not text.isascii():
                self._check_size(messages)
        except Exception as error:
            self._context = None
            return self._cause(error)
        for role, _ in messages:
            if role == "user":
                return messages
        return Cause(error_class="empty_prompt", message=_EMPTY if messages else _BLANK)

    # -------------------------------------------------------- text

    def _text(self, row: Mapping[str, Any]) -> str:
        variables = {**self._globals, **row, "params": self._params, "row": row}
        self._environment.row_modules.clear()
        context = self._context
        if context is None:
            context = Context(self._environment, variables, self._template.name, self._template.blocks)
            self._context = context
        else:
            context.parent = variables
        if self._has_rounds:
            self._environment.start_clock()
            text = self._gather(self._template.root_render_func(context))
        else:
            text = "".join(self._template.root_render_func(context))
        if context.vars:
            context.vars.clear()
            context.exported_vars.clear()
        if self._has_parents:
            context.blocks = {name: [block] for name, block in self._template.blocks.items()}
        return text

    def _gather(self, pieces: Iterable[str]) -> str:
        kept: list[str] = []
        left = self._max_output_bytes + self._slack()
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise PromptTooLargeError
            kept.append(piece)
        return "".join(kept)

    def _slack(self) -> int:
        """Marks and white space around messages don't count; a generous allowance while streaming."""
        return 10_000 + self._max_output_bytes // 10

    # -------------------------------------------------------- messages

    def _split(self, text: str) -> tuple[Message, ...]:
        """The marked parts of a text. Marks open and close in turn, so every second part is a message."""
        messages: list[Message] = []
        last = self._last
        for part in text.split(self._mark)[1::2]:
            letter = part[0]
            if letter == END:
                raise TypeError("a message stands inside another message")
            content = part[1:].strip()
            if content:
                message = last[letter]
                # The same object where the text is that of the row before: system prompts mostly.
                if message[1] != content:
                    message = last[letter] = _made(Message, (message[0], content))
                messages.append(message)
        return tuple(messages)

    def _single(self, text: str) -> tuple[Message, ...]:
        content = text.strip()
        return (Message(role="user", content=content),) if content else ()

    def _check_size(self, messages: tuple[Message, ...]) -> None:
        """UTF-8 bytes of all messages. Raises UnicodeEncodeError for text that has none."""
        size = sum(
            len(text) if text.isascii() else len(text.encode())
            for text in (message.content for message in messages)
        )
        if size > self._max_output_bytes:
            raise PromptTooLargeError

    # -------------------------------------------------------- causes

    def _cause(self, error: Exception) -> Cause:
        if isinstance(error, PromptTooLargeError):
            what = f"the prompt is larger than {self._max_output_bytes} bytes"
            return Cause(error_class="prompt_too_large", message=what)
        place = _place(error)
        for kind, error_class, describe in _CAUSES:
            if isinstance(error, kind):
                return Cause(error_class=error_class, message=readable(place + describe(error)))
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Cause(error_class="template_error", message=readable(place + what))


_EMPTY = "the prompt has no user message: the block `user` is blank for this row"
_BLANK = "the prompt is blank for this row"
_CAUSES: tuple[tuple[type[Exception], str, Callable[[Exception], str]], ...] = (
    (UndefinedError, "missing_variable", str),
    (RenderTimeoutError, "render_timeout", str),
    (UnicodeEncodeError, "template_error", lambda _: "the text holds half a character (a lone surrogate)"),
)


def _place(error: Exception) -> str:
    """`name:line: ` of the innermost template that was running, or empty."""
    place = ""
    for template, line in _template_frames(error):
        place = f"{template.name}:{template.get_corresponding_lineno(line)}: "
    return place


def _template_frames(error: Exception) -> Iterator[tuple[Template, int]]:
    traceback = error.__traceback__
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template):
            yield template, traceback.tb_lineno
        traceback = traceback.tb_next
