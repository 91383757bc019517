"""The log of a program that serves: one JSON object a line on stderr, with its time.

Every line has `at` (UTC) and `event`; moments of runs bring the fields that `--json` gives them. What is told
often (bytes uploaded, rows rendered) is left out. Texts of others are cleaned, for whoever reads it on a
terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from runner.cli.json_lines import json_line
from runner.cli.streams import say
from runner.cli.texts import clean
from runner.commands.moments import Moment, Publishing, RowsRendered, UploadProgress

_OFTEN = (Publishing, RowsRendered, UploadProgress)


class JsonLog:
    """Writes events and hears moments. Any thread may write; a line is written whole."""

    def __init__(self, *, write: Callable[[str], None] = say, clock: Callable[[], float] = time.time) -> None:
        self._write = write
        self._clock = clock

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        """One line."""
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        self._write(json_line({"at": at, "event": event, **_cleaned(fields)}).rstrip("\n"))

    def tell(self, moment: Moment) -> None:
        """A moment of a run as a line."""
        if not isinstance(moment, _OFTEN):
            fields = moment.as_json()
            self.log(fields.pop("event"), fields)

    def confirm(self, _question: str) -> bool:
        """Nobody is there to be asked: the limits in the manifest decide."""
        return True


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {name: _cleaned(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value
