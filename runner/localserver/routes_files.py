"""`/v1/files`: upload, list, retrieve, delete, content, cost estimate.

Handlers are stateless; a reply of 2xx goes out only after the effect is committed and synced.
"""

from __future__ import annotations

import os
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from runner.localserver import content, parameters, refusals
from runner.localserver.batch_object import OWNER_FIELDS, BatchView
from runner.localserver.batches_table import batch_by_seq
from runner.localserver.database import COMPLETED, FAILED, Connection, now_us
from runner.localserver.files_table import (
    FileQuery,
    FileRow,
    delete_file,
    find_file,
    insert_file,
    insert_lines,
    models_of_file,
    page_of_files,
)
from runner.localserver.replies import json_reply, list_object
from runner.localserver.requests_table import ResultQuery
from runner.localserver.settings import WINDOWS_S, ModelSettings
from runner.localserver.site import Site, as_of_us, owner_of, site_of
from runner.localserver.uploads import Upload, receive
from runner.localserver.witness_table import saw_change, saw_upload

NDJSON = "application/x-ndjson"
DEFAULT_EXPIRY_S = 30 * 86_400


async def upload(request: Request) -> Response:
    """POST /v1/files -> 201."""
    site = site_of(request)
    file_id = str(uuid.uuid4())
    path = site.input_path(file_id)
    length = request.headers.get("content-length", "0")
    try:
        received = await receive(
            request.stream(),
            request.headers.get("content-type", ""),
            int(length) if length.isdigit() else 0,
            path,
            site.settings,
        )
    except ClientDisconnect:
        return Response(status_code=400)
    filename = received.filename if received.filename is not None else f"upload-{uuid.uuid4()}"
    file = await run_in_threadpool(_keep, site, owner_of(request), file_id, filename, received)
    request.state.fault_text = f"{filename} {file_id}"
    return json_reply(file_object(file, received.size_bytes, with_owner=False), 201)


def _keep(site: Site, owner: str, file_id: str, filename: str, received: Upload) -> FileRow:
    """Make an upload part of the server: folder entry synced, then one transaction."""
    _sync_folder(site.input_path(file_id).parent)
    at_us = now_us()
    values: dict[str, Any] = {
        "id": file_id,
        "owner": owner,
        "kind": "input",
        "filename": filename,
        "purpose": received.fields.get("purpose"),
        "size_bytes": received.size_bytes,
        "requests": len(received.lines),
        "created_us": at_us,
        "expires_s": at_us // 1_000_000 + _expiry_s(received.fields.get("expires_after[seconds]")),
    }
    with site.database.write() as connection:
        seq = insert_file(connection, values)
        insert_lines(connection, seq, received.lines)
        saw_upload(connection, at_us, {**values, "sha256": received.sha256})
        file = find_file(connection, file_id, at_us)
    if file is None:
        raise refusals.text(500, "Internal server error")
    return file


def _expiry_s(given: str | None) -> int:
    """`expires_after[seconds]`; what is no number is dropped without a word."""
    text = (given or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else DEFAULT_EXPIRY_S


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_object(file: FileRow, size_bytes: int, *, with_owner: bool) -> dict[str, Any]:
    """The JSON object of a file; absent values are left out. `size_bytes` is used for virtual files."""
    value: dict[str, Any] = {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes if file.kind == "input" else size_bytes,
        "created_at": file.created_us // 1_000_000,
        "filename": file.filename,
        "purpose": "batch" if file.kind == "input" else file.purpose,
        "expires_at": file.expires_s,
    }
    if with_owner:
        value |= {**OWNER_FIELDS, "source": "api"}
    return {name: item for name, item in value.items() if item is not None}


def _virtual_bytes(connection: Connection, file: FileRow) -> int:
    """Bytes of a result file so far."""
    if file.kind == "input":
        return file.size_bytes
    row = connection.execute(
        "SELECT coalesce(sum(length(o.line)), 0) FROM request r JOIN outcome o ON o.request = r.seq "
        "WHERE r.batch = ? AND r.state = ?",
        (file.batch, COMPLETED if file.kind == "output" else FAILED),
    ).fetchone()
    return int(row[0])


def list_files(request: Request) -> Response:
    """GET /v1/files."""
    site, params = site_of(request), request.query_params
    limit = parameters.page_limit(request)
    order = params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise refusals.text(400, "Order must be 'asc' or 'desc'")
    query = FileQuery(
        owner=owner_of(request),
        limit=limit,
        after=params.get("after"),
        descending=order == "desc",
        purpose=params.get("purpose"),
        search=params.get("search"),
    )
    with site.database.read() as connection:
        files = page_of_files(connection, query, as_of_us(request))
        shown = [
            file_object(file, _virtual_bytes(connection, file), with_owner=True) for file in files[:limit]
        ]
    return json_reply(list_object(shown, has_more=len(files) > limit))


def _own_file(connection: Connection, request: Request, at_us: int) -> FileRow:
    file_id = parameters.path_id(request, "file")
    file = find_file(connection, file_id, at_us)
    if file is None or file.owner != owner_of(request):
        raise refusals.not_found("File", file_id)
    return file


def retrieve_file(request: Request) -> Response:
    """GET /v1/files/{id}."""
    with site_of(request).database.read() as connection:
        file = _own_file(connection, request, as_of_us(request))
        return json_reply(file_object(file, _virtual_bytes(connection, file), with_owner=True))


def remove_file(request: Request) -> Response:
    """DELETE /v1/files/{id}: soft, with its effects on batches. The lookup sees the replica."""
    site = site_of(request)
    seen_us = as_of_us(request)
    with site.database.write() as connection:
        file = _own_file(connection, request, seen_us)
        at_us = now_us()
        delete_file(connection, file, at_us)
        saw_change(connection, at_us, "delete_file", file.id)
    if file.kind == "input":
        site.input_path(file.id).unlink(missing_ok=True)
    return json_reply({"id": file.id, "object": "file", "deleted": True})


def file_content(request: Request) -> Response:
    """GET /v1/files/{id}/content."""
    site, seen_us = site_of(request), as_of_us(request)
    query = content.ContentQuery(
        skip=parameters.skip(request),
        limit=parameters.content_limit(request),
        search=request.query_params.get("search"),
    )
    with site.database.read() as connection:
        file = _own_file(connection, request, seen_us)
        if file.kind == "input":
            return _input_content(site, connection, file, query)
        batch = batch_by_seq(connection, file.batch or 0, seen_us)
        return _result_content(site, connection, file, batch, query, seen_us)


def _input_content(
    site: Site, connection: Connection, file: FileRow, query: content.ContentQuery
) -> Response:
    path = site.input_path(file.id)
    if query.limit is None:
        stream = content.stream_input(site.database, file.seq, path, query)
        return StreamingResponse(stream, headers={"X-Incomplete": "false"}, media_type=NDJSON)
    lines, has_more = content.input_page(connection, file.seq, path, query, query.limit)
    headers = content.headers_for_page(None, query, len(lines), has_more)
    return Response(b"".join(lines), headers=headers, media_type=NDJSON)


def _result_content(
    site: Site,
    connection: Connection,
    file: FileRow,
    batch: BatchView | None,
    query: content.ContentQuery,
    seen_us: int,
) -> Response:
    is_output = file.kind == "output"
    results = ResultQuery(
        batch=file.batch or 0,
        state=COMPLETED if is_output else FAILED,
        as_of_us=seen_us,
        search=query.search,
    )
    if query.limit is not None:
        lines, has_more = content.result_page(connection, results, query.skip, query.limit)
        headers = content.headers_for_page(batch, query, len(lines), has_more)
        return Response(b"".join(lines), headers=headers, media_type=NDJSON)
    count = 2**62
    if batch is not None:
        count = batch.counts.completed if is_output else batch.counts.failed
    stream = content.stream_results(site.database, results, query.skip, count)
    headers = content.headers_for_stream(batch, query, count)
    return StreamingResponse(stream, headers=headers, media_type=NDJSON)


def cost_estimate(request: Request) -> Response:
    """GET /v1/files/{id}/cost-estimate: input tokens are bytes / 4, output tokens 1.1 times that."""
    site = site_of(request)
    window = request.query_params.get("completion_window", "24h")
    if window not in WINDOWS_S:
        raise refusals.text(
            400, f"Unsupported completion_window. Allowed values: {', '.join(site.settings.windows)}"
        )
    with site.database.read() as connection:
        file = _own_file(connection, request, as_of_us(request))
        models = [_model_estimate(site, *entry) for entry in models_of_file(connection, file.seq)]
    total = sum((Decimal(model["estimated_cost"]) for model in models), Decimal(0))
    return json_reply(
        {
            "file_id": file.id,
            "total_requests": sum(model["request_count"] for model in models),
            "total_estimated_input_tokens": sum(model["estimated_input_tokens"] for model in models),
            "total_estimated_output_tokens": sum(model["estimated_output_tokens"] for model in models),
            "total_estimated_cost": f"{total:f}",
            "models": models,
        }
    )


def _model_estimate(site: Site, model: str, requests: int, body_bytes: int) -> dict[str, Any]:
    known = (site.settings.models or {}).get(model, ModelSettings())
    tokens_in = body_bytes // 4
    tokens_out = requests if known.kind == "EMBEDDINGS" else tokens_in * 11 // 10
    cost = (Decimal(known.input_price) * tokens_in + Decimal(known.output_price) * tokens_out) / 1_000_000
    return {
        "model": model,
        "request_count": requests,
        "estimated_input_tokens": tokens_in,
        "estimated_output_tokens": tokens_out,
        "estimated_cost": f"{cost:f}",
    }
