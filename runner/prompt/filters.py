"""The filters a prompt may use: Jinja2's own, bounded, NULL as empty text, and nothing that is random.

Markup has no meaning in a prompt: `safe` does nothing, and `escape` gives ordinary text.
The rule: the same row and params give the same text, on every machine and in every year. Therefore no
`random`, and `tojson` writes plain UTF-8 JSON instead of JSON for HTML pages.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import islice
from typing import Any

from jinja2 import pass_context, pass_environment
from jinja2.environment import Environment
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from markupsafe import Markup

from runner.prompt import limits

LAZY_FILTERS = ("map", "select", "reject", "selectattr", "rejectattr")
"""Filters that do something for each item of a sequence: every item counts as a round."""

_TEXT_FILTERS = (
    "capitalize", "e", "escape", "forceescape", "indent", "striptags", "title", "truncate", "urlencode",
    "urlize", "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip
_COMPARING_FILTERS = ("dictsort", "groupby", "max", "min", "sort", "unique")
_COMPARING_TESTS = (
    *("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">="),
    *("<", "lt", "lessthan", "<=", "le", "in"),
)
_MAX_ROUND_DIGITS = 300
_SHORT_ARGUMENT = 16


def build_filters(limit: int, tick: Callable[[], None]) -> dict[str, Callable[..., Any]]:
    """All filters by name. `limit` bounds a value's size, `tick` is called for each item of lazy filters."""
    filters = dict(FILTERS)
    del filters["random"]
    for name in _TEXT_FILTERS:
        filters[name] = _on_text(filters[name], limit)
    for name in LAZY_FILTERS:
        filters[name] = _counted(filters[name], tick)
    for name in _COMPARING_FILTERS:
        filters[name] = _comparing(filters[name], limit)
    for name in ("batch", "slice"):
        filters[name] = _with_bounded_number(filters[name], limit)
    filters["round"] = _with_bounded_number(filters["round"], _MAX_ROUND_DIGITS)
    filters["list"] = _list(limit)
    filters["string"] = filters["safe"] = lambda value: limits.text_of(value, limit)
    filters |= _quick_filters(limit)
    filters["center"] = _center(limit)
    filters["format"] = _format(limit)
    filters["join"] = _join(limit)
    filters["pprint"] = _pprint(filters["pprint"], limit)
    filters["replace"] = _replace(limit)
    filters["sum"] = _sum(limit)
    filters["tojson"] = _tojson(limit)
    return filters


def _quick_filters(limit: int) -> dict[str, Callable[..., str]]:
    """The commonest filters, without a wrapper around them."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else limits.text_of(value, limit)

    def trim(value: object, chars: str | None = None) -> str:
        return text(value).strip(chars)

    def upper(s: object) -> str:
        return text(s).upper()

    def lower(s: object) -> str:
        return text(s).lower()

    return {"trim": trim, "upper": upper, "lower": lower}


def _value_place(function: Callable[..., Any]) -> int:
    """Where a filter's value stands: after the context or environment that some filters take."""
    return 1 if hasattr(function, "jinja_pass_arg") else 0


def _on_text(function: Callable[..., Any], limit: int) -> Callable[..., Any]:
    place = _value_place(function)

    @wraps(function)
    def on_text(*arguments: Any, **options: Any) -> Any:
        value = arguments[place]
        if value is None:
            arguments = (*arguments[:place], "", *arguments[place + 1 :])
        elif isinstance(value, list):  # `indent` adds a line break to what it is given, before it fails
            arguments = (*arguments[:place], list(value), *arguments[place + 1 :])
        if options or len(arguments) > place + 1:
            _check_arguments(value, (*arguments[place + 1 :], *options.values()), limit)
        result = function(*arguments, **options)
        return str(result) if isinstance(result, Markup) else result

    return on_text


def _check_arguments(value: object, arguments: Iterable[Any], limit: int) -> None:
    """Refuse a width or an inserted text (`indent`, `wordwrap`, `urlize`) that could make too much."""
    size = len(value) if isinstance(value, str) else 1
    for argument in arguments:
        if isinstance(argument, int):
            limits.refuse_above(argument * (1 + _lines(value)), limit * _SHORT_ARGUMENT)
        elif isinstance(argument, str) and len(argument) > _SHORT_ARGUMENT:
            limits.refuse_above(size * len(argument), limit)


def _lines(value: object) -> int:
    return value.count("\n") if isinstance(value, str) else 0


def _counted(function: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def rounds(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            tick()
            yield item

    @wraps(function)
    def counted(context: Context, value: Any, *arguments: Any, **options: Any) -> Any:
        items = rounds(value) if not isinstance(value, Undefined) and value else value
        return function(context, items, *arguments, **options)

    return counted


def build_tests(tests: Mapping[str, Any], comparable: Callable[[Any], Any]) -> dict[str, Any]:
    """Jinja2's tests, those that compare guarded (`limits.comparable`)."""

    def guarded(test: Callable[..., Any]) -> Callable[..., Any]:
        return lambda value, other: test(comparable(value), comparable(other))

    return {**tests, **{name: guarded(tests[name]) for name in _COMPARING_TESTS}}


def _comparing(function: Callable[..., Any], limit: int) -> Callable[..., Any]:
    place = _value_place(function)

    @wraps(function)
    def comparing(*arguments: Any, **options: Any) -> Any:
        value = arguments[place]
        if isinstance(value, Iterator):
            value = list(islice(value, limit + 1))
            limits.refuse_above(len(value), limit)
        limits.comparable(value, limit)
        return function(*arguments[:place], value, *arguments[place + 1 :], **options)

    return comparing


def _with_bounded_number(function: Callable[..., Any], limit: int) -> Callable[..., Any]:
    @wraps(function)
    def with_bounded_number(value: Any, *arguments: Any, **options: Any) -> Any:
        for argument in (*arguments, *options.values()):
            if isinstance(argument, int):
                limits.refuse_above(abs(argument), limit)
        return function(value, *arguments, **options)

    return with_bounded_number


def _list(limit: int) -> Callable[..., list[Any]]:
    def to_list(value: Iterable[Any]) -> list[Any]:
        items = list(islice(value, limit + 1))
        limits.refuse_above(len(items), limit)
        return items

    return to_list


def _center(limit: int) -> Callable[..., str]:
    def center(value: object, width: int = 80) -> str:
        limits.refuse_above(width, limit)
        return limits.text_of(value, limit).center(width)

    return center


def _format(limit: int) -> Callable[..., str]:
    def printf(value: object, *arguments: Any, **options: Any) -> str:
        if arguments and options:
            raise TypeError("format takes either positions or names, not both")
        text: str = limits.modulo(limits.text_of(value, limit), options or arguments, limit)
        return text

    return printf


def _join(limit: int) -> Callable[..., str]:
    get_attribute = FILTERS["map"]

    @pass_context
    def join(context: Context, value: Iterable[Any], d: object = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = get_attribute(context, value, attribute=attribute)
        between = limits.text_of(d, limit)
        pieces: list[str] = []
        size = 0
        for item in value:
            text = limits.text_of(item, limit)
            size += len(text) + len(between)
            limits.refuse_above(size, limit)
            pieces.append(text)
        return between.join(pieces)

    return join


def _pprint(function: Callable[..., str], limit: int) -> Callable[..., str]:
    def pprint(value: object) -> str:
        if isinstance(value, list | tuple | Mapping | str):
            limits.weigh(value, limit)
            limits.refuse_addresses(value)
            return function(value)
        return limits.text_of(value, limit)

    return pprint


def _replace(limit: int) -> Callable[..., str]:
    def replace(value: object, old: object, new: object, count: int | None = None) -> str:
        text = limits.text_of(value, limit)
        before, after = limits.text_of(old, limit), limits.text_of(new, limit)
        limits.refuse_above(text.count(before) * len(after), max(limit, len(text)))
        return text.replace(before, after, -1 if count is None else count)

    return replace


def _sum(limit: int) -> Callable[..., Any]:
    get_attribute = FILTERS["map"]

    @pass_environment
    def add_up(environment: Environment, value: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
        if attribute is not None:
            context = environment.context_class(environment, {}, None, {})
            value = get_attribute(context, value, attribute=attribute)
        total = start
        for item in value:
            total = limits.add(total, item, limit)
        return total

    return add_up


# ---------------------------------------------------------------- JSON


def _tojson(limit: int) -> Callable[..., str]:
    def tojson(value: object, indent: int | None = None) -> str:
        limits.refuse_above(indent or 0, _SHORT_ARGUMENT)
        limits.weigh(value, limit)
        return json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)

    return tojson


def _plain(value: Any) -> Any:
    """What JSON can hold: dates in ISO form and other values as text, NaN and infinities as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return limits.text_of(value, limits.MIN_VALUE_LIMIT)


def _plain_key(key: Any) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
