"""How the local server behaves over time: status, content, cancel, retry, delete, lag, faults, processes."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.localserver_process import ServerProcess, chat_line, eventually, running_server, start_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def lines(count: int, text: str = "hello") -> bytes:
    return b"".join(chat_line(f"r{number}", text) for number in range(count))


def started(server: ServerProcess, batch_id: str) -> dict[str, Any]:
    """Wait until a batch is populated."""

    def in_progress() -> dict[str, Any] | None:
        batch: dict[str, Any] = server.get(f"/batches/{batch_id}")
        return batch if batch["status"] != "validating" else None

    return eventually(in_progress, what="population")


def content(server: ServerProcess, file_id: str, query: str = "") -> tuple[dict[str, str], bytes]:
    status, headers, data = server.call("GET", f"/files/{file_id}/content{query}")
    assert status == 200
    return headers, data


def test_every_request_is_answered_once_and_results_do_not_come_in_input_order(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(300))["id"])
    ids = [line["custom_id"] for line in server.content(batch["output_file_id"])]
    assert Counter(ids) == Counter(f"r{number}" for number in range(300))
    assert ids != [f"r{number}" for number in range(300)]
    done = [row for row in server.witness.executions() if row["batch_id"] == batch["id"]]
    assert Counter(row["custom_id"] for row in done) == Counter(ids)


def test_custom_ids_may_be_empty_and_double_and_urls_mixed(server: ServerProcess) -> None:
    embedding = b'{"custom_id":"","method":"POST","url":"/v1/embeddings","body":{"model":"e","input":"x"}}\n'
    batch = server.finished(server.start_batch(chat_line("") + chat_line("") + embedding)["id"])
    found = server.content(batch["output_file_id"])
    assert [line["custom_id"] for line in found] == ["", "", ""]
    assert {line["response"]["body"]["object"] for line in found} == {"chat.completion", "list"}


def test_result_files_are_there_from_creation_on(server: ServerProcess) -> None:
    batch = server.start_batch(chat_line("a"))
    assert server.get(f"/files/{batch['output_file_id']}")["purpose"] == "batch_output"
    listed = server.get("/files?purpose=batch_error&limit=100")["data"]
    mine = next(file for file in listed if file["id"] == batch["error_file_id"])
    assert mine["filename"] == f"batch-{batch['id']}-error.jsonl"
    assert "expires_at" not in mine


def test_skip_pages_and_offset_is_ignored(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(5))["id"])
    file_id = batch["output_file_id"]
    headers, whole = content(server, file_id)
    assert (headers["x-incomplete"], headers["x-last-line"]) == ("false", "5")
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert content(server, file_id, "?offset=3&anything=1")[1] == whole
    headers, rest = content(server, file_id, "?skip=3")
    assert (headers["x-last-line"], rest) == ("5", b"".join(whole.splitlines(keepends=True)[3:]))
    headers, page = content(server, file_id, "?skip=1&limit=2")
    assert (headers["x-incomplete"], headers["x-last-line"]) == ("true", "3")
    assert headers["content-length"] == str(len(page))
    assert page == b"".join(whole.splitlines(keepends=True)[1:3])
    headers, found = content(server, file_id, "?search=R4")
    assert "x-last-line" not in headers
    assert [json.loads(line)["custom_id"] for line in found.splitlines()] == ["r4"]
    assert content(server, file_id, "?skip=9")[0]["x-last-line"] == "9"
    assert server.call("GET", f"/files/{file_id}/content?skip=-1")[0] == 400


def test_input_content_pages_by_line(server: ServerProcess) -> None:
    file_id = server.start_batch(lines(450))["input_file_id"]
    headers, whole = content(server, file_id)
    assert "x-last-line" not in headers
    assert [json.loads(line)["custom_id"] for line in whole.splitlines()] == [f"r{n}" for n in range(450)]
    headers, page = content(server, file_id, "?skip=448&limit=101")
    assert (headers["x-incomplete"], headers["x-last-line"], page.count(b"\n")) == ("false", "450", 2)


def test_a_batch_waits_in_validating_and_shows_partial_results(tmp_path: Path) -> None:
    with running_server(tmp_path, validating_delay_s=0.3) as server:
        batch = server.start_batch(chat_line("quick") + chat_line("slow", "[[local:slow 1]]"))
        assert server.get(f"/batches/{batch['id']}")["status"] == "validating"
        assert content(server, batch["output_file_id"])[0]["x-incomplete"] == "true"

        def first() -> list[dict[str, Any]]:
            return server.content(batch["output_file_id"])

        assert [line["custom_id"] for line in eventually(first)] == ["quick"]
        assert server.get(f"/batches/{batch['id']}")["status"] == "in_progress"
        headers, _ = content(server, batch["output_file_id"])
        assert (headers["x-incomplete"], headers["x-last-line"]) == ("true", "1")
        assert server.finished(batch["id"])["request_counts"]["completed"] == 2


def test_cancel_keeps_what_is_in_flight_and_drops_what_never_ran(tmp_path: Path) -> None:
    with running_server(tmp_path, request_latency_s=0.5, concurrency=2) as server:
        batch = started(server, server.start_batch(lines(6))["id"])
        time_in_flight(server, batch["id"], 2)
        cancelled = server.send_json(f"/batches/{batch['id']}/cancel", {})
        assert cancelled["status"] == "cancelled"
        assert cancelled["request_counts"]["completed"] == 0
        assert (
            server.send_json(f"/batches/{batch['id']}/cancel", {})["cancelled_at"]
            == cancelled["cancelled_at"]
        )
        assert content(server, batch["output_file_id"])[0]["x-incomplete"] == "false"

        def grown() -> bool:
            return len(server.content(batch["output_file_id"])) == 2

        eventually(grown, what="late results of requests in flight")
        assert len(server.witness.executions()) == 2
        retried = server.send_json(f"/batches/{batch['id']}/retry", {})
        assert (retried["status"], "cancelled_at" in retried) == ("in_progress", False)
        assert server.finished(batch["id"])["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
        assert len(server.witness.executions()) == 6


def time_in_flight(server: ServerProcess, batch_id: str, count: int) -> None:
    def in_flight() -> bool:
        data = server.call("GET", f"/batches/{batch_id}/results?status=in_progress")[2]
        return data.count(b"\n") == count

    eventually(in_flight, what=f"{count} requests in flight")


def test_a_completed_batch_can_be_cancelled_and_stays_readable(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(3))["id"])
    cancelled = server.send_json(f"/batches/{batch['id']}/cancel", {})
    assert (cancelled["status"], "completed_at" in cancelled) == ("cancelled", True)
    assert len(server.content(batch["output_file_id"])) == 3


def test_cancelled_before_population_stays_cancelling_for_ever(tmp_path: Path) -> None:
    with running_server(tmp_path, validating_delay_s=0.2) as server:
        batch = server.start_batch(lines(2))
        assert server.send_json(f"/batches/{batch['id']}/cancel", {})["status"] == "cancelling"
        other = server.finished(server.start_batch(lines(1))["id"])
        assert other["status"] == "completed"
        assert server.get(f"/batches/{batch['id']}")["status"] == "cancelling"
        assert content(server, batch["output_file_id"])[0]["x-incomplete"] == "true"
        assert server.get("/batches?status=cancelled")["data"][0]["id"] == batch["id"]


def test_retry_runs_failed_requests_again_under_the_same_ids(server: ServerProcess) -> None:
    batch = server.finished(
        server.start_batch(chat_line("good") + chat_line("bad", "[[local:fail 500]]"))["id"]
    )
    assert batch["status"] == "completed"
    (before,) = server.content(batch["error_file_id"])
    assert server.send_json(f"/batches/{batch['id']}/retry", {})["id"] == batch["id"]
    again = server.finished(batch["id"])
    assert again["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (after,) = server.content(batch["error_file_id"])
    assert after["id"] == before["id"]
    bare = before["id"].removeprefix("batch_req_")
    assert (
        server.send_json(f"/batches/{batch['id']}/retry-requests", {"request_ids": [bare]})["id"]
        == batch["id"]
    )
    server.finished(batch["id"])
    mine = [row["custom_id"] for row in server.witness.executions() if row["batch_id"] == batch["id"]]
    assert Counter(mine) == {"good": 1, "bad": 3}
    data = json.dumps({"request_ids": [before["id"]]}).encode()
    sent = {"Content-Type": "application/json"}
    refused = server.call("POST", f"/batches/{batch['id']}/retry-requests", body=data, headers=sent)
    assert refused[::2] == (400, b"No valid request IDs provided")


def test_retry_of_nothing_is_refused(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(1))["id"])
    assert server.call("POST", f"/batches/{batch['id']}/retry")[::2] == (
        400,
        b"Nothing to retry: no failed or canceled requests, and the batch is not cancelled",
    )


def test_a_batch_over_an_output_file_fails_at_population(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(1))["id"])
    value = {
        "input_file_id": batch["output_file_id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    odd = server.send_json("/batches", value)
    assert odd["request_counts"]["total"] == 0
    failed = server.finished(odd["id"])
    assert (failed["status"], failed["request_counts"]) == (
        "failed",
        {"total": 0, "completed": 0, "failed": 0},
    )
    assert server.content(odd["error_file_id"]) == []


def test_deleting_an_input_file_cancels_its_batches_and_breaks_results(tmp_path: Path) -> None:
    with running_server(tmp_path, request_latency_s=30) as server:
        batch = started(server, server.start_batch(lines(3))["id"])
        status, _, body = server.call("DELETE", f"/files/{batch['input_file_id']}")
        assert (status, body) == (
            200,
            b'{"id":"%b","object":"file","deleted":true}' % batch["input_file_id"].encode(),
        )
        after = server.get(f"/batches/{batch['id']}")
        assert (after["status"], after["input_file_id"]) == ("cancelled", "")
        assert server.call("GET", f"/files/{batch['input_file_id']}")[0] == 404
        assert list((server.state_dir / "files").iterdir()) == []
        assert server.call("GET", f"/batches/{batch['id']}/results?limit=5")[::2] == (
            500,
            b"Internal server error",
        )
        with pytest.raises(http.client.IncompleteRead):
            server.call("GET", f"/batches/{batch['id']}/results")
        value = {
            "input_file_id": batch["input_file_id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        data = json.dumps(value).encode()
        assert (
            server.call("POST", "/batches", body=data, headers={"Content-Type": "application/json"})[0] == 404
        )


def test_deleting_a_result_file_clears_its_id(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(1))["id"])
    assert server.call("DELETE", f"/files/{batch['error_file_id']}")[0] == 200
    assert "error_file_id" not in server.get(f"/batches/{batch['id']}")


def test_a_deleted_batch_is_gone_and_its_output_stays(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(1))["id"])
    assert server.call("DELETE", f"/batches/{batch['id']}")[::2] == (204, b"")
    assert server.call("GET", f"/batches/{batch['id']}")[0] == 404
    headers, data = content(server, batch["output_file_id"])
    assert (data.count(b"\n"), "x-last-line" in headers) == (1, False)


def test_results_join_input_and_outcome_in_input_order(server: ServerProcess) -> None:
    batch = server.finished(
        server.start_batch(chat_line("a") + chat_line("b", "[[local:fail 400]]") + chat_line("c"))["id"]
    )
    status, headers, data = server.call("GET", f"/batches/{batch['id']}/results")
    assert (status, headers["x-incomplete"], headers["x-last-line"]) == (200, "false", "3")
    rows = [json.loads(line) for line in data.splitlines()]
    assert [(row["custom_id"], row["status"]) for row in rows] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "completed"),
    ]
    assert set(rows[0]) == {"id", "custom_id", "model", "input_body", "response_body", "error", "status"}
    assert rows[0]["response_body"]["object"] == "chat.completion"
    assert json.loads(rows[1]["error"])["type"] == "NonRetriableHttpStatus"
    page = server.call("GET", f"/batches/{batch['id']}/results?limit=1&skip=1&status=completed")[2]
    assert json.loads(page)["custom_id"] == "c"


def test_analytics_and_cost_estimate_count_tokens(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(4))["id"])
    figures = server.get(f"/batches/{batch['id']}/analytics")
    assert figures["total_requests"] == 4
    assert figures["total_tokens"] == figures["total_prompt_tokens"] + figures["total_completion_tokens"] > 0
    listed = server.get(f"/batches?include=analytics&search={batch['id']}")["data"][0]
    assert listed["analytics"]["total_requests"] == 4
    estimate = server.get(f"/files/{batch['input_file_id']}/cost-estimate")
    assert (estimate["total_requests"], estimate["total_estimated_cost"]) == (4, "0")
    assert estimate["models"][0]["model"] == "local"


def test_lists_filter_by_status_window_and_time(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(1), window="1h", tag="filter-me")["id"])
    for query in ("status=completed", "completion_window=1h,24h", "created_after=2020-01-01T00:00:00Z"):
        assert server.get(f"/batches?search=FILTER-ME&{query}")["data"][0]["id"] == batch["id"]
    for query in (
        "status=failed",
        "status=expired",
        "completion_window=24h",
        "created_before=2020-01-01T00:00:00Z",
    ):
        assert server.get(f"/batches?search=filter-me&{query}")["data"] == []
    assert server.call("GET", "/batches?status=odd")[0] == 400
    assert server.get("/batches?search=filter_me")["data"][0]["id"] == batch["id"]


def test_a_lost_create_reply_leaves_a_batch_that_a_search_finds(server: ServerProcess) -> None:
    file_id = json.loads(server.upload(lines(2))[1])["id"]
    server.arm("lost-reply", route="POST /v1/batches", token="lost-one")
    value = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"token": "lost-one"},
    }
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        server.send_json("/batches", value)
    (found,) = server.get("/batches?search=lost-one")["data"]
    assert [row["batch_id"] for row in server.witness.creates() if row["input_file_id"] == file_id] == [
        found["id"]
    ]
    assert server.send_json("/batches", value)["id"] != found["id"]

    def told() -> list[int | None]:
        return [one["status"] for one in server.witness.http() if one["path"] == "/v1/batches"][-3:]

    eventually(lambda: told() == [None, 200, 201], what="what became of the three calls")


def test_a_lost_upload_reply_leaves_a_file(server: ServerProcess) -> None:
    server.arm("lost-reply", route="POST /v1/files", token="lost-upload.jsonl")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        server.upload(lines(1), filename="lost-upload.jsonl")
    assert len(server.get("/files?search=lost-upload")["data"]) == 1


def test_an_error_after_the_effect_is_ambiguous(server: ServerProcess) -> None:
    before = len(server.witness.creates())
    file_id = json.loads(server.upload(lines(1))[1])["id"]
    server.arm("error-after-effect", route="POST /v1/batches", params={"status": 504})
    value = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    sent = {"Content-Type": "application/json"}
    status, headers, body = server.call("POST", "/batches", body=json.dumps(value).encode(), headers=sent)
    assert (status, headers["content-type"], body[:6]) == (504, "text/html; charset=utf-8", b"<html>")
    assert len(server.witness.creates()) == before + 1


def test_a_download_is_cut_in_the_middle_once(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(lines(50))["id"])
    server.arm("abort-download", params={"after_bytes": 1000}, token=batch["output_file_id"])
    with pytest.raises(http.client.IncompleteRead) as caught:
        server.call("GET", f"/files/{batch['output_file_id']}/content")
    assert len(caught.value.partial) <= 1000
    assert len(server.content(batch["output_file_id"])) == 50


def test_a_fault_fires_from_the_nth_request_on_as_often_as_told(server: ServerProcess) -> None:
    server.arm("internal-500", route="GET /v1/models", nth=2, times=2)
    found = [server.call("GET", "/models")[0] for _ in range(5)]
    assert found == [200, 500, 500, 200, 200]
    (armed,) = [fault for fault in server.get("//faults")["armed"] if fault["route"] == "GET /v1/models"]
    assert (armed["seen"], armed["fired"]) == (5, 2)
    assert server.call("DELETE", "//faults")[0] == 204
    assert server.get("//faults")["armed"] == []


def test_a_lagging_replica_hides_a_batch_but_create_sees_the_file(tmp_path: Path) -> None:
    with running_server(tmp_path, replica_lag_s=0.6) as server:
        batch = server.start_batch(lines(2))
        assert server.call("GET", f"/batches/{batch['id']}")[0] == 404
        assert server.call("GET", f"/files/{batch['output_file_id']}")[0] == 404
        assert server.get("/batches")["data"] == []
        eventually(lambda: server.call("GET", f"/batches/{batch['id']}")[0] == 200, what="the replica")
        assert server.finished(batch["id"])["status"] == "completed"
        stale = server.send_json(f"/batches/{batch['id']}/cancel", {})
        assert stale["status"] == "completed"
        eventually(lambda: server.get(f"/batches/{batch['id']}")["status"] == "cancelled", what="the replica")


def test_a_late_row_appears_before_rows_that_were_read(tmp_path: Path) -> None:
    faults = [{"kind": "late-row", "params": {"delay_s": 0.5}}]
    with running_server(tmp_path, faults=faults) as server:
        batch = server.start_batch(lines(5))

        def four() -> list[str] | None:
            found = [line["custom_id"] for line in server.content(batch["output_file_id"])]
            return found if len(found) == 4 else None

        seen = eventually(four, what="four rows")
        server.finished(batch["id"])
        whole = [line["custom_id"] for line in server.content(batch["output_file_id"])]
        assert whole[1:] == seen


def test_several_processes_serve_one_folder_and_one_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    settings = {"request_latency_s": 0.05, "concurrency": 5}
    first = start_server(tmp_path, **settings)
    with running_server(tmp_path, **settings) as second:
        batch = second.start_batch(lines(60))
        started(first, batch["id"])
        first.kill()
        killed_at = time.monotonic()
        before = len(second.witness.executions())
        eventually(lambda: len(second.witness.executions()) > before, what="the takeover")
        assert time.monotonic() - killed_at < 3
        done = second.finished(batch["id"])
        assert done["request_counts"]["completed"] == 60
        assert Counter(row["custom_id"] for row in second.witness.executions()) == Counter(
            f"r{number}" for number in range(60)
        )
    first.stop()


def test_a_state_folder_is_private(server: ServerProcess) -> None:
    assert server.state_dir.joinpath("server.db").stat().st_mode & 0o777 == 0o600
    for path in server.state_dir.joinpath("files").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
