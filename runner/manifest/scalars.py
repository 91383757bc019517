"""Plain YAML scalars to values, by the core schema of YAML 1.2, and sizes, durations and shares.

Its one rule: when in doubt it is text. `no`, `on`, `12:30:45`, dates, `0777` and `1_000` stay as written;
only null, true/false, decimal, `0o` and `0x` integers, and floats become something else. The core schema
reads `0777` as 777; here a leading zero means text, as postcodes and ids do.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_MAX_DIGITS = 40
"""Enough to see that an integer is too large; Python refuses to read 4,300 digits and more."""


def read_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar.

    Integers beyond 64 bits come out as they are, up to 40 digits; longer ones, and floats too large, come
    out as infinity. The caller refuses both: JSON, or the servers, can't hold them.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _DECIMAL.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else float("inf")
    if _BASED.fullmatch(text):
        return int(text, 0) if len(text) <= _MAX_DIGITS else float("inf")
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


_UNIT_BYTES = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_UNIT_SECONDS = {
    "": Decimal(1),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def size_bytes(value: str | int | float) -> int:
    """Bytes of `90MB`, `100MiB`, `1000` or a number, rounded down. The schema checked the form."""
    if not isinstance(value, str):
        return int(value)
    number, unit = _parts(value)
    return int(number * _UNIT_BYTES[unit])


def duration_s(value: str | int | float) -> float:
    """Seconds of `30s`, `500ms`, `2m`, `1h`, `30` or a number. The schema checked the form."""
    if not isinstance(value, str):
        return float(value)
    number, unit = _parts(value)
    return float(number * _UNIT_SECONDS[unit])


def percent_share(value: str) -> float:
    """0.005 for `0.5%`. The schema checked the form."""
    return float(Decimal(value.removesuffix("%")) / 100)


def _parts(text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return Decimal(match[1]), match[2]
