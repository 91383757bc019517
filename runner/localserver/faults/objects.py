"""Kinds at the points `object` and `listing`: batches and files as they are told, not as they are.

`act` takes the decoded reply and the fault's parameters, and gives the value to send in its place. The
server's own state is untouched.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from runner.localserver.faults.kind import BATCH, BATCHES, CREATE, FaultKind, Point

Value = dict[str, Any]
Params = Mapping[str, Any]

_STAMPS = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "cancelling_at", "cancelled_at")


def _with(**fields: Any) -> Callable[[Value, Params], Value]:
    return lambda value, _: {**value, **fields}


def _without(*names: str) -> Callable[[Value, Params], Value]:
    return lambda value, _: {name: item for name, item in value.items() if name not in names}


def _set(field: str) -> Callable[[Value, Params], Value]:
    return lambda value, params: {**value, field: params["value"]}


def _stuck(status: str, stamp: str | None = None) -> FaultKind:
    def act(value: Value, _params: Params) -> Value:
        shown = {name: item for name, item in value.items() if name not in _STAMPS}
        if stamp is not None:
            shown[stamp] = value["created_at"]
        if status == "validating":
            shown["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
            shown.pop("output_file_id", None)
            shown.pop("error_file_id", None)
        return {**shown, "status": status}

    return _object(f"the batch says `{status}` and never anything else", act, BATCH)


def _object(
    summary: str, act: Callable[[Value, Params], Any], route: str = BATCH, **params: Any
) -> FaultKind:
    return FaultKind(point=Point.OBJECT, summary=summary, route=route, params=params, act=act)


def _upper(value: Value, _params: Params) -> Value:
    return {**value, "status": str(value.get("status")).upper()}


def _ended(status: str) -> Callable[[Value, Params], Value]:
    """A last word in place of the cancellation that really ended the batch."""

    def act(value: Value, _params: Params) -> Value:
        shown = _without("cancelling_at", "cancelled_at")(value, {})
        return {**shown, "status": status, f"{status}_at": value.get("cancelled_at", value["created_at"])}

    return act


def _reopened(value: Value, _params: Params) -> Value:
    counts = {**value["request_counts"], "completed": 0, "failed": 0}
    return {**_without(*_STAMPS[1:])(value, {}), "status": "in_progress", "request_counts": counts}


def _counts(**fields: Any) -> Callable[[Value, Params], Value]:
    return lambda value, _: {**value, "request_counts": {**value.get("request_counts", {}), **fields}}


def _all_completed(value: Value, _params: Params) -> Value:
    total = value["request_counts"]["total"]
    return {**value, "request_counts": {"total": total, "completed": total, "failed": 0}}


def _failed_whole(value: Value, params: Params) -> Value:
    error = {"code": params["code"], "message": params["message"]}
    return {**value, "status": "failed", "errors": {"object": "list", "data": [error]}}


def _of_another(value: Value, _params: Params) -> Value:
    return {**value, "id": str(uuid.uuid4()), "output_file_id": str(uuid.uuid4())}


def _dates_as_text(value: Value, _params: Params) -> Value:
    return {
        name: datetime.fromtimestamp(item, UTC).isoformat() if name.endswith("_at") else item
        for name, item in value.items()
    }


def _more_fields(value: Value, _params: Params) -> Value:
    odd: Value = {"usage": [1, {"x": None}], "ü": "\u2028", "status_details": {"status": "x"}, "model": 7}
    return {**odd, **value, "metadata": {**value.get("metadata", {}), "other": "\x1b[2J"}}


def _nulls(value: Value, _params: Params) -> Value:
    return {name: item if name in ("id", "status", "object") else None for name, item in value.items()}


OBJECTS: Mapping[str, FaultKind] = {
    "status-unknown": _object("the status is a word that nobody knows", _set("status"), value="scheduling"),
    "status-capitals": _object("the status is in capitals", _upper),
    "status-missing": _object("the batch has no status", _without("status")),
    "status-progress": _object("the status is the word of another server", _with(status="PROGRESS")),
    "stuck-validating": _stuck("validating"),
    "stuck-in-progress": _stuck("in_progress", "in_progress_at"),
    "stuck-finalizing": _stuck("finalizing", "finalizing_at"),
    "stuck-cancelling": _stuck("cancelling", "cancelling_at"),
    "says-reopened": _object("a batch that was done says that it goes on, with no request done", _reopened),
    "says-expired": _object("the batch says `expired`", _ended("expired")),
    "says-completed": _object("the batch says `completed` whatever it does", _with(status="completed")),
    "says-failed": _object(
        "the batch says that it failed as a whole, with errors",
        _failed_whole,
        code="token_limit_exceeded",
        message="Enqueued token limit reached",
    ),
    "counts-lie": _object("the counts say that every request succeeded", _all_completed),
    "counts-null": _object("the counts are null", _counts(total=None, completed=None, failed=None)),
    "counts-negative": _object("the counts are negative", _counts(completed=-3, failed=-1)),
    "counts-huge": _object("the counts are beyond all measure", _counts(completed=10**18, failed=10**18)),
    "counts-backwards": _object("the counts fall back to nothing", _counts(completed=0, failed=0)),
    "counts-missing": _object("there are no counts", _without("request_counts")),
    "output-id-null": _object("output_file_id is null", _with(output_file_id=None)),
    "output-id-odd": _object("output_file_id is no id", _set("output_file_id"), value={}),
    "output-id-elsewhere": _object(
        "output_file_id is a path", _with(output_file_id="../../../../etc/passwd")
    ),
    "error-id-null": _object("error_file_id is null", _with(error_file_id=None)),
    "error-id-odd": _object("error_file_id is no id", _set("error_file_id"), value=""),
    "id-odd": _object("the object's id is no id", _set("id"), CREATE, value={}),
    "id-missing": _object("the object has no id", _without("id"), CREATE),
    "object-of-another": _object("the reply is about another batch", _of_another),
    "object-is-list": _object("the reply is a list", lambda value, _: [value]),
    "metadata-dropped": _object("metadata does not come back", _without("metadata")),
    "times-as-text": _object("times are dates in words", _dates_as_text),
    "more-fields": _object("there are fields that nobody knows", _more_fields),
    "fields-null": _object("every field but id and status is null", _nulls),
}


def _listing(summary: str, act: Callable[[Value, Params], Any], ignores: tuple[str, ...] = ()) -> FaultKind:
    return FaultKind(point=Point.LISTING, summary=summary, route=BATCHES, act=act, ignores=ignores)


def _same_page(value: Value, _params: Params) -> Value:
    return {**value, "has_more": True}


def _empty_with_more(_value: Value, _params: Params) -> Value:
    return {"object": "list", "data": [], "has_more": True}


def _nothing(_value: Value, _params: Params) -> Value:
    return {"object": "list", "data": [], "has_more": False}


def _odd_entries(value: Value, _params: Params) -> Value:
    odd: list[object] = [None, 7, "x", [], {"id": None}, {"id": {}}]
    return {**value, "data": [*odd, *value["data"]]}


def _repeated(value: Value, _params: Params) -> Value:
    return {**value, "data": [*value["data"], *value["data"]]}


def _each_without_metadata(value: Value, _params: Params) -> Value:
    return {**value, "data": [_without("metadata")(entry, {}) for entry in value["data"]]}


def _not_a_list(value: Value, _params: Params) -> Value:
    return {**value, "data": {str(number): entry for number, entry in enumerate(value["data"])}}


LISTINGS: Mapping[str, FaultKind] = {
    "cursor-stands-still": _listing(
        "every page is the first, and there is always more", _same_page, ("after",)
    ),
    "pages-empty": _listing("empty pages that promise more", _empty_with_more),
    "list-empty": _listing("the listing shows nothing", _nothing),
    "list-odd-entries": _listing("entries that are no objects or have no id", _odd_entries),
    "list-repeats": _listing("entries come twice", _repeated),
    "list-backwards": _listing(
        "the oldest comes first", lambda value, _: {**value, "data": value["data"][::-1]}
    ),
    "list-no-has-more": _listing(
        "nothing says whether there is more", lambda value, _: _without("has_more")(value, {})
    ),
    "list-no-metadata": _listing("metadata is left out of listings", _each_without_metadata),
    "list-no-list": _listing("`data` is no list", _not_a_list),
}
KINDS: Mapping[str, FaultKind] = {**OBJECTS, **LISTINGS}
