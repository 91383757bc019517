"""The safety net of tests/conftest.py holds."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def test_no_test_can_reach_another_machine() -> None:
    with socket.socket() as client, pytest.raises(Exception, match="only connect to loopback"):
        client.connect(("192.0.2.1", 80))


def test_no_key_reaches_a_test() -> None:
    assert [name for name in os.environ if name.upper().endswith("_API_KEY")] == []


def test_home_is_a_folder_of_the_test(tmp_path: Path) -> None:
    assert Path.home() == tmp_path / "home"
