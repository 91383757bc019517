"""Is this a fault that can be armed? Every mistake at once, in words; and files of faults.

A file is a JSON array of fault objects, one fault object, or JSON Lines with one on each line (blank lines
are left out). A mistake is told with its place: the line, and for an array which fault of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.core.wire import JsonError, decode_json
from runner.localserver.faults.table import KINDS

_FIELDS = ("kind", "route", "nth", "times", "token", "params")
MAX_FILE_BYTES = 1 << 20
_SHOWN_NAMES = 20
_NONE_BELOW_0 = frozenset({"body_s"})
"""Parameters where -1 means that nothing is said."""


class FaultError(ValueError):
    """Faults that can't be armed. The text says why, one mistake a line."""


def mistakes_of(value: object) -> list[str]:
    """What is wrong with a fault object; empty for a good one."""
    if not isinstance(value, dict):
        return ["expected an object with a `kind`"]
    name = value.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        return [_unknown("kind", name, tuple(KINDS))]
    found = [f"{name}: {_unknown('key', key, _FIELDS)}" for key in value if key not in _FIELDS]
    for key, lowest in (("nth", 1), ("times", 0)):
        if not _is_whole(value.get(key, 1)) or value.get(key, 1) < lowest:
            found.append(
                f"{name}: {key} is a whole number from {lowest}{' (for ever)' if not lowest else ''}"
            )
    found += [
        f"{name}: {key} is a text" for key in ("route", "token") if not isinstance(value.get(key, ""), str)
    ]
    params = value.get("params", {})
    if not isinstance(params, dict):
        return [*found, f"{name}: params is an object"]
    return found + [f"{name}: {mistake}" for mistake in _mistakes_of_params(params, kind.params)]


def _mistakes_of_params(params: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for key, given in params.items():
        if key not in known:
            yield _unknown("parameter", key, tuple(known))
        elif isinstance(known[key], bool) and not isinstance(given, bool):
            yield f"{key} is true or false"
        elif _is_number(known[key]) and not _is_number(given):
            yield f"{key} is a number"
        elif _is_whole(known[key]) and not _is_whole(given):
            yield f"{key} is a whole number"
        elif _is_number(known[key]) and given < (-1 if key in _NONE_BELOW_0 else 0):
            yield f"{key} is a number of 0 or more"
        elif isinstance(known[key], str) and key != "value" and not isinstance(given, str):
            yield f"{key} is a text"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unknown(what: str, given: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(given), known, n=1)
    if close:
        return f"unknown {what} {given!r}; did you mean {close[0]!r}?"
    listed = ", ".join(known) or "none"
    shown = "`GET /faults` lists them" if len(known) > _SHOWN_NAMES else f"known are {listed}"
    return f"unknown {what} {given!r}; {shown}"


def read_faults(path: Path) -> list[Mapping[str, Any]]:
    """The fault objects of a file, checked. Raises FaultError with every mistake and its place."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FaultError(f"{path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise FaultError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    mistakes: list[str] = []
    faults: list[Mapping[str, Any]] = []
    for place, value in _entries(data.removeprefix(b"\xef\xbb\xbf")):
        wrong = [value] if isinstance(value, str) else mistakes_of(value)
        mistakes += [f"{path}{place}: {mistake}" for mistake in wrong]
        if not wrong and isinstance(value, dict):
            faults.append(value)
    if mistakes:
        raise FaultError("\n".join(mistakes))
    return faults


def _entries(data: bytes) -> Iterator[tuple[str, object]]:
    """(place, value) of each entry; a text where there is none that can be read."""
    try:
        whole = decode_json(data)
    except JsonError:
        yield from _lines(data)
        return
    if not isinstance(whole, list):
        yield ":1", whole if isinstance(whole, dict) else "expected fault objects"
        return
    for number, value in enumerate(whole, start=1):
        yield f": fault {number}", value if isinstance(value, dict) else "expected an object with a `kind`"


def _lines(data: bytes) -> Iterator[tuple[str, object]]:
    if data.lstrip()[:1] == b"[":
        try:
            decode_json(data)
        except JsonError as error:
            yield f":{error.lineno}:{error.colno}", f"not JSON: {error.msg.split(': line ')[0]}"
        return
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = decode_json(line)
        except JsonError as error:
            yield f":{number}:{error.colno}", f"not JSON: {error.msg.split(': line ')[0]}"
        else:
            yield f":{number}", value if isinstance(value, dict) else "expected an object with a `kind`"
