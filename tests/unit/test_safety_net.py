"""The safety net of tests/conftest.py holds."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import runner


def test_no_test_can_reach_another_machine() -> None:
    with socket.socket() as client, pytest.raises(Exception, match="only connect to loopback"):
        client.connect(("192.0.2.1", 80))


def test_no_key_reaches_a_test() -> None:
    assert [name for name in os.environ if name.upper().endswith("_API_KEY")] == []


def test_home_is_a_folder_of_the_test(tmp_path: Path) -> None:
    assert Path.home() == tmp_path / "home"


def test_the_program_leaves_nothing_to_the_end_of_its_process() -> None:
    """A fork of the tests' zygote does at its end only what Python's own modules do, and so would miss it."""
    files = list(Path(runner.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    assert [file.name for file in files if "atexit" in file.read_text(encoding="utf-8")] == []
