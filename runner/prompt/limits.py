"""How far a template may grow a value: sizes predicted before the work is done.

The rule: whatever can make much out of little (`"a" * 10 ** 9`, a width, a format, doubling) is measured
first and refused as a `LimitError`, which becomes the row's cause. Sizes are characters of text and items
of lists, all levels counted. This is a guard against slips and simple bombs; the wall is the memory limit
of the process that renders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2.runtime import TemplateReference, Undefined
from jinja2.utils import Namespace

MAX_INTEGER_BITS = 65_536
MIN_VALUE_LIMIT = 1_000_000
"""A value may always reach this size, however small the allowed prompt: templates cut and filter."""


class LimitError(Exception):
    """A value in a template would become too big."""


class RenderTimeoutError(Exception):
    """One row takes too long."""


def refuse_above(size: int, limit: int) -> None:
    """Raise LimitError for a value of `size` characters or items above `limit`."""
    if size > limit:
        raise LimitError(f"a value would have more than {limit} characters or items")


def weigh(value: object, limit: int) -> int:
    """Characters and items of a value, at all levels. Raises LimitError as soon as they pass `limit`.

    A list that holds the same list twice counts it twice, as its text would show it twice. A missing value
    raises UndefinedError, as it does where it is printed by itself.
    """
    size = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str | bytes | bytearray):
            size += len(item)
        elif isinstance(item, Mapping):
            size += len(item)
            refuse_above(size, limit)
            stack.extend(item.values())
            stack.extend(item)
        elif isinstance(item, list | tuple | set | frozenset):
            size += len(item)
            refuse_above(size, limit)
            stack.extend(item)
        elif isinstance(item, Undefined):
            str(item)
        else:
            size += 1
        refuse_above(size, limit)
    return size


def comparable(value: Any, limit: int) -> Any:
    """The value, to be compared with another. Raises LimitError where that could go on for ever.

    Lists that hold the same list twice, again and again, are small in memory; comparing two of them visits
    every path, in one step of Python's own that nothing can interrupt.
    """
    if isinstance(value, list | tuple | Mapping):
        parts = value.values() if isinstance(value, Mapping) else value
        if any(isinstance(part, list | tuple | Mapping) for part in parts):
            weigh(value, limit)
    return value


def text_of(value: object, limit: int) -> str:
    """How a value is written into a prompt. NULL is empty text; everything else is `str(value)`.

    Raises TypeError for what has no text of its own: a method or macro without its parentheses, a lazy
    sequence, bytes. Their `str` is a memory address, so that every run would send another prompt.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Undefined):
        return str(value)
    if isinstance(value, list | tuple | Mapping):
        weigh(value, limit)
        refuse_addresses(value)
        return str(value)
    return _text_of_object(value)


def refuse_addresses(value: object) -> None:
    """Raise TypeError where the text of a value would hold a memory address, at any level. Weigh it first."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            stack.extend(item.values())
            stack.extend(item)
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif not isinstance(item, str | int | float | bytes | bytearray | None):
            _text_of_object(item)


def _text_of_object(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("a binary value has no text; convert it in the dataset's query")
    if isinstance(value, Iterator):
        raise TypeError(f"a {kind} was printed; add |list or |join(', ') to it")
    if isinstance(value, Namespace):
        raise TypeError("a namespace was printed; print one of its attributes")
    if isinstance(value, TemplateReference):
        raise TypeError("the template itself was printed; call one of its blocks, or write row['self']")
    if callable(value) or type(value).__repr__ is object.__repr__:
        raise TypeError(f"a {kind} was printed; call it with (), or write x['name'] for a field's value")
    return str(value)


# ---------------------------------------------------------------- operators


def multiply(left: Any, right: Any, limit: int) -> Any:
    """`left * right`, unless it would be too big."""
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
            refuse_above(len(value) * times, limit)
    if isinstance(left, int) and isinstance(right, int):
        _refuse_bits(left.bit_length() + right.bit_length())
    return left * right


def power(left: Any, right: Any) -> Any:
    """`left ** right`, unless it would be too big."""
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        _refuse_bits(left.bit_length() * right)
    return left**right


def add(left: Any, right: Any, limit: int) -> Any:
    """`left + right`, unless it would be too big."""
    if isinstance(left, str | bytes | list | tuple) and isinstance(right, str | bytes | list | tuple):
        refuse_above(len(left) + len(right), limit)
    return left + right


def modulo(left: Any, right: Any, limit: int) -> Any:
    """`left % right`; where left is text, it is a format."""
    if isinstance(left, str):
        refuse_above(_printf_size(left, right, limit), limit)
        refuse_addresses(right)
    return left % right


def _refuse_bits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise LimitError(f"a number would have more than {MAX_INTEGER_BITS} bits")


# ---------------------------------------------------------------- formats

_PRINTF = re.compile(r"%(?:\(([^)]*)\))?[-#0 +]*(\*|\d+)?(?:\.(\*|\d+))?[a-zA-Z%]?")


def _printf_size(pattern: str, values: object, limit: int) -> int:
    """An upper bound for the length of `pattern % values`."""
    size = len(pattern) + (0 if isinstance(values, Mapping) else weigh(values, limit))
    for match in _PRINTF.finditer(pattern):
        name, *widths = match.groups()
        for width in widths:
            size += _width(width, limit)
        if name is not None and isinstance(values, Mapping) and name in values:
            size += weigh(values[name], limit)
        refuse_above(size, limit)
    return size


def _width(digits: str | None, limit: int) -> int:
    if not digits:
        return 0
    if digits == "*" or len(digits) > len(str(limit)):
        raise LimitError("a width in a format is too big")
    return int(digits)


def check_format_spec(spec: str, limit: int) -> None:
    """Refuse a width or precision in a `str.format` specification that is too big."""
    for digits in re.findall(r"\d+", spec):
        refuse_above(_width(digits, limit), limit)


# ---------------------------------------------------------------- methods that grow their text


def _numbers(arguments: tuple[Any, ...]) -> int:
    return max((value for value in arguments if isinstance(value, int)), default=0)


def _replaced(text: Any, arguments: tuple[Any, ...]) -> int:
    old, new = arguments[0], arguments[1]
    return len(text) + int(text.count(old)) * len(new)


def _joined(text: Any, arguments: tuple[Any, ...]) -> int:
    items = arguments[0]
    if not isinstance(items, list | tuple):
        return len(text)  # a lazy sequence: its own rounds are counted, its items are bounded
    return len(text) * len(items) + sum(len(item) for item in items)


def _translated(text: Any, arguments: tuple[Any, ...]) -> int:
    table = arguments[0]
    values = table.values() if isinstance(table, Mapping) else ()
    return len(text) * max((len(value) for value in values if isinstance(value, str)), default=1)


_GROWTH: dict[str, Callable[[Any, tuple[Any, ...]], int]] = {
    "center": lambda text, arguments: _numbers(arguments),
    "ljust": lambda text, arguments: _numbers(arguments),
    "rjust": lambda text, arguments: _numbers(arguments),
    "zfill": lambda text, arguments: _numbers(arguments),
    "to_bytes": lambda text, arguments: _numbers(arguments),
    "expandtabs": lambda text, arguments: text.count("\t") * max(_numbers(arguments), 8),
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
}


def check_method(method: Any, arguments: tuple[Any, ...], limit: int) -> None:
    """Refuse a call of a method whose result would be too big, or that compares what can't be compared in
    bounded time. Wrong arguments are left to Python."""
    if method.__name__ in ("count", "index") and isinstance(method.__self__, list | tuple):
        for value in (method.__self__, *arguments):
            comparable(value, limit)
    predict = _GROWTH.get(method.__name__)
    if predict is None:
        return
    try:
        size = predict(method.__self__, arguments)
    except (TypeError, IndexError, AttributeError):
        return
    refuse_above(size, limit)
