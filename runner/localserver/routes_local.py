"""Routes of the local server alone, outside /v1 and for this machine only: health, witness, faults.

GET /healthz                                    {"status": "ok"}
GET /witness                                    rows per table
GET /witness?table=create&after=0&limit=1000    rows of upload, create, change, execution or http
GET /faults    the kinds and what is armed;  POST /faults arms one (see `faults`);  DELETE /faults
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from runner.localserver import parameters, refusals
from runner.localserver.faults import KINDS, Fault, FaultError
from runner.localserver.http_log import read_http_log
from runner.localserver.replies import json_body, json_reply
from runner.localserver.site import site_of
from runner.localserver.witness_table import TABLES, witness_counts, witness_page

MAX_PAGE = 10_000


def healthz(_request: Request) -> Response:
    """GET /healthz."""
    return json_reply({"status": "ok"})


def witness(request: Request) -> Response:
    """GET /witness."""
    site = site_of(request)
    table = request.query_params.get("table")
    after = parameters.whole_number(request, "after") or 0
    limit = min(parameters.whole_number(request, "limit") or 1_000, MAX_PAGE)
    if table == "http":
        log = read_http_log(site.state_dir)[after:]
        return json_reply({"table": table, "rows": log[:limit], "has_more": len(log) > limit})
    with site.database.read() as connection:
        if table is None:
            return json_reply(witness_counts(connection))
        if table not in TABLES:
            raise refusals.text(400, f"table must be one of {', '.join((*TABLES, 'http'))}")
        rows = witness_page(connection, table, after, limit + 1)
    return json_reply({"table": table, "rows": rows[:limit], "has_more": len(rows) > limit})


def _shown(fault: Fault) -> dict[str, object]:
    return {name: getattr(fault, name) for name in Fault.__slots__}


def list_faults(request: Request) -> Response:
    """GET /faults."""
    kinds = {
        name: {"point": kind.point.value, "summary": kind.summary, "route": kind.route, "params": kind.params}
        for name, kind in KINDS.items()
    }
    armed = [_shown(fault) for fault in site_of(request).faults.armed()]
    return json_reply({"kinds": kinds, "armed": armed})


async def arm_fault(request: Request) -> Response:
    """POST /faults -> 201."""
    value = await json_body(request)
    try:
        fault = await run_in_threadpool(site_of(request).faults.arm, value)
    except FaultError as error:
        raise refusals.text(400, str(error)) from error
    return json_reply(_shown(fault), 201)


def disarm_faults(request: Request) -> Response:
    """DELETE /faults -> 204."""
    site_of(request).faults.disarm()
    return Response(status_code=204)
