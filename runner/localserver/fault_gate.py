"""Acts on the faults of HTTP requests, from their arrival to the start of the reply. Plain ASGI.

The outline, once through::

    deed     somebody else acts first, by calls of their own through the same application
    late     the body is taken, the client is left alone; the application sees the request seconds later
    before   a refusal in the application's place, or a wait
    arrive   the body stops in the middle
    then the application, with a `FaultySend` that acts on the reply (see `fault_sending`)

A request that no armed fault fits goes straight through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.core.wire import JsonError, decode_json
from runner.localserver.fault_sending import FaultySend, Rewriting
from runner.localserver.faults import KINDS, Fault, Point
from runner.localserver.faults.contents import Reading
from runner.localserver.faults.refusing import error
from runner.localserver.replies import Drop
from runner.localserver.requests_table import lines_elsewhere
from runner.localserver.site import Site


class FaultGate:
    """Middleware: one `_Passage` for each request that a fault may concern."""

    def __init__(self, app: ASGIApp, site: Site, drop: Drop) -> None:
        self.app = app
        self.site = site
        self.drop = drop
        self.later: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        route = f"{scope['method']} {scope['path']}"
        if await asyncio.to_thread(self.site.faults.has_any_for, route):
            await _Passage(self, scope, receive, send).go()
        else:
            await self.app(scope, receive, send)


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, gate: FaultGate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate
        self._scope = scope
        self._receive = receive
        self._send = send

    async def go(self) -> None:
        deed = await self._take(Point.DEED)
        if deed is not None:
            await self._do(deed)
        late = await self._take(Point.LATE)
        if late is not None:
            await self._put_off(late)
            return
        if await self._is_refused():
            return
        await self._let_through()

    async def _take(self, point: Point) -> Fault | None:
        """The fault that fires at this point. What an effect was about is in the state's `fault_text`."""
        scope = self._scope
        route = f"{scope['method']} {scope['path']}"
        query, effect = scope["query_string"].decode("latin-1"), scope["state"].get("fault_text", "")
        text = f"{scope['path']}?{query} {effect}"
        return await asyncio.to_thread(self._gate.site.faults.take, point, route, text)

    # ------------------------------------------------------------ deed

    async def _do(self, fault: Fault) -> None:
        """Somebody else's calls, with the same key: `METHOD path`, or `ARM kind` for what is told after."""
        act = KINDS[fault.kind].act
        calls: Sequence[str] = act() if act is not None else ()
        thing_id = self._scope["path"].split("/")[3]
        fields = {"id": thing_id}
        if any("{input_file_id}" in call for call in calls):
            batch = await self._ask("GET", f"/v1/batches/{thing_id}")
            fields["input_file_id"] = str(batch.get("input_file_id"))
        for call in calls:
            method, target = call.format(**fields).split(" ", 1)
            if method == "ARM":
                told = {"kind": target, "token": thing_id, "times": 0}
                await asyncio.to_thread(self._gate.site.faults.arm, told)
            else:
                await self._ask(method, target)

    async def _ask(self, method: str, path: str) -> dict[str, object]:
        """A request of our own through the same application; the object it brings, empty where none."""
        body = b""

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def collected(message: Message) -> None:
            nonlocal body
            body += message.get("body", b"")

        own = {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "state": {}}
        await self._gate.app({**self._scope, **own}, nothing, collected)
        try:
            value = decode_json(body)
        except JsonError:
            return {}
        return value if isinstance(value, dict) else {}

    # ------------------------------------------------------------ late

    async def _put_off(self, fault: Fault) -> None:
        """Take the whole request, tell the client nothing (or an error), and let it take effect later."""
        body = b""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        scope = {**self._scope, "state": {}}
        task = asyncio.create_task(self._later(scope, body, float(fault.params["seconds"])))
        self._gate.later.add(task)
        task.add_done_callback(self._gate.later.discard)
        status = int(fault.params["status"])
        if status:
            await error(status).response()(self._scope, self._receive, self._send)
        else:
            self._gate.drop(self._scope)

    async def _later(self, scope: Scope, body: bytes, seconds: float) -> None:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def unheard(_message: Message) -> None:
            pass

        await asyncio.sleep(seconds)
        await self._gate.app(scope, replayed, unheard)

    # ------------------------------------------------------------ before, arrive

    async def _is_refused(self) -> bool:
        fault = await self._take(Point.BEFORE)
        if fault is None:
            return False
        if fault.kind == "slow-request":
            await asyncio.sleep(float(fault.params["seconds"]))
            return False
        act = KINDS[fault.kind].act
        if act is None:
            self._gate.drop(self._scope)
        else:
            await act(fault.params).response()(self._scope, self._receive, self._send)
        return True

    async def _let_through(self) -> None:
        arrive = await self._take(Point.ARRIVE)
        receive = self._receive if arrive is None else self._stopping_at(arrive)
        rewriting = await self._rewriting()
        scope = {**self._scope}
        if rewriting is not None:
            scope["query_string"] = _without(scope["query_string"], rewriting.ignores)
        send = FaultySend(self._take, self._gate.drop, self._scope, self._receive, self._send, rewriting)
        try:
            await self._gate.app(scope, receive, send)
        except ClientDisconnect:
            if arrive is None:
                raise

    def _stopping_at(self, fault: Fault) -> Receive:
        """The body up to some byte; then the connection is closed, or nothing is read for a while."""
        left = int(fault.params["after_bytes"])

        async def receive() -> Message:
            nonlocal left
            message = await self._receive()
            was_before, left = left > 0, left - len(message.get("body", b""))
            if was_before and left <= 0:
                if "seconds" in fault.params:
                    await asyncio.sleep(float(fault.params["seconds"]))
                else:
                    self._gate.drop(self._scope)
                    return {"type": "http.disconnect"}
            return message

        return receive

    async def _rewriting(self) -> Rewriting | None:
        """Listings and result files are rewritten from their whole, so that is asked of the application."""
        fault = await self._take(Point.LISTING)
        reading = None
        if fault is None:
            fault = await self._take(Point.CONTENT)
            if fault is None:
                return None
            kind, elsewhere = await asyncio.to_thread(self._elsewhere)
            reading = Reading(kind=kind, params=fault.params, elsewhere=elsewhere)
        asked = dict(parse_qsl(self._scope["query_string"].decode("latin-1")))
        return Rewriting(fault=fault, ignores=KINDS[fault.kind].ignores, asked=asked, reading=reading)

    def _elsewhere(self) -> tuple[str, Sequence[tuple[str, str]]]:
        with self._gate.site.database.read() as connection:
            return lines_elsewhere(connection, self._scope["path"].split("/")[3])


def _without(query: bytes, names: Sequence[str]) -> bytes:
    kept = [(name, text) for name, text in parse_qsl(query.decode("latin-1")) if name not in names]
    return urlencode(kept).encode()
