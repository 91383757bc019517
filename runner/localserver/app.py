"""The ASGI application: routes, the front door around them, the executor beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from runner.localserver import refusals, routes_batches, routes_files, routes_inference, routes_local
from runner.localserver.executor import Executor
from runner.localserver.fault_gate import FaultGate
from runner.localserver.front_door import KeyGate, LogGate
from runner.localserver.http_log import HttpLog
from runner.localserver.refusals import Refusal
from runner.localserver.replies import Drop
from runner.localserver.settings import ServerSettings
from runner.localserver.site import open_site
from runner.localserver.upstream import parsed_upstream

Handler = Callable[[Request], Any]

_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/files", routes_files.upload),
    ("GET", "/v1/files", routes_files.list_files),
    ("GET", "/v1/files/{id}", routes_files.retrieve_file),
    ("DELETE", "/v1/files/{id}", routes_files.remove_file),
    ("GET", "/v1/files/{id}/content", routes_files.file_content),
    ("GET", "/v1/files/{id}/cost-estimate", routes_files.cost_estimate),
    ("POST", "/v1/batches", routes_batches.create_batch),
    ("GET", "/v1/batches", routes_batches.list_batches),
    ("GET", "/v1/batches/{id}", routes_batches.retrieve_batch),
    ("DELETE", "/v1/batches/{id}", routes_batches.remove_batch),
    ("POST", "/v1/batches/{id}/cancel", routes_batches.cancel),
    ("POST", "/v1/batches/{id}/retry", routes_batches.retry),
    ("POST", "/v1/batches/{id}/retry-requests", routes_batches.retry_requests),
    ("GET", "/v1/batches/{id}/results", routes_batches.results),
    ("GET", "/v1/batches/{id}/analytics", routes_batches.analytics),
    ("GET", "/v1/models", routes_inference.list_models),
    ("POST", "/v1/chat/completions", routes_inference.infer),
    ("POST", "/v1/completions", routes_inference.infer),
    ("POST", "/v1/embeddings", routes_inference.infer),
    ("POST", "/v1/responses", routes_inference.infer),
    ("POST", "/v1/messages", routes_inference.infer),
    ("GET", "/healthz", routes_local.healthz),
    ("GET", "/witness", routes_local.witness),
    ("GET", "/faults", routes_local.list_faults),
    ("POST", "/faults", routes_local.arm_fault),
    ("DELETE", "/faults", routes_local.disarm_faults),
)


def _routes() -> list[Route]:
    """One Route per path, so that a known path with a wrong method is a 405."""
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in _ROUTES:
        by_path.setdefault(path, {})[method] = handler
    return [Route(path, _Methods(handlers)) for path, handlers in by_path.items()]


class _Methods:
    """Dispatches one path by method. Plain ASGI, so that the route accepts every method."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        routes = {method: Route("/", handler, methods=[method]) for method, handler in handlers.items()}
        self._apps = {method: route.app for method, route in routes.items()}
        self._allow = ", ".join(sorted(handlers))

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI."""
        app = self._apps.get(scope["method"])
        if app is None:
            app = Response(status_code=405, headers={"Allow": self._allow})
        await app(scope, receive, send)


async def _refused(_request: Request, error: Exception) -> Response:
    if isinstance(error, Refusal):
        return error.response()
    raise error


async def _broken(_request: Request, _error: Exception) -> Response:
    return refusals.text(500, "Internal server error").response()


async def _unknown_path(_request: Request, _error: Exception) -> Response:
    return Response(status_code=404)


def _never_drop(_scope: Scope) -> bool:
    return False


def build(state_dir: Path, settings: ServerSettings, *, drop: Drop = _never_drop) -> Starlette:
    """The application over a state folder; its lifespan runs the executor.

    drop    closes the connection of a request without a reply; the real server passes one (see `serve`)
    Errors: FaultError, UpstreamUrlError for wrong settings; OSError, sqlite3.Error for the folder.
    """
    if settings.upstream is not None:
        parsed_upstream(settings.upstream)
    site = open_site(state_dir, settings)
    log = HttpLog(state_dir)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        executor = Executor(site)
        executor.start()
        try:
            yield
        finally:
            executor.stop()
            site.database.close()
            log.close()

    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        Refusal: _refused,
        404: _unknown_path,
        500: _broken,
    }
    app = Starlette(
        routes=_routes(),
        middleware=[
            Middleware(LogGate, log=log),
            Middleware(FaultGate, site=site, drop=drop),
            Middleware(KeyGate, settings=settings),
        ],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.state.site = site
    app.state.drop = drop
    return app
