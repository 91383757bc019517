"""`/v1/batches`: create, list, retrieve, cancel, retry, delete, results, analytics.

Handlers are stateless. Creating twice makes two batches: there is no idempotency, as on the hosted service.
What cancel and retry return comes from the (perhaps lagging) replica, as there.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from runner.core.wire import decode_json, encode_json
from runner.localserver import content, parameters, refusals
from runner.localserver.batch_object import BatchView, batch_object, kept_metadata, needs_stamp, status_of
from runner.localserver.batches_table import (
    batches_newest_first,
    cancel_batch,
    delete_batch,
    find_batch,
    insert_batch,
    reopen_batch,
    repend_requests,
    set_result_files,
    stamp_if_finished,
)
from runner.localserver.database import Connection, now_us
from runner.localserver.files_table import FileRow, file_by_seq, find_file, insert_file, models_of_file
from runner.localserver.replies import AbortedReply, json_body, json_reply, list_object, unfit
from runner.localserver.routes_files import NDJSON
from runner.localserver.settings import WINDOWS_S
from runner.localserver.site import Site, as_of_us, owner_of, site_of
from runner.localserver.witness_table import saw_change, saw_create

_LIST_STATUSES: Mapping[str, frozenset[str]] = {
    "in_progress": frozenset({"validating", "in_progress", "finalizing"}),
    "completed": frozenset({"completed"}),
    "failed": frozenset({"failed"}),
    "cancelled": frozenset({"cancelling", "cancelled"}),
    "expired": frozenset(),
}


async def create_batch(request: Request) -> Response:
    """POST /v1/batches -> 201."""
    site = site_of(request)
    value = await json_body(request)
    metadata = _check_shape(value)
    file_id = _check_words(site, value)
    batch = await run_in_threadpool(_create, site, owner_of(request), file_id, value, metadata)
    request.state.fault_text = f"{batch.id} {file_id} {batch.metadata}"
    site.bell.set()
    return json_reply(batch_object(batch, now_us(), with_owner=False), 201)


def _check_shape(value: Mapping[str, Any]) -> dict[str, str]:
    for name in ("input_file_id", "endpoint", "completion_window"):
        if name not in value:
            raise unfit(f"missing field `{name}`")
        if not isinstance(value[name], str):
            raise unfit(f"{name}: invalid type, expected a string")
    metadata = value.get("metadata")
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(item, str) for item in metadata.values()):
        raise unfit("metadata: invalid type, expected a string")
    return metadata


def _check_words(site: Site, value: Mapping[str, Any]) -> str:
    settings = site.settings
    if value["completion_window"] not in settings.windows:
        allowed = ", ".join(settings.windows)
        raise refusals.text(400, f"Unsupported completion_window. Allowed values: {allowed}")
    if value["endpoint"] not in settings.urls:
        supported = ", ".join(settings.urls)
        raise refusals.text(400, f"Unsupported endpoint '{value['endpoint']}'. Supported: {supported}")
    file_id = parameters.canonical_uuid(value["input_file_id"])
    if file_id is None:
        raise refusals.text(400, "Invalid input_file_id format")
    return file_id


def _create(
    site: Site, owner: str, file_id: str, value: Mapping[str, Any], metadata: Mapping[str, str]
) -> BatchView:
    with site.database.write() as connection:
        at_us = now_us()
        file = find_file(connection, file_id, at_us)
        if file is None:
            raise refusals.not_found("File", file_id)
        if file.owner != owner:
            raise refusals.text(403, "You do not have permission to create a batch from this file")
        _check_models(site, connection, file, value["completion_window"])
        batch_id = str(uuid.uuid4())
        stored = encode_json(kept_metadata(metadata)).decode()
        total = file.requests if file.kind == "input" else 0
        seq = insert_batch(
            connection,
            {
                "id": batch_id,
                "owner": owner,
                "input": file.seq,
                "endpoint": value["endpoint"],
                "completion_window": value["completion_window"],
                "metadata": stored,
                "total": total,
                "created_us": at_us,
                "expires_us": at_us + WINDOWS_S[value["completion_window"]] * 1_000_000,
            },
        )
        output, error = (
            insert_file(connection, _virtual_file(kind, batch_id, seq, owner, at_us))
            for kind in ("output", "error")
        )
        set_result_files(connection, seq, output, error)
        saw_create(
            connection,
            at_us,
            {"id": batch_id, "input_file_id": file_id, "owner": owner, "total": total, "metadata": stored},
        )
        batch = find_batch(connection, batch_id, owner, at_us)
    if batch is None:
        raise refusals.text(500, "Internal server error")
    return batch


def _check_models(site: Site, connection: Connection, file: FileRow, window: str) -> None:
    """Windows of each model, and whether the models are still there."""
    known = site.settings.models
    if known is None or file.kind != "input":
        return
    models = [model for model, _, _ in models_of_file(connection, file.seq)]
    for model in models:
        if model in known and not known[model].windows:
            raise refusals.text(400, f"Model '{model}' does not support batch processing.")
        if model in known and window not in known[model].windows:
            allowed = ", ".join(known[model].windows)
            raise refusals.text(
                400, f"Model '{model}' does not support completion window '{window}'. Allowed: {allowed}"
            )
    missing = [model for model in models if model not in known]
    if missing:
        raise refusals.text(
            400,
            f"The following model(s) are no longer available: {', '.join(missing)}. "
            "The batch file references models that have been removed.",
        )


def _virtual_file(kind: str, batch_id: str, batch: int, owner: str, at_us: int) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "owner": owner,
        "kind": kind,
        "filename": f"batch-{batch_id}-{kind}.jsonl",
        "purpose": f"batch_{kind}",
        "size_bytes": 0,
        "requests": 0,
        "created_us": at_us,
        "batch": batch,
    }


def _own_batch(connection: Connection, request: Request, at_us: int) -> BatchView:
    batch_id = parameters.path_id(request, "batch")
    batch = find_batch(connection, batch_id, owner_of(request), at_us)
    if batch is None:
        raise refusals.not_found("Batch", batch_id)
    return batch


def _shown(site: Site, request: Request, seen_us: int) -> dict[str, Any]:
    """The batch as GET tells it; the first reader of a finished batch writes the stamp."""
    with site.database.read() as connection:
        batch = _own_batch(connection, request, seen_us)
    if batch.retried_us is not None and batch.retried_us > seen_us and batch.before_retry is not None:
        before: dict[str, Any] = decode_json(batch.before_retry)
        return before
    if needs_stamp(batch):
        with site.database.write() as connection:
            batch = stamp_if_finished(connection, _own_batch(connection, request, seen_us), now_us())
    return batch_object(batch, now_us(), with_owner=True)


def retrieve_batch(request: Request) -> Response:
    """GET /v1/batches/{id}."""
    return json_reply(_shown(site_of(request), request, as_of_us(request)))


def cancel(request: Request) -> Response:
    """POST /v1/batches/{id}/cancel -> 200, idempotent, no terminal guard."""
    site, seen_us = site_of(request), as_of_us(request)
    with site.database.write() as connection:
        batch = _own_batch(connection, request, seen_us)
        at_us = now_us()
        cancel_batch(connection, batch.seq, at_us)
        saw_change(connection, at_us, "cancel", batch.id)
    return json_reply(_shown(site, request, as_of_us(request)))


def retry(request: Request) -> Response:
    """POST /v1/batches/{id}/retry -> 200: failed and canceled requests run again in the same batch."""
    site, seen_us = site_of(request), as_of_us(request)
    with site.database.write() as connection:
        batch = _own_batch(connection, request, seen_us)
        at_us = now_us()
        if batch.counts.failed == 0 and batch.cancelling_us is None:
            message = "Nothing to retry: no failed or canceled requests, and the batch is not cancelled"
            raise refusals.text(400, message)
        reopen_batch(connection, batch, at_us)
        repend_requests(connection, batch.seq, None)
        saw_change(connection, at_us, "retry", batch.id)
    site.bell.set()
    return json_reply(_shown(site, request, as_of_us(request)))


async def retry_requests(request: Request) -> Response:
    """POST /v1/batches/{id}/retry-requests -> 200: chosen failed requests run again."""
    value = await json_body(request)
    given = value.get("request_ids")
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise unfit("missing field `request_ids`" if given is None else "request_ids: invalid type")
    ids = [found for item in given if (found := parameters.canonical_uuid(item)) is not None]
    if not ids:
        raise refusals.text(400, "No valid request IDs provided")
    return await run_in_threadpool(_retry_chosen, request, ids)


def _retry_chosen(request: Request, ids: list[str]) -> Response:
    site, seen_us = site_of(request), as_of_us(request)
    with site.database.write() as connection:
        batch = _own_batch(connection, request, seen_us)
        at_us = now_us()
        reopen_batch(connection, batch, at_us)
        repend_requests(connection, batch.seq, ids)
        saw_change(connection, at_us, "retry_requests", batch.id)
    site.bell.set()
    return json_reply(_shown(site, request, as_of_us(request)))


def remove_batch(request: Request) -> Response:
    """DELETE /v1/batches/{id} -> 204, empty."""
    site, seen_us = site_of(request), as_of_us(request)
    with site.database.write() as connection:
        batch = _own_batch(connection, request, seen_us)
        at_us = now_us()
        delete_batch(connection, batch, at_us)
        saw_change(connection, at_us, "delete_batch", batch.id)
    return Response(status_code=204)


def list_batches(request: Request) -> Response:
    """GET /v1/batches: newest first, filtered; counts and words of a list may lag behind GET."""
    site, params = site_of(request), request.query_params
    limit, seen_us = parameters.page_limit(request), as_of_us(request)
    status = params.get("status")
    if status is not None and status not in _LIST_STATUSES:
        raise refusals.text(400, f"Invalid status '{status}'. Must be one of: {', '.join(_LIST_STATUSES)}")
    with_analytics = "analytics" in params.get("include", "").split(",")
    found: list[BatchView] = []
    with site.database.read() as connection:
        wanted = _filter(request, connection, seen_us)
        for batch in batches_newest_first(connection, owner_of(request), params.get("after"), seen_us):
            if wanted(batch):
                found.append(batch)
            if len(found) > limit and params.get("active_first") != "true":
                break
        if params.get("active_first") == "true":
            found.sort(key=lambda batch: status_of(batch) in ("completed", "failed", "cancelled"))
        shown = [
            batch_object(
                batch,
                now_us(),
                with_owner=True,
                analytics=_analytics(connection, batch.seq) if with_analytics else None,
            )
            for batch in found[:limit]
        ]
    return json_reply(list_object(shown, has_more=len(found) > limit))


def _filter(request: Request, connection: Connection, seen_us: int) -> Any:
    params = request.query_params
    status, windows = params.get("status"), params.get("completion_window")
    search = (params.get("search") or "").lower()
    after_us, before_us = _moment(request, "created_after"), _moment(request, "created_before")

    def wanted(batch: BatchView) -> bool:
        if status == "expired":
            if now_us() <= batch.expires_us:
                return False
        elif status is not None and status_of(batch) not in _LIST_STATUSES[status]:
            return False
        if windows is not None and batch.completion_window not in windows.split(","):
            return False
        if after_us is not None and batch.created_us <= after_us:
            return False
        if before_us is not None and batch.created_us >= before_us:
            return False
        return not search or _is_like(connection, batch, search)

    return wanted


def _is_like(connection: Connection, batch: BatchView, search: str) -> bool:
    """The server's search: metadata text, input filename or id, LIKE with `%` and `_` as wildcards."""
    file = file_by_seq(connection, batch.input)
    texts = (batch.metadata, file.filename if file else "", batch.id)
    row = connection.execute(
        "SELECT lower(?1) LIKE ?4 OR lower(?2) LIKE ?4 OR lower(?3) LIKE ?4",
        (*texts, f"%{search}%"),
    ).fetchone()
    return bool(row[0])


def _moment(request: Request, name: str) -> int | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(given.replace(" ", "+"))
    except ValueError as error:
        message = f"Failed to deserialize query string: {name}: premature end of input"
        raise refusals.text(400, message) from error
    if moment.tzinfo is None:
        raise refusals.text(400, f"Failed to deserialize query string: {name}: premature end of input")
    return round(moment.timestamp() * 1_000_000)


def results(request: Request) -> Response:
    """GET /v1/batches/{id}/results: every request in input order with its result so far."""
    site, seen_us = site_of(request), as_of_us(request)
    query = content.ContentQuery(
        skip=parameters.skip(request),
        limit=parameters.content_limit(request),
        search=request.query_params.get("search"),
        status=request.query_params.get("status"),
    )
    with site.database.read() as connection:
        batch = _own_batch(connection, request, seen_us)
        file = file_by_seq(connection, batch.input)
        if query.limit is not None:
            if file is None:
                raise refusals.text(500, "Internal server error")
            path = site.input_path(file.id)
            lines, has_more = content.joined_page(connection, batch, path, query, query.limit, seen_us)
            headers = content.headers_for_page(batch, query, len(lines), has_more)
            return Response(b"".join(lines), headers=headers, media_type=NDJSON)
    headers = content.headers_for_stream(batch, query, batch.total)
    headers["X-Incomplete"] = "true" if batch.counts.open and batch.cancelling_us is None else "false"
    if file is None:
        return AbortedReply(request, headers, NDJSON)
    stream = content.stream_joined(site.database, batch, site.input_path(file.id), query, seen_us)
    return StreamingResponse(stream, headers=headers, media_type=NDJSON)


def analytics(request: Request) -> Response:
    """GET /v1/batches/{id}/analytics."""
    with site_of(request).database.read() as connection:
        batch = _own_batch(connection, request, as_of_us(request))
        return json_reply(_analytics(connection, batch.seq))


def _analytics(connection: Connection, batch: int) -> dict[str, Any]:
    row = connection.execute(
        "SELECT count(*) AS requests, coalesce(sum(o.prompt_tokens), 0) AS prompt, "
        "coalesce(sum(o.completion_tokens), 0) AS completion, avg(o.duration_us) AS duration_us "
        "FROM request r JOIN outcome o ON o.request = r.seq WHERE r.batch = ?",
        (batch,),
    ).fetchone()
    value = {
        "total_requests": row["requests"],
        "total_prompt_tokens": row["prompt"],
        "total_completion_tokens": row["completion"],
        "total_tokens": row["prompt"] + row["completion"],
    }
    if row["duration_us"] is not None:
        value["avg_duration_ms"] = round(row["duration_us"] / 1_000, 3)
    return value
