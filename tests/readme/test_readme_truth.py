"""The README is true: its files, outputs, commands, keys, columns and exit codes are those of the program.

The quickstart is run by a real interpreter, as a reader runs it; what comes after it by warm ones, because
how the program starts was seen then.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runner import errors
from runner.cli.arguments import COMMAND_NAMES
from runner.core.model import Status
from runner.manifest import schema
from runner.results import lineage_columns
from tests.project_factory import RUN_TIMEOUT_S, Done
from tests.warm_program import run_warm

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def marked(mark: str) -> str:
    """The fenced block behind `<!-- mark -->`."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found is not None, mark
    return found[1]


def table(mark: str) -> list[list[str]]:
    """The cells of the rows of the table behind `<!-- mark -->`."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", README)
    assert found is not None, mark
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def call(folder: Path, *arguments: str) -> Done:
    done = run_warm(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        timeout=RUN_TIMEOUT_S,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def call_cold(folder: Path, *arguments: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A copy of the examples in which the quickstart has run once."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("manifests", "templates"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "pyproject.toml").touch()
    shutil.copy(folder / "manifests/extract.yaml", folder / "manifest.yaml")
    text = (folder / "manifest.yaml").read_text().replace("../", "").replace("data/", "manifests/data/")
    text = text.replace("results/extract", "results/manifest")  # a table of its own
    profile = 'schedule: {cron: "17 2 * * 1-5"}\nprofiles: {prod: {batch: {completion_window: 1h}}}\n'
    (folder / "manifest.yaml").write_text(
        text.replace("prompt:\n", "prompt:\n  params: {tone: plain}\n") + profile
    )
    template = folder / "templates/classify.j2"
    template.write_text(template.read_text().replace("Package ", "In a {{ params.tone }} way. Package "))
    for name in ("manifest.yaml", "manifests/extract.yaml"):
        path = folder / name
        if "params" not in path.read_text():
            path.write_text(path.read_text().replace("prompt:\n", "prompt:\n  params: {tone: plain}\n"))
    return folder, call_cold(folder, "manifests/quickstart.yaml")


def test_the_shell_blocks_install_run_and_test() -> None:
    """`.ci/run` takes the first two from the README and runs them; the third needs no more than a look."""
    first, second, third = blocks("sh")
    assert first.strip().endswith(".venv/bin/run manifests/quickstart.yaml")
    assert "[test]" in second
    assert "pytest" in second
    assert third.strip() == ". .venv/bin/activate"


def normalised(text: str) -> list[str]:
    """Ids and times replaced; the lines that tell of progress in between left out."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    text = re.sub(r"run [0-9a-f]{8}", "run ID", text)
    text = re.sub(r"[\d.]+ s$", "N s", text, flags=re.MULTILINE)
    return [line for line in text.splitlines() if not re.match(r"batch \d+: ", line)]


QUICKSTART = "run manifests/quickstart.yaml"
SHOWN_OUTPUTS = re.findall(r"<!-- output: (run .+) -->", README)


def test_the_progress_that_is_shown_is_the_progress(quickstart: tuple[Path, Done]) -> None:
    folder, done = quickstart
    assert done.code == 0, done.stderr
    assert normalised(done.stderr) == normalised(marked(f"output: {QUICKSTART}"))
    assert (folder / "results/quickstart.parquet").exists()


@pytest.mark.parametrize("command", [one for one in SHOWN_OUTPUTS if one != QUICKSTART])
def test_the_output_that_is_shown_is_the_output(quickstart: tuple[Path, Done], command: str) -> None:
    folder, _ = quickstart
    done = call(folder, *shlex.split(command)[1:])
    assert done.code == 0, done.stderr
    assert normalised(done.stdout) == normalised(marked(f"output: {command}"))


@pytest.mark.parametrize("path", re.findall(r"<!-- file: (\S+) -->", README))
def test_a_file_that_is_shown_is_the_file(path: str) -> None:
    assert marked(f"file: {path}") == (ROOT / path).read_text()


def test_the_commands_are_the_programs() -> None:
    shown = {cells[0].strip("`").removeprefix("run ").split()[0]: cells[1] for cells in table("commands")}
    shown["run"] = shown.pop("MANIFEST...")
    assert set(shown) == set(COMMAND_NAMES)
    helped = subprocess.run(
        [sys.executable, "-m", "runner", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for name, what in shown.items():
        assert re.search(rf"^  {name}\s+{re.escape(what)}$", helped, re.MULTILINE), (name, what)


def leaves(node: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted paths of what the schema lets one write."""
    for name, child in node["properties"].items():
        while "$ref" in child:
            child = root["$defs"][child["$ref"].rpartition("/")[2]]
        here = f"{path}.{name}" if path else name
        is_open = here in ("profiles", "model.parameters", "model.prices", "prompt.params")
        if "properties" in child and not is_open:
            yield from leaves(child, root, here)
        else:
            yield here


def defaults(node: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths that have a default, with it."""
    for name, child in node["properties"].items():
        while "$ref" in child:
            child = root["$defs"][child["$ref"].rpartition("/")[2]]
        here = f"{path}.{name}" if path else name
        if "default" in child:
            yield here, child["default"]
        if "properties" in child and here != "profiles":
            yield from defaults(child, root, here)


def test_the_keys_are_the_schemas() -> None:
    root = schema()
    shown = {word for cells in table("keys") for word in code_words(cells[0])}
    assert shown == set(leaves(root, root))
    (provider,) = [cells[1] for cells in table("keys") if "model.provider" in cells[0]]
    assert set(root["$defs"]["provider"]["properties"]) <= set(code_words(provider))


def test_the_columns_are_the_tables() -> None:
    shown = [word for cells in table("columns") for word in code_words(cells[0])]
    written = [column.name for column in lineage_columns(None, "", embeddings=True)]
    assert sorted(shown) == sorted(written)


def test_the_states_of_a_row_are_the_programs() -> None:
    (cell,) = [cells[1] for cells in table("columns") if cells[0] == "`_status`"]
    assert code_words(cell) == [status.value for status in Status]


def test_the_defaults_are_the_schemas() -> None:
    root = schema()
    shown = {word: cells[2].strip("` ") for cells in table("keys") for word in code_words(cells[0])}
    checked = 0
    for path, default in defaults(root, root):
        if path in shown and path != "model.endpoint":
            assert shown[path] == json.dumps(default).strip('"'), path
            checked += 1
    assert checked >= 6
    (endpoint,) = [cells for cells in table("keys") if cells[0] == "`model.endpoint`"]
    allowed = root["$defs"]["model"]["properties"]["endpoint"]
    assert code_words(endpoint[1]) == allowed["enum"]
    assert (endpoint[2], allowed["default"]) == ("the first", allowed["enum"][0])


def test_what_is_kept_is_what_is_told(quickstart: tuple[Path, Done]) -> None:
    folder, _ = quickstart
    section = README.split("### What is kept, and where")[1].split("\n## ")[0]
    held = {path.name for path in (folder / ".runner").iterdir()}
    told = {word.rstrip("/") for word in code_words(section)}
    extra = {"ledger.db-wal", "ledger.db-shm", ".gitignore"}
    assert held - extra <= told


def test_the_exit_codes_are_the_programs() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    section = README.split("### Exit codes")[1].split("###")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == codes


def shell_commands() -> list[str]:
    """Each `$ ...` line of the console blocks, without its comment."""
    return [
        " ".join(shlex.split(line[2:], comments=True, posix=False))
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


RUNS_BEFORE = {"results": 1, "explain": 1, "diff": 2}
NOTHING_HELD = (2,)
EXPECTED_CODES = {
    "--detach": (75,),
    "--exit-code": (0, 10),
    **dict.fromkeys(("--adopt", "--resubmit", "--abandon"), NOTHING_HELD),
}


SERVING = ("run local-server", "run schedule serve")


@pytest.mark.parametrize(
    "command",
    [line for line in shell_commands() if line.startswith("run ") and not line.startswith(SERVING)],
)
def test_every_command_of_the_readme_works(quickstart: tuple[Path, Done], command: str) -> None:
    folder, _ = quickstart
    arguments = shlex.split(command)[1:]
    if arguments[0] == "init":
        shutil.rmtree(folder / "my-project", ignore_errors=True)
    elif arguments[-1].startswith("my-project/") and not (folder / "my-project").exists():
        assert call(folder, "init", "my-project").code == 0
    elif arguments[0] == "apply":  # another process may have tried the command before it
        assert call(folder, "plan", "manifest.yaml", "-o", arguments[1]).code == 0
    for _ in range(RUNS_BEFORE.get(arguments[0], 0)):
        assert call(folder, arguments[1]).code == 0
    arguments = [argument for argument in arguments if argument != "--watch"]
    done = call(folder, *arguments)
    allowed = next((codes for option, codes in EXPECTED_CODES.items() if option in arguments), (0,))
    assert done.code in allowed, (done.code, done.stderr)
    assert "Traceback" not in done.stderr


def test_the_ledger_can_be_asked_as_shown(quickstart: tuple[Path, Done]) -> None:
    folder, _ = quickstart
    (line,) = [line for line in shell_commands() if line.startswith("sqlite3")]
    _, path, sql = shlex.split(line)
    with closing(sqlite3.connect(folder / path)) as connection:
        columns = [column[0] for column in connection.execute(sql).description]
    assert columns == ["key", "status", "batch_id", "error_message"]


def test_the_python_that_is_shown_runs(quickstart: tuple[Path, Done]) -> None:
    folder, _ = quickstart
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("quickstart 0 300 ")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "manifests").glob("*.yaml")))
def test_every_example_is_valid_and_names_its_schema(quickstart: tuple[Path, Done], name: str) -> None:
    folder, _ = quickstart
    assert call(folder, "validate", f"manifests/{name}").code == 0
    first = (ROOT / "manifests" / name).read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../runner/manifest/schema.json"


def test_the_printed_schema_is_the_one_that_editors_read(quickstart: tuple[Path, Done]) -> None:
    folder, _ = quickstart
    printed = json.loads(call(folder, "schema").stdout)
    assert printed == json.loads((ROOT / "runner/manifest/schema.json").read_text())
