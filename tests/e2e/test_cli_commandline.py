"""The program as a subprocess: help, version, misspelt words, exit codes, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner import __version__
from runner.cli.arguments import COMMAND_NAMES
from tests.project_factory import make_project
from tests.warm_program import run_warm

WAIT_S = 60.0
HEAVY = (
    "duckdb",
    "sqlalchemy",
    "alembic",
    "httpx",
    "jinja2",
    "jsonschema",
    "yaml",
    "starlette",
    "uvicorn",
    "rich.live",
    "rich.table",
    "multiprocessing",
    "asyncio",
)


def run_program(
    *words: str, cwd: Path, stdin: str = "", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m runner ...`, no terminal anywhere."""
    command = [sys.executable, "-m", "runner", *words]
    env = {**os.environ, **(environ or {})}
    if not stdin:
        return run_warm(command, cwd=cwd, timeout=WAIT_S, env=env)
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        env=env,
    )


def assert_no_traceback(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in done.stderr + done.stdout


# ---------------------------------------------------------------- help and version


@pytest.mark.parametrize("command", ["", *COMMAND_NAMES])
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    done = run_program(*command.split(), "-h" if command else "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Examples:\n" in done.stdout
    assert max(len(line) for line in done.stdout.split("\n")) <= 100


def test_version_names_the_version(tmp_path: Path) -> None:
    done = run_program("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"run {__version__}\n")


def test_nothing_at_all_shows_the_help_and_is_a_usage_mistake(tmp_path: Path) -> None:
    done = run_program(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: run MANIFEST...")


def test_help_loads_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from runner.cli.app import main\n"
        "code = main(['--help'])\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'loaded: {heavy}' if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- wrong words


def test_a_misspelt_command_gets_the_right_one(tmp_path: Path) -> None:
    done = run_program("validte", "x.yaml", "--exit-code", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: validte: no such file or command\nnext:  did you mean `run validate`?\n       (exit 2)\n"
    )


def test_a_misspelt_manifest_gets_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "triage.yaml").write_text("version: 1\n")
    done = run_program("trage.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: trage.yaml: no such file\n"
        "next:  did you mean `triage.yaml`?\n"
        "       (nothing was sent; exit 2)\n"
    )


def test_all_missing_manifests_are_named_at_once(tmp_path: Path) -> None:
    done = run_program("a.yaml", "nowhere/b.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: a.yaml: no such file\n"
        "error: nowhere/b.yaml: no such file; there is no folder `nowhere`\n"
        "       (nothing was sent; exit 2)\n"
    )


def test_a_command_after_options_is_told_its_place(tmp_path: Path) -> None:
    done = run_program("--quiet", "status", cwd=tmp_path)
    assert done.returncode == 2
    assert "the command comes first: `run status ...`" in done.stderr


def test_a_file_named_like_a_command_needs_its_path(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("version: 1\n")
    done = run_program("./plan", cwd=tmp_path)
    assert done.returncode == 2
    assert "plan:1:" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--jsn", "m.yaml"),
        ("m.yaml", "--wait", "soon"),
        ("m.yaml", "--limit", "0"),
        ("m.yaml", "--set", "model.name"),
        ("plan",),
        ("plan", "a.yaml", "b.yaml"),
        ("results", "m.yaml", "--format", "xls"),
        ("status", "nothing.yaml"),
        ("local-server", "--settings", "none.json"),
        ("local-server", "--port", "many"),
        ("validate", "."),
        ("run", ""),
        ("\udcff\x1b[31m.yaml",),
    ],
)
def test_wrong_words_end_with_2_and_a_short_text(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_program(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.rstrip().endswith("exit 2)")
    assert "\x1b" not in done.stderr
    assert done.stdout == ""
    assert_no_traceback(done)


def test_with_json_the_error_is_the_last_object_on_stdout(tmp_path: Path) -> None:
    done = run_program("m.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    event = json.loads(done.stdout)
    assert (event["event"], event["exit_code"], event["what"]) == ("error", 2, "m.yaml: no such file")
    assert done.stderr.startswith("error: m.yaml: no such file")


# ---------------------------------------------------------------- streams


def test_a_reader_who_leaves_ends_a_listing_quietly(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m runner schema; echo "code $?" >&2'
    done = subprocess.run(
        ["bash", "-c", f"({command}) | head -c 10"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.stdout == '{\n  "$sche'
    assert done.stderr == "code 0\n"


def test_a_closed_stdout_is_an_error_with_a_name_and_stops_no_run(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    def closed(command: str) -> tuple[int, str]:
        shell = f'"{sys.executable}" -m runner {command} >&-'
        done = subprocess.run(
            shell, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=WAIT_S, check=False
        )
        return done.returncode, done.stderr

    code, said = closed("run manifest.yaml --json")
    assert (code, said.partition(";")[0]) == (0, "warning: standard output is closed")
    assert [row["_status"] for row in project.results()] == ["succeeded"] * 5
    for command in ("schema", "status", "plan manifest.yaml", "results manifest.yaml", "plan x.yaml --json"):
        code, said = closed(command)
        assert code == (2 if "x.yaml" in command else 1)
        assert said.startswith("error: x.yaml" if "x.yaml" in command else "error: standard output is closed")
        assert "Traceback" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_is_an_error_with_a_name(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "runner", "schema"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: can't write to standard output: No space left on device\n")


def test_closed_streams_are_no_fault(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m runner nothing.yaml 2>&-; echo $?'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.stdout == "2\n"


def test_data_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    done = run_program("schema", cwd=tmp_path, environ={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert json.loads(done.stdout)["title"]


# ---------------------------------------------------------------- init, schema, local-server


def test_init_makes_a_project_and_never_overwrites(tmp_path: Path) -> None:
    first = run_program("init", "new", cwd=tmp_path)
    assert first.returncode == 0
    assert first.stderr == (
        "created  new/reviews.yaml\n"
        "created  new/templates/reviews.j2\n"
        "created  new/data/reviews.csv\n"
        "created  new/manifest.schema.json\n"
        "next:    run new/reviews.yaml\n"
    )
    (tmp_path / "new/templates/reviews.j2").write_text("mine")
    (tmp_path / "new/data/reviews.csv").unlink()
    second = run_program("init", "new", cwd=tmp_path)
    assert second.returncode == 2
    assert "new/templates/reviews.j2: exists already" in second.stderr
    assert (tmp_path / "new/templates/reviews.j2").read_text() == "mine"
    assert not (tmp_path / "new/data/reviews.csv").exists()


def test_init_names_a_file_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/data").write_text("")
    assert "taken: is a file, not a folder" in run_program("init", "taken", cwd=tmp_path).stderr
    done = run_program("init", "half", cwd=tmp_path)
    assert "half/data: is a file, but a folder is needed" in done.stderr
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == ["data"]


def test_the_starter_is_valid_and_names_a_schema_that_is_there(tmp_path: Path) -> None:
    run_program("init", cwd=tmp_path)
    first_line = (tmp_path / "reviews.yaml").read_text().split("\n")[0]
    schema = tmp_path / first_line.partition("$schema=")[2]
    assert json.loads(schema.read_text()) == json.loads(run_program("schema", cwd=tmp_path).stdout)
    done = run_program("validate", "reviews.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("reviews.yaml: valid\n  rows    8\n")


def test_a_manifest_that_is_not_there_hides_no_mistake_of_another(tmp_path: Path) -> None:
    run_program("init", cwd=tmp_path)
    (tmp_path / "templates" / "reviews.j2").unlink()
    done = run_program("validate", "nofile.yaml", "reviews.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: nofile.yaml: no such file" in done.stderr
    assert "prompt.template: there is no file" in done.stderr


def test_the_local_server_says_where_it_is_and_stops_in_order(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "runner",
                "local-server",
                "--port",
                "0",
                "--state",
                str(tmp_path / "state"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("http://127.0.0.1:")
            time_out_at = time.monotonic() + WAIT_S
            server.send_signal(number)
            _, said = server.communicate(timeout=time_out_at - time.monotonic())
        finally:
            server.kill()
            server.wait(WAIT_S)
        assert server.returncode == 0
        assert said.startswith("listening on http://127.0.0.1:")
        assert "Traceback" not in said


def test_an_address_in_use_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_program("local-server", "--port", port, "--state", "state", cwd=tmp_path)
    assert done.returncode == 2
    assert f"--port: another program listens on 127.0.0.1:{port} already" in done.stderr
    assert "`--port 0`" in done.stderr
    assert_no_traceback(done)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--upstream", "notaurl", "--upstream: upstream must be an http or https URL, got 'notaurl'"),
        ("--upstream", "http://[::1", "--upstream: upstream must be an http or https URL"),
        ("--upstream", "http://host:many/v1", "--upstream: upstream must be an http or https URL"),
        ("--port", "70000", "can't listen on 127.0.0.1:70000"),
        ("--host", "no.such.host.invalid", "can't listen on no.such.host.invalid:0"),
    ],
)
def test_a_local_server_that_can_not_be_is_a_wrong_command_line(
    option: str, value: str, told: str, tmp_path: Path
) -> None:
    options = {"--port": "0", "--state": "state", option: value}
    done = run_program("local-server", *(word for pair in options.items() for word in pair), cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert_no_traceback(done)


# ---------------------------------------------------------------- faults of our own


def test_an_unexpected_error_is_a_log_file_and_three_lines(tmp_path: Path) -> None:
    (tmp_path / ".runner").mkdir()
    code = (
        "import sys\n"
        "import runner.commands.schema as room\n"
        "def broken():\n"
        "    raise ValueError('no \\x1b[31mgood sk-hidden-1')\n"
        "room.schema = broken\n"
        "from runner.cli.app import main\n"
        "sys.exit(main(['schema']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        env={**os.environ, "SOME_API_KEY": "sk-hidden-1"},
    )
    assert done.returncode == 1
    [log] = (tmp_path / ".runner/logs").iterdir()
    assert done.stderr == (
        f"error: internal error: ValueError: no good <SOME_API_KEY>; details in {log}\n"
        "next:  please report it with that file; the same command is safe to repeat\n"
        "       (exit 1)\n"
    )
    assert "in broken" in log.read_text()
    assert "sk-hidden-1" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
