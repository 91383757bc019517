"""The door of a serving schedule over real HTTP: health, figures, webhooks, and what strangers get."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner.commands.moments import Finished
from runner.core.model import Status
from runner.localserver.sockets import AddressError
from runner.schedule.health import Health
from runner.schedule.listening import Door, listening
from runner.schedule.metrics import Metrics
from runner.schedule.reports import AdvancedRun, FailedManifest, SkippedDue, StartedDue, TickReport
from runner.schedule.webhooks import MAX_BODY_BYTES, BatchEvent, Secrets
from tests.webhook_factories import BATCH_ID, NOW_S, SECRET, make_body, make_headers

DUE_AT = datetime(2026, 11, 26, 2, 17, tzinfo=UTC)


@dataclass
class Served:
    """An open door, and what went through it."""

    address: str
    health: Health
    metrics: Metrics
    events: list[BatchEvent] = field(default_factory=list)

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        parts = urlsplit(self.address)
        with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, reply.read()

    def post(self, body: bytes, event_id: str = "msg_1") -> tuple[int, bytes]:
        return self.call("POST", "/webhook", body, make_headers(body, event_id=event_id))

    def figures(self) -> dict[str, float]:
        status, page = self.call("GET", "/metrics")
        assert status == 200
        return {
            sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
        }


def serve(secrets: Secrets | None) -> Iterator[Served]:
    served = Served("", Health(), Metrics())
    door = Door(
        served.health, served.metrics, secrets=secrets, wake=served.events.append, clock=lambda: NOW_S
    )
    with listening(door, "127.0.0.1", 0) as served.address:
        yield served


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """A door with webhooks, for tests that only knock."""
    yield from serve(Secrets(SECRET))


@pytest.fixture
def fresh() -> Iterator[Served]:
    yield from serve(Secrets(SECRET))


def finished(exit_code: int = 0, **counts: int) -> Finished:
    zero = {status.value: 0 for status in Status}
    return Finished(
        rows=3,
        requests_sent=3,
        batches=1,
        results=("/p/r.parquet",),
        input_tokens=10,
        output_tokens=20,
        cost=0.5,
        paid_input_tokens=10,
        paid_output_tokens=20,
        paid_cost=0.25,
        currency="USD",
        exit_code=exit_code,
        run="f" * 32,
        manifest="tickets",
        duration_s=1.0,
        **{**zero, **counts},
    )


def a_report() -> TickReport:
    about: dict[str, Any] = {"manifest": "/p/tickets.yaml", "name": "tickets"}
    return TickReport(
        at=DUE_AT,
        started=(
            StartedDue(**about, due_at=DUE_AT, run=None, exit_code=75, finished=None, message=""),
            StartedDue(
                **about, due_at=DUE_AT, run="r", exit_code=0, finished=finished(succeeded=3), message=""
            ),
        ),
        advanced=(
            AdvancedRun(
                **about,
                due_at=DUE_AT,
                run="r",
                exit_code=3,
                finished=finished(3, succeeded=2, failed=1),
                message="",
            ),
        ),
        skipped=(SkippedDue(**about, due_at=DUE_AT, message="still running"),),
        failed=(
            FailedManifest(
                **about,
                due_at=None,
                run=None,
                exit_code=2,
                finished=None,
                message="m.yaml:1:1: ...",
                next_step="",
            ),
        ),
        open_runs=2,
        next_due_at=DUE_AT,
    )


# ---------------------------------------------------------------- health and figures


def test_health_is_that_of_the_loop_and_not_of_a_manifest(fresh: Served) -> None:
    assert fresh.call("GET", "/healthz") == (200, b'{"status":"starting"}')
    fresh.health.tick_done(a_report(), NOW_S)
    status, body = fresh.call("GET", "/healthz")
    assert (status, json.loads(body)) == (
        200,
        {
            "status": "ok",
            "last_tick_at": "2026-09-21T14:13:20Z",
            "open_runs": 2,
            "next_due_at": "2026-11-26T02:17:00Z",
            "failing_manifests": ["tickets"],
        },
    )
    fresh.health.tick_failed(NOW_S + 60)
    status, body = fresh.call("GET", "/healthz")
    assert (status, json.loads(body)["status"]) == (503, "failing")
    fresh.health.tick_done(a_report(), NOW_S)
    assert fresh.call("GET", "/healthz")[0] == 200


def test_figures_are_those_of_the_ticks(fresh: Served) -> None:
    fresh.metrics.tick_done(a_report(), ended_s=NOW_S, took_s=2.0, is_whole=True)
    fresh.metrics.tick_done(TickReport(at=DUE_AT, open_runs=1), ended_s=NOW_S, took_s=1.0, is_whole=False)
    fresh.metrics.tick_failed(ended_s=NOW_S + 60, took_s=0.5)
    found = fresh.figures()
    wanted = {
        "runner_ticks_total done": 2,
        "runner_ticks_total failed": 1,
        "runner_tick_seconds_count": 3,
        "runner_tick_seconds_sum": 3.5,
        "runner_last_tick_timestamp_seconds": NOW_S + 60,
        "runner_next_due_timestamp_seconds": DUE_AT.timestamp(),
        "runner_open_runs": 2,
        "runner_failing_manifests": 1,
        "runner_due_times_total tickets started": 2,
        "runner_due_times_total tickets skipped": 1,
        "runner_runs_ended_total tickets completed": 1,
        "runner_runs_ended_total tickets failed": 1,
        "runner_problems_total tickets": 1,
        "runner_rows_total tickets succeeded": 5,
        "runner_rows_total tickets failed": 1,
        "runner_requests_sent_total tickets": 6,
        "runner_paid_cost_total USD tickets": 0.5,
    }
    assert {name: found.get(name) for name in wanted} == wanted


# ---------------------------------------------------------------- webhooks


def test_a_webhook_wakes_the_loop_once(fresh: Served) -> None:
    body = make_body()
    assert [fresh.post(body), fresh.post(body), fresh.post(body, event_id="msg_2")] == [(204, b"")] * 3
    assert [event.event_id for event in fresh.events] == ["msg_1", "msg_2"]
    assert fresh.events[0].batch_ids == (BATCH_ID, f"batch_{BATCH_ID}")
    assert fresh.post(make_body("user.created")) == (204, b"")
    assert fresh.call("POST", "/webhook", body)[0] == 401
    outcomes = {name: value for name, value in fresh.figures().items() if "webhooks_total" in name}
    assert outcomes == {
        "runner_webhooks_total accepted": 2,
        "runner_webhooks_total duplicate": 1,
        "runner_webhooks_total ignored": 1,
        "runner_webhooks_total refused": 1,
    }


def test_an_id_that_was_refused_is_not_used_up(fresh: Served) -> None:
    body = make_body()
    forged = {**make_headers(body), "webhook-signature": "v1,AAAA"}
    assert fresh.call("POST", "/webhook", body, forged) == (401, b"the signature does not fit\n")
    assert fresh.post(body) == (204, b"")
    assert len(fresh.events) == 1


def test_a_body_that_is_too_long_is_refused_before_it_is_read(shared: Served) -> None:
    assert shared.post(b"x" * (MAX_BODY_BYTES + 1)) == (413, b"the body is too long\n")


def test_a_body_without_end_is_refused(shared: Served) -> None:
    parts = urlsplit(shared.address)
    with socket.create_connection((str(parts.hostname), parts.port), timeout=20) as connection:
        connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(80):
            try:
                connection.sendall(b"400\r\n" + b"y" * 1024 + b"\r\n")
            except OSError:
                break  # it stopped listening, as it should
        assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_is_cut_wakes_nobody(shared: Served) -> None:
    parts = urlsplit(shared.address)
    before = len(shared.events)
    with socket.create_connection((str(parts.hostname), parts.port), timeout=20) as connection:
        connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert shared.call("GET", "/healthz")[0] == 200
    assert len(shared.events) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/webhook", 405),
        ("POST", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/webhook/x", 404),
        ("POST", "/webhook", 401),
    ],
)
def test_strangers_get_a_4xx(shared: Served, method: str, path: str, status: int) -> None:
    assert shared.call(method, path)[0] == status


@pytest.mark.parametrize("data", [b"\x00\xff" * 50, b"GET\r\n\r\n", b"POST /webhook\r\n\r\n"])
def test_what_is_no_http_gets_a_400(shared: Served, data: bytes) -> None:
    parts = urlsplit(shared.address)
    with socket.create_connection((str(parts.hostname), parts.port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(64).startswith(b"HTTP/1.1 400 ")


def test_without_a_secret_there_is_no_webhook() -> None:
    for served in serve(None):
        assert served.call("POST", "/webhook")[0] == 404
        assert served.call("GET", "/healthz")[0] == 200


def test_who_says_nothing_is_cut_off() -> None:
    health, metrics = Health(), Metrics()
    door = Door(health, metrics, secrets=None, wake=lambda _event: None, clock=lambda: NOW_S)
    with listening(door, "127.0.0.1", 0, lifetime_s=0.2) as address:
        parts = urlsplit(address)
        with socket.create_connection((str(parts.hostname), parts.port), timeout=20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            with suppress(ConnectionResetError):
                assert connection.recv(64) == b""


def test_an_address_that_is_taken_is_told(shared: Served) -> None:
    door = Door(shared.health, shared.metrics, secrets=None, wake=shared.events.append, clock=lambda: NOW_S)
    port = urlsplit(shared.address).port
    assert port is not None
    with pytest.raises(AddressError), listening(door, "127.0.0.1", port):
        pass
