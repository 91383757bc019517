"""A foreign template in a process of its own: `--isolated`. The same prompt, from behind the kernel's walls.

Theory
------
Everything that is done with a template's text is done in `isolated_process`: parsing, checking, compiling,
rendering. That process has no key, no network, no way to write or to start anything, bounded memory, and
reads the template's folders alone (`confinement`). So a hole in the sandbox gains nothing but what the
template may do anyway: choose the words of the prompts.

What comes back is a stranger's word: JSON of bounded size, of which every value is looked at here. A process
that ends, hangs or talks nonsense over a row is ended, the row has that as its cause, and the next row finds
a new process, as long as not one row after the other ends its own. The kernel ends it with the thread that
started it: a prompt is used, and let go of, by one thread.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from runner.children import start_child
from runner.core.model import Cause, Message
from runner.errors import InputError, Mistake
from runner.prompt.compiling import PromptSource
from runner.prompt.files import TemplateText, search_folders
from runner.prompt.isolated_process import HEAD
from runner.prompt.wording import readable, readable_mistakes

_MODULE = "runner.prompt.isolated_process"
_ROLES = frozenset({"system", "user", "assistant"})
_MEMORY_BYTES = 1 << 30
_MOST_TEXT_BYTES = 64 << 20
"""Of templates and mistakes together."""
PATIENCE_S = 30.0
"""For one question: far beyond what a row may take (`environment.MAX_SECONDS_PER_ROW`)."""
_MOST_OUTPUT_BYTES = 16 << 20
"""Of a prompt, whatever the manifest says that the server takes."""
_MOST_PARTS = 2_000_000
"""Lists and maps in one answer; each takes far more memory than its two signs."""
_CAUSES = frozenset(
    {"template_error", "missing_variable", "empty_prompt", "prompt_too_large", "render_timeout"}
)
_ENDS_WITHIN_S = 5.0
_MOST_DEATHS = 5
"""So many processes in a row may end over a row each; the rows after them are not tried."""


class _EndedError(Exception):
    """The process is gone, or was ended because of what it said. The text says how."""


class _Process:
    """The process and the socket to it. Raises InputError where this system can't isolate."""

    def __init__(self, source: PromptSource) -> None:
        most_output_bytes = min(source.max_output_bytes, _MOST_OUTPUT_BYTES)
        self._most_bytes = _MOST_TEXT_BYTES + 6 * most_output_bytes
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = start_child(_MODULE, theirs.fileno(), complaints=subprocess.DEVNULL)
        except BaseException:
            self._channel.close()
            raise
        memory_bytes = _MEMORY_BYTES + 8 * most_output_bytes
        try:
            reply = self._asked((source, _folders(source), memory_bytes, PATIENCE_S, os.getpid()))
        except _EndedError as error:
            raise _refused(source, f"its process {error}") from None
        if reply != {"ready": True}:
            self.close()
            raise _refused(source, readable(str(reply.get("refused"))))

    def ask(self, question: str, argument: Any) -> Any:
        """The answer. Raises InputError with the mistakes of a template, _EndedError."""
        reply = self._asked((question, argument))
        if mistakes := _mistakes(reply.get("mistakes")):
            raise InputError(mistakes, next_step=readable(str(reply.get("next_step"))))
        return reply.get("is")

    def close(self) -> None:
        """End it; it has nothing to lose."""
        self._channel.close()
        self._child.kill()
        self._child.wait()

    def _asked(self, message: Any) -> dict[str, Any]:
        data = pickle.dumps(message)
        end_s = time.monotonic() + PATIENCE_S + _ENDS_WITHIN_S
        try:
            self._channel.settimeout(PATIENCE_S + _ENDS_WITHIN_S)
            self._channel.sendall(HEAD.pack(len(data)) + data)
            (size,) = HEAD.unpack(self._taken(HEAD.size, end_s))
            reply = _read(self._taken(size, end_s)) if size <= self._most_bytes else None
        except TimeoutError:
            self.close()
            raise _EndedError(f"took longer than {PATIENCE_S:.0f} s") from None
        except OSError:
            raise _EndedError(self._ending()) from None
        except (ValueError, RecursionError, MemoryError):
            reply = None
        except BaseException:
            self.close()  # half an answer may be on its way: nothing more can be asked
            raise
        if not isinstance(reply, dict):
            self.close()
            raise _EndedError("said what can't be read")
        return reply

    def _taken(self, size: int, end_s: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._channel.settimeout(left_s)
            more = self._channel.recv(min(size - len(data), 1 << 20))
            if not more:
                raise ConnectionError
            data += more
        return bytes(data)

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_ENDS_WITHIN_S)
        self.close()
        code = self._child.returncode
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


class IsolatedPrompt:
    """A `Prompt` whose template is looked at by another process. One thread at a time."""

    def __init__(self, source: PromptSource, columns: Sequence[str] | None) -> None:
        """Reads the files if `source` has no texts. Raises InputError with every mistake."""
        self._process: _Process | None = None
        self._deaths = 0
        self.source = source
        self._columns = columns
        self.source = replace(source, texts=self._begin())

    def __del__(self) -> None:
        self._end()

    def render(self, row: Mapping[str, Any]) -> tuple[Message, ...] | Cause:
        """The messages of a row, or why it has none; also where its process does not survive it."""
        if self._deaths == _MOST_DEATHS:
            return _cause(
                f"not tried: {_MOST_DEATHS} rows before it each ended the process that rendered them"
            )
        try:
            outcome = self._outcome(self._ask("render", dict(row)))
        except _EndedError as error:
            self._end()
            self._deaths += 1
            return _cause(f"the isolated process that rendered it {error}")
        except (InputError, OSError) as error:
            self._deaths += 1
            return _cause(f"no isolated process could be started: {error}")
        self._deaths = 0
        return outcome

    def check(self, columns: Sequence[str] | None) -> list[Mistake]:
        """See `Prompt`."""
        return _mistakes(self._ask_or_fail("check", None if columns is None else list(columns)))

    def warnings(self, columns: Sequence[str] = ()) -> list[Mistake]:
        """See `Prompt`."""
        return _mistakes(self._ask_or_fail("warnings", list(columns)))

    def variables(self) -> tuple[str, ...]:
        """See `Prompt`."""
        return _names(self._ask_or_fail("variables"))

    def columns(self) -> frozenset[str] | None:
        """See `Prompt`."""
        found = self._ask_or_fail("columns")
        return None if found is None else frozenset(_names(found))

    def reads_whole_row(self) -> bool:
        """See `Prompt`."""
        return self._ask_or_fail("reads_whole_row") is not False

    def times_read(self, columns: Sequence[str]) -> tuple[str, ...]:
        """See `Prompt`."""
        return _names(self._ask_or_fail("times_read", list(columns)))

    def files(self) -> tuple[str, ...]:
        """See `Prompt`."""
        return self.source.files()

    def digest(self) -> str:
        """See `Prompt`."""
        return self.source.digest()

    # ------------------------------------------------------------ the process

    def _begin(self) -> tuple[TemplateText, ...]:
        """A new process that has compiled the prompt; gives the texts that it is made of."""
        self._process = _Process(self.source)
        try:
            return _texts(self._process.ask("compile", self._columns))
        except _EndedError as error:
            self._end()
            what = f"the isolated process that reads the template {error}"
            raise InputError([Mistake(where=self.source.template, what=what)]) from None
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ask(self, question: str, argument: Any = None) -> Any:
        if self._process is None:
            self._begin()
        process = self._process
        return None if process is None else process.ask(question, argument)

    def _ask_or_fail(self, question: str, argument: Any = None) -> Any:
        """An answer without which nothing goes on. Raises InputError."""
        try:
            return self._ask(question, argument)
        except _EndedError as error:
            self._end()
            what = f"the isolated process that checks the template {error}"
            raise InputError([Mistake(where=self.source.template, what=what)]) from None

    def _outcome(self, answer: Any) -> tuple[Message, ...] | Cause:
        """Raises _EndedError for what is no outcome."""
        match answer:
            case {"cause": [str(error_class), str(message)]} if error_class in _CAUSES:
                return Cause(error_class=error_class, message=readable(message))
            case list():
                messages = tuple(Message(*one) for one in answer if _is_message(one))
                size = sum(len(one.content.encode("utf-8", "surrogatepass")) for one in messages)
                if len(messages) == len(answer) > 0 and size <= self.source.max_output_bytes:
                    return messages
        raise _EndedError("said what is no prompt")


# ---------------------------------------------------------------- what a stranger says


def _is_message(one: Any) -> bool:
    match one:
        case [str(role), str()]:
            return role in _ROLES
    return False


def _cause(message: str) -> Cause:
    return Cause(error_class="template_error", message=readable(message))


def _read(data: bytes) -> Any:
    """Raises ValueError, RecursionError."""
    if data.count(b"[") + data.count(b"{") > _MOST_PARTS:
        raise ValueError("too many parts")
    return json.loads(data)


def _is_text(part: Any) -> bool:
    return isinstance(part, str) and not any("\ud800" <= one <= "\udfff" for one in part)


def _texts(answer: Any) -> tuple[TemplateText, ...]:
    found = tuple(
        TemplateText(name=one[0], path=one[1], text=one[2])
        for one in (answer if isinstance(answer, list) else ())
        if isinstance(one, list) and len(one) == 3 and all(map(_is_text, one))
    )
    if not found:
        raise _EndedError("said what is no template")
    return found


def _names(answer: Any) -> tuple[str, ...]:
    return tuple(name for name in (answer if isinstance(answer, list) else ()) if isinstance(name, str))


def _mistakes(answer: Any) -> list[Mistake]:
    return readable_mistakes(
        Mistake(where=one[0], what=one[1], path=one[2], hint=one[3])
        for one in (answer if isinstance(answer, list) else ())
        if isinstance(one, list) and len(one) == 4 and all(isinstance(part, str) for part in one)
    )


def _refused(source: PromptSource, why: str) -> InputError:
    what = f"this system can't isolate a template: {why}"
    hint = "leave --isolated out only if you trust the template"
    return InputError([Mistake(where=source.template, what=what, hint=hint)])


def _folders(source: PromptSource) -> tuple[str, ...]:
    """What the process may read: where templates are looked for, and of Python what templates need. A link
    out of the project leads nowhere."""
    own: list[Path] = []
    if source.template and not source.texts:
        beside = Path(source.template).parent.resolve()
        root = Path(source.search_root).resolve() if source.search_root is not None else beside
        found = [Path(folder).resolve() for folder in search_folders(source.template, source.search_root)]
        own = [one for one in found if one == beside or one.is_relative_to(root)]
    packages = [Path(file).parent for file in (os.__file__, jinja2.__file__, markupsafe.__file__)]
    return (*map(str, (*own, *packages, Path(__file__).parents[1])), "/usr/share/zoneinfo")
