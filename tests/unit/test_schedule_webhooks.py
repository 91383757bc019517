"""A webhook is believed only with a signature that fits, in time, once; and then only as a hint."""

from __future__ import annotations

import base64
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.schedule.webhooks import (
    MAX_BODY_BYTES,
    TOLERANCE_S,
    BatchEvent,
    RefusedWebhookError,
    Secrets,
    Seen,
    receive,
)
from tests.webhook_factories import BATCH_ID, NOW_S, SECRET, make_body, make_headers

OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes here!").decode()


def refusal(
    headers: dict[str, str], body: bytes, *, now_s: float = NOW_S, secrets: str = SECRET
) -> tuple[int, str]:
    with pytest.raises(RefusedWebhookError) as caught:
        receive(headers, body, Secrets(secrets), now_s=now_s)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("kind", ["batch.completed", "batch.failed"])
def test_what_the_package_of_others_signs_is_believed(kind: str) -> None:
    body = make_body(kind)
    event = receive(make_headers(body), body, Secrets(SECRET), now_s=NOW_S)
    assert event == BatchEvent(event_id="msg_1", type=kind, batch_ids=(BATCH_ID, f"batch_{BATCH_ID}"))


def test_the_signature_of_the_published_example_fits() -> None:
    """The example of the specification, so that two readings of it can't agree on something else."""
    body = b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert refusal(headers, body, now_s=1614265330) == (400, "the body has no type")


@pytest.mark.parametrize("off_s", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_a_timestamp_within_the_tolerance_is_good(off_s: int) -> None:
    body = make_body()
    assert receive(make_headers(body), body, Secrets(SECRET), now_s=NOW_S + off_s) is not None


@pytest.mark.parametrize("off_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, 86_400])
def test_an_old_or_early_one_is_refused(off_s: int) -> None:
    body = make_body()
    assert refusal(make_headers(body), body, now_s=NOW_S + off_s) == (
        401,
        "the timestamp is too far from now",
    )


def test_one_of_several_signatures_will_do_and_one_of_several_secrets() -> None:
    body = make_body()
    headers = make_headers(body)
    headers["webhook-signature"] = f"v1a,AAAA v1,AAAA {headers['webhook-signature']}"
    assert receive(headers, body, Secrets(f"{OTHER} {SECRET}"), now_s=NOW_S) is not None
    assert refusal(headers, body, secrets=OTHER) == (401, "the signature does not fit")


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp"])
def test_what_was_changed_on_the_way_is_refused(change: str) -> None:
    body = make_body()
    headers = make_headers(body)
    if change == "body":
        body = body.replace(b"completed", b"cancelled")
    else:
        headers[change] = headers[change][:-1] + "7"
    assert refusal(headers, body) == (401, "the signature does not fit")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("webhook-id", None, "not signed"),
        ("webhook-id", "", "not signed"),
        ("webhook-id", "a b", "not signed"),
        ("webhook-id", "x" * 257, "not signed"),
        ("webhook-timestamp", None, "not signed"),
        ("webhook-timestamp", "-1", "not signed"),
        ("webhook-timestamp", "1e9", "not signed"),
        ("webhook-timestamp", "٣" * 10, "not signed"),
        ("webhook-timestamp", "9" * 13, "not signed"),
        ("webhook-signature", None, "the signature does not fit"),
        ("webhook-signature", "v1", "the signature does not fit"),
        ("webhook-signature", "v1,", "the signature does not fit"),
        ("webhook-signature", "v1,ünïcödé", "the signature does not fit"),
        ("webhook-signature", "v1," * 400, "not signed"),
    ],
)
def test_hostile_headers_are_refused(name: str, value: str | None, why: str) -> None:
    body = make_body()
    headers = make_headers(body)
    del headers[name]
    if value is not None:
        headers[name] = value
    assert refusal(headers, body) == (401, why)


@pytest.mark.parametrize("version", ["v2", "v1a", "V1", ""])
def test_signatures_of_another_kind_don_t_count(version: str) -> None:
    body = make_body()
    headers = make_headers(body)
    headers["webhook-signature"] = version + headers["webhook-signature"].removeprefix("v1")
    assert refusal(headers, body) == (401, "the signature does not fit")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 50_000, "the body is not JSON"),
        (b"[]", "the body has no type"),
        (b'{"type": 7}', "the body has no type"),
        (b'{"type": "batch.failed"}', "the body names no batch"),
        (b'{"type": "batch.failed", "data": []}', "the body names no batch"),
        (make_body(batch_id="batch_../../etc"), "the body names no batch"),
        (make_body(batch_id=""), "the body names no batch"),
        (make_body(batch_id="x" * 129), "the body names no batch"),
    ],
)
def test_a_signed_body_that_makes_no_sense_is_told_so(body: bytes, why: str) -> None:
    headers = make_headers(b"x" if body.startswith(b"\xff") else body)
    if body.startswith(b"\xff"):
        secrets = Secrets(SECRET)
        assert not secrets.has_signed(body, b"")
        assert refusal(headers, body) == (401, "the signature does not fit")
    else:
        assert refusal(headers, body) == (400, why)


@pytest.mark.parametrize("kind", ["user.created", "batch.created", "batch.cancelled", ""])
def test_other_events_are_of_no_use(kind: str) -> None:
    body = make_body(kind)
    assert receive(make_headers(body), body, Secrets(SECRET), now_s=NOW_S) is None


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        ({"batch_id": f"batch_{BATCH_ID}"}, (BATCH_ID, f"batch_{BATCH_ID}")),
        ({"batch_id": BATCH_ID}, (BATCH_ID,)),
        ({"id": "batch_abc123"}, ("abc123", "batch_abc123")),  # OpenAI's are so by nature
        ({"batch_id": "batch_"}, ("batch_",)),
    ],
)
def test_the_prefix_of_an_id_is_taken_off(data: dict[str, str], ids: tuple[str, ...]) -> None:
    body = json.dumps({"type": "batch.completed", "data": data}).encode()
    event = receive(make_headers(body), body, Secrets(SECRET), now_s=NOW_S)
    assert event is not None
    assert event.batch_ids == ids


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()),
    st.binary(max_size=300),
)
def test_no_stranger_is_believed_nor_breaks_anything(headers: dict[str, str], body: bytes) -> None:
    assert refusal(headers, body)[0] == 401


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no secret"),
        ("  ", "holds no secret"),
        ("whsec_", "is too short for a secret"),
        ("whsec_AAAA", "is too short for a secret"),
        ("whsec_not base64", "is not `whsec_` followed by base64"),
        ("whsec_%%%", "is not `whsec_` followed by base64"),
        (f"{SECRET} " * 11, "holds too many secrets"),
    ],
)
def test_a_secret_that_can_t_be_one_is_told_without_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Secrets(text)
    assert str(caught.value) == why


def test_secrets_don_t_show_themselves() -> None:
    secrets = Secrets(SECRET)
    assert SECRET[6:] not in f"{secrets!r} {secrets}"
    with pytest.raises(TypeError):
        pickle.dumps(secrets)


def test_an_event_is_new_once_and_memory_is_bounded() -> None:
    seen = Seen(most=3)
    assert [seen.is_new(one) for one in "aabcab"] == [True, False, True, True, False, False]
    assert seen.is_new("d")
    assert [seen.is_new(one) for one in "bcda"] == [False, False, False, True]


def test_a_body_is_bounded_well_above_what_an_event_needs() -> None:
    assert len(make_body()) * 100 < MAX_BODY_BYTES
