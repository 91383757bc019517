"""The JSON reporter: one object per line on stdout for every moment, and nothing else there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.cli.streams import ReaderLeftError, say, write_out
from runner.commands.moments import Moment
from runner.core.wire import encode_json
from runner.errors import RunnerError


class JsonReporter:
    """Writes each moment as it comes. A reader that leaves silences it; the work goes on. So does a disk that
    is full, which is told."""

    def __init__(self, ask: Callable[[str], bool], *, write: Callable[[str], None] = write_out) -> None:
        self._ask = ask
        self._write = write
        self._is_heard = True

    def tell(self, moment: Moment) -> None:
        """One line."""
        if not self._is_heard:
            return
        try:
            self._write(json_line(moment.as_json()))
        except ReaderLeftError:
            self._is_heard = False
        except RunnerError as error:
            self._is_heard = False
            say(f"warning: {error.what}; the work goes on, and the events from here on are lost")

    def confirm(self, question: str) -> bool:
        """A person at a terminal is asked on stderr; stdout stays JSON."""
        return self._ask(question)

    def close(self) -> None:
        """Nothing is held open."""


def json_line(value: Any) -> str:
    """A value as one line of JSON. Text that is not Unicode (a path's stray bytes) is shown as escapes."""
    try:
        return encode_json(value).decode() + "\n"
    except TypeError:
        return encode_json(_unicode(value)).decode() + "\n"


def _unicode(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_unicode(key): _unicode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unicode(item) for item in value]
    return value
