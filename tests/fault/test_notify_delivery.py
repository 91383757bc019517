"""A notice on its way out: taken, refused, hanging, redirected; and its address is told to nobody."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Mapping

import pytest

from runner.commands.moments import Moment, Silent, Trouble
from runner.commands.notices import Notice, error_notice
from runner.commands.notifying import deliver, notify
from runner.core.model import NotifySettings, Occasion
from runner.provider import post_json
from tests.fault.provider_factories import (
    ScriptedServer,
    SeenRequest,
    always,
    one_after_another,
    reply,
    reset,
)

SECRET = "T00-canary-path-8d1f"


class Heard(Silent):
    """What a reporter was told."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def tell(self, moment: Moment) -> None:
        self.moments.append(moment)

    @property
    def troubles(self) -> list[str]:
        return [moment.what for moment in self.moments if isinstance(moment, Trouble)]


def a_notice(occasion: Occasion = Occasion.FAILED) -> Notice:
    return error_notice(
        occasion,
        name="tickets",
        manifest="/p/my tickets.yaml",
        what="doubleword: create batch: \x1b[31mno credit",
        next_step="add credit",
        exit_code=4,
    )


def told(
    address: str | None, *, on: tuple[Occasion, ...] = tuple(Occasion), notice: Notice | None = None
) -> list[str]:
    """The troubles of one notification."""
    environ: Mapping[str, str] = {} if address is None else {"ALERT_URL": address}
    heard = Heard()
    settings = NotifySettings(url_env="ALERT_URL", on=on)
    notify(settings, notice or a_notice(), environ=environ, reporter=heard)
    return heard.troubles


def test_a_notice_is_one_post_of_json() -> None:
    with ScriptedServer(always(reply(200, b"ok"))) as server:
        assert told(f"{server.base_url}/{SECRET}") == []
        (request,) = server.requests
    assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
    assert request.target.endswith(f"/{SECRET}")
    assert json.loads(request.body) == {
        "text": "tickets: failed\n"
        "error: doubleword: create batch: [31mno credit\n"
        "next: add credit\n"
        "look further: run status '/p/my tickets.yaml'",
        "event": "failed",
        "manifest": "tickets",
        "exit_code": 4,
        "error": "doubleword: create batch: [31mno credit",
        "next_step": "add credit",
    }


def test_what_the_manifest_did_not_ask_for_is_not_sent() -> None:
    with ScriptedServer(always(reply(200, b""))) as server:
        assert told(server.base_url, on=(Occasion.COMPLETED, Occasion.BUDGET)) == []
        assert server.requests == []


def test_trouble_that_may_pass_is_tried_again() -> None:
    with ScriptedServer(one_after_another(reply(503, b""), reply(429, b""), reply(204, b""))) as server:
        assert told(server.base_url) == []
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 410, 302])
def test_a_refusal_is_told_without_the_address_and_not_repeated(status: int) -> None:
    elsewhere = b"http://127.0.0.1:1/elsewhere"
    head = b"HTTP/1.1 %d x\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere)
    with ScriptedServer(always(head)) as server:
        (trouble,) = told(f"{server.base_url}/{SECRET}")
        assert len(server.requests) == 1
    assert trouble == (
        f"nobody was told that tickets: failed: the address answered HTTP {status} "
        "(notify.url_env: ALERT_URL)"
    )


def test_a_connection_that_breaks_is_trouble_without_the_address() -> None:
    def script(_request: SeenRequest, connection: socket.socket) -> None:
        reset(connection)

    with ScriptedServer(script) as server:
        (trouble,) = told(f"{server.base_url}/{SECRET}")
        assert len(server.requests) == 3
    assert "no connection" in trouble
    assert SECRET not in trouble


def test_a_server_that_says_nothing_is_given_up() -> None:
    def script(_request: SeenRequest, _connection: socket.socket) -> None:
        server.silence()

    with ScriptedServer(script) as server:
        assert post_json(f"{server.base_url}/{SECRET}", b"{}", total_s=0.4) == "no answer in time"


@pytest.mark.parametrize(
    "address",
    ["nonsense", "ftp://example.com/x", "http://", "http://[::1", "https://a b/", "http://h:99999/", "mailto://u:p@h"],
)  # fmt: skip
def test_without_apprise_only_web_addresses_will_do(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    (trouble,) = told(f"{address}{SECRET}" if "//" in address and address != "http://" else address)
    assert "no http(s) address; the extra `notify` brings Apprise" in trouble
    assert SECRET not in trouble


@pytest.mark.parametrize("address", [None, "", "  "])
def test_a_variable_that_is_not_set_is_named(address: str | None) -> None:
    (trouble,) = told(address)
    assert "the environment variable ALERT_URL is not set" in trouble


def test_an_apprise_address_goes_through_apprise() -> None:
    with ScriptedServer(always(reply(200, b""))) as server:
        address = server.base_url.replace("http://", "json://").removesuffix("/v1")
        assert deliver(address, a_notice(Occasion.BUDGET)) is None
        (request,) = server.requests
    sent = json.loads(request.body)
    assert sent["title"] == "tickets: not run, over its budget"
    assert sent["message"].startswith("error: doubleword: create batch:")


def test_what_apprise_can_t_deliver_is_trouble_and_its_log_is_silent(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(always(reply(500, b""))) as server, caplog.at_level(logging.DEBUG):
        address = server.base_url.replace("http://", "json://").removesuffix("/v1")
        assert deliver(f"{address}/{SECRET}", a_notice()) == "Apprise could not deliver the message"
    assert [record for record in caplog.records if SECRET in record.getMessage()] == []
    assert SECRET not in "".join(capfd.readouterr())


def test_an_address_that_nobody_knows_is_trouble() -> None:
    assert deliver("bogus://x", a_notice()) == "neither an http(s) address nor one that Apprise knows"
