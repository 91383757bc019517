"""The server inside another program: a thread that announces itself and stops when told to."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path

from runner.localserver.serve import StopHandle, serve
from runner.localserver.settings import ServerSettings
from tests.localserver_process import WAIT_S, eventually


def test_serve_announces_its_url_and_stops_by_its_handle(tmp_path: Path) -> None:
    urls: list[str] = []
    stop = StopHandle()
    thread = threading.Thread(
        target=serve, args=(ServerSettings(), tmp_path, "127.0.0.1", 0, urls.append), kwargs={"stop": stop}
    )
    thread.start()
    try:
        base_url = eventually(lambda: urls[0] if urls else None, what="the announcement")
        with urllib.request.urlopen(base_url.replace("/v1", "/healthz"), timeout=WAIT_S) as reply:
            assert reply.read() == b'{"status":"ok"}'
    finally:
        stop.stop()
        thread.join(WAIT_S)
    assert not thread.is_alive()
