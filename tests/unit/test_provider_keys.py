"""A key can be sent but not seen."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest

from runner.core.model import ProblemKind
from runner.errors import EXIT_REFUSED
from runner.provider import ApiKey, AuthenticationError

SECRET = "sk-canary-0123456789/abc"


def test_a_key_does_not_show_itself() -> None:
    key = ApiKey(SECRET, name="MY_KEY")
    shown = [repr(key), str(key), f"{key}", f"{key!r}", repr([key]), repr({"k": key})]
    assert all(SECRET not in text and "MY_KEY" in text for text in shown)


def test_a_key_goes_into_the_header() -> None:
    assert ApiKey(f"  {SECRET}\n", name="K").header() == f"Bearer {SECRET}"


def test_a_key_is_read_from_the_environment_by_name() -> None:
    assert ApiKey.from_environment("MY_KEY", {"MY_KEY": SECRET}) == ApiKey(SECRET, name="MY_KEY")


def test_a_missing_key_says_which_variable_to_set() -> None:
    with pytest.raises(AuthenticationError) as caught:
        ApiKey.from_environment("DOUBLEWORD_API_KEY", {})
    assert caught.value.what == "no API key: the environment variable DOUBLEWORD_API_KEY is not set"
    assert caught.value.next_step == (
        "export DOUBLEWORD_API_KEY=<your API key> and run the same command again"
    )
    assert caught.value.exit_code == EXIT_REFUSED
    assert caught.value.problem.kind is ProblemKind.AUTHENTICATION


@pytest.mark.parametrize(
    "text", ["", "  \n", "sk-can ary", "sk-canary\r\nX-Evil: 1", "sk-canäry", "sk-canary\x00"]
)
def test_an_impossible_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        ApiKey.from_environment("K", {"K": text})
    assert "canary" not in f"{caught.value!r} {caught.value.next_step} {caught.value.problem}"


def test_a_key_can_not_be_written_down() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(ApiKey(SECRET, name="K"))
    with pytest.raises(TypeError):
        copy.copy(ApiKey(SECRET, name="K"))


def test_a_key_is_cut_out_of_foreign_texts() -> None:
    key = ApiKey(SECRET, name="K")
    assert key.scrub(f"Incorrect API key: {SECRET}.") == "Incorrect API key: [key]."
    assert key.scrub('"sk-canary-0123456789\\/abc"') == '"[key]"'
    assert ApiKey("x", name="K").scrub("text with x") == "text with x"


def test_a_digest_tells_keys_apart_only_with_its_salt() -> None:
    key, other = ApiKey(SECRET, name="K"), ApiKey(SECRET + "2", name="K")
    assert key.digest(b"salt") == key.digest(b"salt")
    assert len({key.digest(b"salt"), other.digest(b"salt"), key.digest(b"pepper")}) == 3
    assert len(key.digest(b"salt")) == 8


def test_http_libraries_log_no_calls() -> None:
    import runner.provider  # noqa: F401

    assert logging.getLogger("httpx").level >= logging.WARNING
    assert logging.getLogger("httpcore").level >= logging.WARNING
