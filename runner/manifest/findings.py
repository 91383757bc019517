"""The mistakes found so far, each with its place, so that a user sees all of them at once and in order.

Its one rule: what comes from a file, the environment or the command line is made printable and short
before it becomes part of a text. It knows nothing about YAML or about manifests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.core.model import Position
from runner.errors import InputError, Mistake

MAX_MISTAKES = 100
"""More than a person reads; also bounds the work on a file that is wrong everywhere."""

_MAX_SHOWN = 60
_MAX_PARTS = 12


def shown(text: str) -> str:
    """Text from outside as part of a message: one line, printable, at most 60 characters."""
    return printable(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "...")


def printable(text: str) -> str:
    """Text on one line without control characters, not shortened: for file names, which people click on."""
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")


def dotted(parts: Sequence[str | int]) -> str:
    """`("dataset", "path", 0)` as `dataset.path.0`."""
    return ".".join(str(part) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionPosition(Position):
    """A place on the command line: `file` is the option as shown, such as `--set model.name=...`."""

    def __str__(self) -> str:
        return self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    order: tuple[bool, str, int, int]
    mistake: Mistake


class Findings:
    """Collects mistakes; one for each path and place is enough."""

    def __init__(self) -> None:
        self._found: list[_Finding] = []
        self._paths: set[str] = set()

    def add(self, place: Position, what: str, *, path: str = "", hint: str = "") -> None:
        """Note a mistake at `place`; `path` is dotted. The texts must be printable but for `path`."""
        order = (isinstance(place, OptionPosition), place.file, place.line, place.column)
        parts = path.split(".")
        shown_path = ".".join(shown(part) for part in parts[:_MAX_PARTS]) + (
            "..." if len(parts) > _MAX_PARTS else ""
        )
        mistake = Mistake(where=str(place), what=what, path=shown_path, hint=hint)
        if all(found.mistake != mistake for found in self._found[-MAX_MISTAKES:]):
            self._found.append(_Finding(order=order, mistake=mistake))
        self._paths.add(path)

    def has(self, path: str) -> bool:
        """Whether a mistake was noted at this very path, so that no second one is needed."""
        return bool(path) and path in self._paths

    @property
    def paths(self) -> frozenset[str]:
        """The dotted paths at which something is wrong."""
        return frozenset(self._paths)

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self) -> InputError:
        """All of it as one error, in the order of the file, options last."""
        mistakes = [found.mistake for found in sorted(self._found, key=lambda found: found.order)]
        if len(mistakes) > MAX_MISTAKES:
            rest = len(mistakes) - MAX_MISTAKES
            last = Mistake(where=mistakes[MAX_MISTAKES].where, what=f"and {rest} more mistakes from here on")
            mistakes = [*mistakes[:MAX_MISTAKES], last]
        return InputError(mistakes)
