"""`run schedule serve` as a process: it keeps the time, tells its state, hears webhooks, stops when asked."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fault.provider_factories import ScriptedServer, SeenRequest, json_reply
from tests.localserver_process import eventually, running_server
from tests.project_factory import ROWS, Project, make_project
from tests.warm_program import WarmPopen
from tests.webhook_factories import SECRET, make_body, make_headers

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "held back"}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def just_now() -> dict[str, str]:
    """A schedule that came due two minutes ago, and next tomorrow."""
    then = datetime.now(UTC) - timedelta(minutes=2)
    return {"cron": f"{then.minute} {then.hour} * * *"}


class Serving:
    """The program, and the lines it logged so far."""

    def __init__(self, project: Project, *options: str) -> None:
        self.process: subprocess.Popen[str] = WarmPopen(
            project.command("schedule", "serve", *options),
            cwd=project.folder,
            env=project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(
                json.loads(line)
            )  # every line is JSON, or this thread dies and the test with it

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def until(self, event: str, wanted: Callable[[dict[str, Any]], Any] = bool) -> dict[str, Any]:
        return eventually(lambda: next(filter(wanted, self.named(event)), None), what=event)

    def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        parts = urlsplit(self.until("serving")["address"])
        with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)) as connection:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, reply.read()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(10)
        return code


@contextmanager
def serving(project: Project, *options: str) -> Iterator[Serving]:
    served = Serving(project, *options)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.process.kill()
        served.process.wait(30)
        served._reader.join(10)
        for stream in (served.process.stdout, served.process.stderr):
            assert stream is not None
            stream.close()


def test_it_starts_what_is_due_tells_its_state_and_stops_when_asked(tmp_path: Path) -> None:
    project = make_project(tmp_path, schedule=just_now())
    with serving(project, "manifest.yaml", "--port", "0") as served:
        assert urlsplit(served.until("serving")["address"]).hostname == "127.0.0.1"
        started = served.until("due_started")
        served.until("tick")
        status, body = served.call("GET", "/healthz")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        status, page = served.call("GET", "/metrics")
        assert b'runner_rows_total{manifest="test",status="succeeded"} 5.0\n' in page
        assert served.call("POST", "/webhook")[0] == 404
        assert served.end(signal.SIGTERM) == 0
        assert [served.lines[0]["event"], served.lines[-1]["event"]] == ["serving", "stopped"]
    assert started["finished"]["succeeded"] == len(ROWS)
    assert len(project.results()) == len(ROWS)
    assert all(datetime.fromisoformat(line["at"]).tzinfo is not None for line in served.lines)
    assert served.named("tick")[0]["started"] == 1


def test_a_webhook_has_its_batch_collected_at_once(tmp_path: Path) -> None:
    """The loop would look again in an hour; the answers are held back until the first look is over."""
    release = threading.Event()

    def answer(_request: SeenRequest, connection: socket.socket) -> None:
        release.wait(60)
        connection.sendall(json_reply(200, json.dumps(ANSWER).encode()))

    with (
        ScriptedServer(answer) as upstream,
        running_server(tmp_path / "server", upstream=upstream.base_url, finaliser_interval_s=0.1) as server,
    ):
        provider = {"base_url": server.base_url, "api_key_env": "SERVER_API_KEY"}
        project = make_project(tmp_path / "p", schedule=just_now(), model={"provider": provider, "name": "m"})
        project.environ |= {"SERVER_API_KEY": "test-key", "RUNNER_WEBHOOK_SECRET": SECRET}
        with serving(project, "--every", "1h", "--port", "0", "--webhook") as served:
            served.until("tick")
            ((batch_id,),) = project.ledger("SELECT batch_id FROM batch")
            release.set()
            eventually(lambda: server.get(f"/batches/{batch_id}")["status"] == "completed", what="the batch")
            assert len(served.named("tick")) == 1
            body = make_body(batch_id=f"batch_{batch_id}")
            headers = make_headers(body, at_s=time.time())
            assert served.call("POST", "/webhook", body, {**headers, "webhook-id": "msg_2"})[0] == 401
            assert [served.call("POST", "/webhook", body, headers)[0] for _ in range(2)] == [204, 204]
            ended = served.until("run_advanced")
            assert ended["finished"]["succeeded"] == len(ROWS)
            served.until("tick", lambda line: line["advanced"] == 1)
            assert len(served.named("webhook")) == 1
            assert served.end() == 0
        said = json.dumps(served.lines)
    assert SECRET.removeprefix("whsec_") not in said
    assert "test-key" not in said
    assert {row["_answer"] for row in project.results()} == {"held back"}


def test_a_stop_in_the_middle_of_a_run_leaves_it_to_the_next_tick(tmp_path: Path) -> None:
    release = threading.Event()

    def answer(_request: SeenRequest, connection: socket.socket) -> None:
        release.wait(60)
        connection.sendall(json_reply(200, json.dumps(ANSWER).encode()))

    with ScriptedServer(answer) as upstream:
        provider = {"name": "local", "upstream": upstream.base_url}
        project = make_project(tmp_path, schedule=just_now(), model={"provider": provider, "name": "m"})
        with serving(project) as served:
            served.until("batch_created")  # the built-in server works only while somebody waits
            assert served.end() == 0
            assert served.lines[-1]["event"] == "stopped"
            assert served.named("due_started") == []
        release.set()
        with serving(project) as served:
            started = served.until("due_started")
            assert served.end() == 0
    assert started["finished"]["succeeded"] == len(ROWS)
    assert len(project.witness.creates()) == 1


def test_a_step_that_takes_too_long_is_left() -> None:
    code = (
        "import time\n"
        "from runner.cli import schedule_serve\n"
        "from runner.cli.signals import Interrupts\n"
        "from runner.schedule.serving import Wakeups\n"
        "schedule_serve.GRACE_S = 0.1\n"
        "interrupts = Interrupts()\n"
        "interrupts.listen()\n"
        "with interrupts.noted():\n"
        "    schedule_serve._stop_on_signal(interrupts, Wakeups())\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130


def test_a_broken_manifest_ends_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path, schedule=just_now())
    (tmp_path / "broken.yaml").write_text("schedule: {cron: soon}\n")
    with serving(project, "--every", "1s") as served:
        assert served.until("manifest_failed")["name"] == "broken"
        assert served.until("due_started")["name"] == "test"
        eventually(lambda: len(served.named("tick")) >= 2, what="another tick")
        assert len(served.named("manifest_failed")) == 1
        assert served.end(signal.SIGINT) == 0


NO_SECRET = "--webhook: needs the environment variable RUNNER_WEBHOOK_SECRET, which is not set"
BAD_SECRET = "RUNNER_WEBHOOK_SECRET: is not `whsec_` followed by base64"


@pytest.mark.parametrize(
    ("options", "secret", "words"),
    [
        (["--webhook"], "", ["--webhook: goes with --port", NO_SECRET]),
        (["--webhook", "--port", "0"], "whsec_canary!", [BAD_SECRET]),
        (["--every", "0.1"], "", ["--every: is too short"]),
        (["--port", "99999999"], "", ["--host, --port"]),
        (["no-such-folder"], "", ["no-such-folder: no such file or folder"]),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, options: list[str], secret: str, words: list[str]) -> None:
    project = make_project(tmp_path, schedule=just_now())
    project.environ["RUNNER_WEBHOOK_SECRET"] = secret
    done = project.call("schedule", "serve", *options)
    assert done.code == 2
    assert [word for word in words if word not in done.stderr] == []
    assert "canary" not in done.stderr
    assert "Traceback" not in done.stderr
