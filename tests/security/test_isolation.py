"""`--isolated`: a template with Python in its hands reaches nothing, and one without behaves as ever."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.commands.explain import explain
from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions, RunOptions
from runner.commands.plan import plan
from runner.core.model import Cause
from runner.errors import InputError
from runner.prompt import Prompt, PromptSource, isolated
from runner.prompt.confinement import ConfinementError, confine
from runner.prompt.isolated import IsolatedPrompt, _EndedError
from tests.contract.prompt_factories import write_templates
from tests.localserver_process import eventually
from tests.project_factory import ROWS, Project, make_project
from tests.security.sandbox_holes import Hole

MAX_OUTPUT_BYTES = 100_000
ROOT = Path(__file__).parents[2]


def source_of(folder: Path, files: Mapping[str, str], *, is_isolated: bool, **params: Any) -> PromptSource:
    folder.mkdir(exist_ok=True)
    write_templates(folder, files)
    return PromptSource(
        template=str(folder / "main.j2"),
        search_root=str(folder),
        params=params,
        max_output_bytes=MAX_OUTPUT_BYTES,
        is_isolated=is_isolated,
    )


# ---------------------------------------------------------------- behind the walls


@pytest.fixture
def broken(tmp_path: Path) -> Prompt:
    """An isolated prompt whose sandbox has a hole."""
    return source_of(tmp_path / "t", {"main.j2": "{{ code }}"}, is_isolated=True, hole=Hole()).compile()


def said(prompt: Prompt, code: str) -> str:
    outcome = prompt.render({"code": code})
    assert not isinstance(outcome, Cause), outcome
    return outcome[0].content


def test_the_hole_of_these_tests_runs_python(broken: Prompt) -> None:
    assert said(broken, "found = 6 * 7") == "42"
    assert said(broken, "import os; found = os.getpid()") != str(os.getpid())


FORBIDDEN = (
    "found = open('/proc/{pid}/environ').read()",
    "found = open('/proc/{pid}/mem', 'rb').read(1)",
    "found = open('/proc/self/environ').read()",
    "found = open('{elsewhere}').read()",
    "import os; found = os.listdir('{folder}')",
    "found = open('{template}', 'a').write('x')",
    "found = open('{template}.new', 'w').write('x')",
    "import os; found = os.unlink('{template}')",
    "import os; found = os.rename('{template}', '{template}2')",
    "import os; found = os.chmod('{template}', 0o777)",
    "import os; found = os.symlink('{elsewhere}', '{template}3')",
    "import socket; found = socket.socket().connect(('127.0.0.1', {port}))",
    "import socket; found = socket.socket(socket.AF_UNIX)",
    "import subprocess; found = subprocess.run(['/bin/true'])",
    "import os; found = os.posix_spawn('/bin/true', ['true'], {})",
    "import os; found = os.fork()",
    "import os; found = os.kill({pid}, 0)",
    "import signal; found = signal.pidfd_send_signal(0, 0)",
    "import mmap; found = mmap.mmap(-1, 4096, prot=7)",
)


@pytest.mark.parametrize("code", FORBIDDEN)
def test_python_in_the_hands_of_a_template_reaches_nothing(broken: Prompt, tmp_path: Path, code: str) -> None:
    elsewhere = tmp_path / "secret"
    elsewhere.write_text("secret")
    template = tmp_path / "t" / "main.j2"
    mode = template.stat().st_mode
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = {
            "{elsewhere}": str(elsewhere),
            "{folder}": str(tmp_path),
            "{template}": str(template),
            "{port}": str(server.getsockname()[1]),
            "{pid}": str(os.getpid()),
        }
        for name, value in places.items():
            code = code.replace(name, value)
        assert said(broken, code) in ("PermissionError", "ImportError")  # no machine code is loaded either
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["main.j2"]
    assert (template.read_text(), template.stat().st_mode) == ("{{ code }}", mode)


def test_its_memory_is_bounded_as_a_whole(broken: Prompt) -> None:
    assert said(broken, "found = len(bytes(64 << 20))") == str(64 << 20)
    assert said(broken, "found = [bytes(64 << 20) for _ in range(64)]") == "MemoryError"


def test_a_template_may_be_read_by_its_process(broken: Prompt, tmp_path: Path) -> None:
    assert said(broken, f"found = open('{tmp_path / 't' / 'main.j2'}').read()") == "{{ code }}"


def test_its_environment_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setenv("ANYTHING", "canary")
    prompt = source_of(tmp_path, {"main.j2": "{{ code }}"}, is_isolated=True, hole=Hole()).compile()
    assert "canary" not in said(prompt, "import os; found = dict(os.environ)")


# ---------------------------------------------------------------- a process that does not survive a row


NONSENSE = """
import os
for n in range(3, 64):
    try: os.write(n, b'\\xff' * 99)
    except OSError: pass
"""


@pytest.mark.parametrize("code", ["import os; os._exit(3)", "import ctypes; ctypes.string_at(0)", NONSENSE])
def test_a_row_that_ends_its_process_has_that_as_its_cause_and_the_next_is_rendered(
    broken: Prompt, code: str
) -> None:
    outcome = broken.render({"code": code})
    assert isinstance(outcome, Cause)
    assert outcome.error_class == "template_error"
    assert "isolated process" in outcome.message
    assert said(broken, "found = 1") == "1"


def test_a_row_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "PATIENCE_S", 3.0)  # of which a slow machine may need one to compile
    prompt = source_of(tmp_path, {"main.j2": "{{ code }}"}, is_isolated=True, hole=Hole()).compile()
    outcome = prompt.render({"code": "while True: pass"})
    assert isinstance(outcome, Cause)
    assert "was ended by signal 14" in outcome.message
    assert said(prompt, "found = 1") == "1"


def test_when_row_after_row_ends_its_process_the_rest_is_not_tried(broken: Prompt) -> None:
    for _ in range(isolated._MOST_DEATHS):
        broken.render({"code": "import os; os._exit(3)"})
    outcome = broken.render({"code": "found = 1"})
    assert isinstance(outcome, Cause)
    assert "not tried" in outcome.message


def test_no_process_stays_when_a_prompt_is_let_go_of(tmp_path: Path) -> None:
    prompt = source_of(tmp_path, {"main.j2": "{{ code }}"}, is_isolated=True, hole=Hole()).compile()
    pid = int(said(prompt, "import os; found = os.getpid()"))
    assert Path(f"/proc/{pid}").exists()
    del prompt
    assert not Path(f"/proc/{pid}").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("user") | st.just("cause"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("cause"), inner)
    ),
    max_leaves=10,
)


@given(answer=JSON)
def test_whatever_a_process_says_is_messages_a_cause_or_its_end(answer: Any) -> None:
    prompt = IsolatedPrompt.__new__(IsolatedPrompt)
    prompt._process = None
    prompt.source = PromptSource(template="t", search_root=None, params={}, max_output_bytes=10)
    try:
        outcome = prompt._outcome(answer)
    except _EndedError:
        return
    if isinstance(outcome, Cause):
        assert isinstance(outcome.message, str)
    else:
        assert outcome
        assert all(one.role in ("system", "user", "assistant") for one in outcome)
        assert sum(len(one.content.encode("utf-8", "surrogatepass")) for one in outcome) <= 10


def test_a_link_among_the_templates_opens_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "templates").symlink_to(tmp_path / "secret")
    prompt = source_of(folder, {"main.j2": "{{ code }}"}, is_isolated=True, hole=Hole()).compile()
    assert said(prompt, f"found = open({str(tmp_path / 'secret' / 'file')!r}).read()") == "PermissionError"


def test_an_answer_that_drips_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = source_of(tmp_path, {"main.j2": "{{ code }}"}, is_isolated=True, hole=Hole()).compile()
    monkeypatch.setattr(isolated, "PATIENCE_S", 0.3)  # only now: its process may start slowly
    monkeypatch.setattr(isolated, "_ENDS_WITHIN_S", 0.3)
    drip = """
import os, signal, time
signal.setitimer(signal.ITIMER_REAL, 0)
for n in range(3, 64):
    try:
        os.write(n, (1000).to_bytes(8, "little"))
        break
    except OSError: pass
for _ in range(1000):
    time.sleep(0.05)
    os.write(n, b"x")
"""
    begun_s = time.monotonic()
    outcome = prompt.render({"code": drip})
    assert isinstance(outcome, Cause)
    assert time.monotonic() - begun_s < 30


def test_a_process_ends_with_the_one_that_started_it_whatever_it_does(tmp_path: Path) -> None:
    source_of(tmp_path / "t", {"main.j2": "{{ code }}"}, is_isolated=True)
    code = f"""
import os, signal, threading, time
from runner.prompt import PromptSource
from tests.security.sandbox_holes import Hole
prompt = PromptSource(template={str(tmp_path / "t" / "main.j2")!r}, search_root=None, params={{"h": Hole()}},
                      max_output_bytes=1000, is_isolated=True).compile()
print(prompt.render({{"code": "import os; found = os.getpid()"}})[0].content, flush=True)
stays = "import signal, time; signal.setitimer(signal.ITIMER_REAL, 0)\\nwhile True: time.sleep(0.1)"
threading.Thread(target=prompt.render, args=({{"code": stays}},), daemon=True).start()
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    eventually(lambda: not Path(f"/proc/{child}").exists(), wait_s=10, what="the end of the child")


# ---------------------------------------------------------------- a system without walls


def test_a_machine_that_is_not_known_is_refused_before_anything_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfinementError, match="riscv64"):
        confine([], memory_bytes=1 << 30)


def test_walls_that_are_not_there_are_found_out() -> None:
    code = (
        "from runner.prompt import confinement\n"
        "try: confinement.probe()\n"
        "except confinement.ConfinementError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "do not hold: it can open a socket" in done.stdout
    assert "start a process" in done.stdout


# ---------------------------------------------------------------- the same prompts

FAMILIES: tuple[Mapping[str, str], ...] = (
    {"main.j2": "{{ text }} {{ params.tone }} {{ row['n'] }}"},
    {"main.j2": "{% block system %}{{ params.tone }}{% endblock %}{% block user %}{{ text }}{% endblock %}"},
    {"main.j2": "{% include 'part.j2' %}{% for x in xs %}{{ x }},{% endfor %}", "part.j2": "p {{ n }}"},
    {
        "main.j2": "{% import 'lib.j2' as lib %}{{ lib.say(text) }}",
        "lib.j2": "{% macro say(t) %}<{{ t }}>{% endmacro %}",
    },
    {"main.j2": "{{ run.started_at }} {{ text }}"},
    {"main.j2": "{{ nobody }}"},
    {"main.j2": "{{ text|truncate(3) }}{{ '\\ud800' }}"},
    {"main.j2": "{{ text"},
    {"main.j2": "{% include 'none.j2' %}{{ params.nothing }}"},
)
SAME_ROWS: tuple[dict[str, Any], ...] = (
    {"text": "a\u2028ü\0", "n": 1, "xs": [1, None, "x"]},
    {"text": None, "n": 2**70, "xs": []},
    {"text": "\ud800", "n": 1.5, "xs": [b"\xff"]},
    {"text": "x" * (MAX_OUTPUT_BYTES + 1), "n": 0, "xs": []},
)


def looked_at(source: PromptSource) -> Any:
    """Everything that a prompt says of itself and of rows, or its mistakes."""
    columns = ["text", "n", "xs", "row"]
    try:
        prompt = source.compile(columns)
    except InputError as error:
        return [str(one) for one in error.mistakes], error.next_step
    return (
        [prompt.render(row) for row in SAME_ROWS],
        prompt.check(columns),
        prompt.check(None),
        prompt.warnings(columns),
        prompt.variables(),
        prompt.columns(),
        prompt.reads_whole_row(),
        prompt.times_read(columns),
        prompt.times_read([]),
        prompt.files(),
        prompt.digest(),
        prompt.source.texts,
    )


@pytest.mark.parametrize("files", FAMILIES)
def test_an_isolated_prompt_is_the_same_prompt(tmp_path: Path, files: Mapping[str, str]) -> None:
    plain, shut_in = (
        looked_at(source_of(tmp_path, files, is_isolated=is_isolated, tone="kind"))
        for is_isolated in (False, True)
    )
    assert shut_in == plain


def test_a_link_out_of_the_templates_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.j2").write_text("secret")
    source = source_of(tmp_path / "t", {"main.j2": "{% include 'part.j2' %}"}, is_isolated=True)
    (tmp_path / "t" / "part.j2").symlink_to(tmp_path / "secret.j2")
    with pytest.raises(InputError, match="not found"):
        source.compile()


# ---------------------------------------------------------------- whole runs


def executed(project: Project) -> int:
    return len(project.witness.executions())


def test_an_isolated_run_asks_the_same_requests_and_writes_the_same_table(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = project.run("--isolated")
    assert done.code == 0, done.stderr
    table = project.results()
    assert executed(project) == len(ROWS)
    again = project.run()
    assert (again.code, again.event("finished")["requests_sent"]) == (0, 0), "the requests are the same"
    assert project.results() == table


def test_what_was_isolated_is_explained_behind_the_same_walls(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    assert project.run("--isolated").code == 0
    [(document,)] = project.ledger("SELECT document FROM run")
    assert json.loads(document)["manifest"]["isolated"] is True
    shown = json.loads(project.call("explain", str(project.manifest_path), ROWS[0]["id"], "--json").stdout)
    assert ROWS[0]["text"] in shown["prompt"][-1]["content"]
    assert shown["edited_since"] == []


def test_an_isolated_manifest_stays_in_its_project(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", output={"path": str(tmp_path / "elsewhere" / "results.jsonl")})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rows.csv").write_text("id,text\nx,secret\n")
    (project.folder / "linked.csv").symlink_to(tmp_path / "rows.csv")
    project.manifest_path.write_text(
        project.manifest_path.read_text().replace("rows.csv", "linked.csv"), encoding="utf-8"
    )
    done = project.run("--isolated")
    assert done.code == 2
    assert done.stderr.count("lies outside the project") == 2, done.stderr
    assert not (project.state / "server.db").exists()
    allowed = project.run("--isolated", "--allow-path", str(tmp_path))
    assert allowed.code == 0, allowed.stderr
    assert (tmp_path / "elsewhere" / "results.jsonl").exists()


OWN_SERVER = {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "SOME_KEY"}
OTHER_KEY = {"name": "doubleword", "api_key_env": "SOME_KEY"}


@pytest.mark.parametrize(
    ("provider", "said", "confirmed"),
    [
        (OWN_SERVER, "SOME_KEY would go to http://127.0.0.1:1/v1", "base_url=http://127.0.0.1:1/v1"),
        (OTHER_KEY, "this manifest chose SOME_KEY for the key", "api_key_env=SOME_KEY"),
    ],
)
def test_an_isolated_manifest_chooses_no_server_for_a_key_and_no_key_for_a_server(
    tmp_path: Path, provider: Mapping[str, str], said: str, confirmed: str
) -> None:
    project = make_project(tmp_path / "p", model={"provider": provider, "name": "m"})
    validate = ("validate", str(project.manifest_path))
    assert project.call(*validate).code == 0
    for options in ((), ("--set", "model.provider.poll_interval_s=5")):
        done = project.call(*validate, "--isolated", *options)
        assert (done.code, said in done.stderr) == (2, True), done.stderr
    assert project.call(*validate, "--isolated", "--set", f"model.provider.{confirmed}").code == 0


def test_an_isolated_manifest_reads_no_variable(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", prompt={"template": "prompt.j2", "params": {"x": "${OPENAI_KEY}"}})
    project.environ["OPENAI_KEY"] = "canary"
    validate = ("validate", str(project.manifest_path))
    assert project.call(*validate).code == 0
    done = project.call(*validate, "--isolated")
    assert (done.code, "canary" in done.stderr) == (2, False)
    assert "environment variable OPENAI_KEY is not told to an isolated manifest" in done.stderr
    assert project.call(*validate, "--isolated", "--set", "prompt.params.x=given").code == 0


def test_an_isolated_manifest_has_no_parent_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("version: 1\nprompt: {params: {secret: hunter2}}\n")
    project = make_project(tmp_path / "p", extends="../base.yaml")
    (project.folder / ".runner").mkdir()  # else the parent's folder would not be outside
    done = project.run("--isolated")
    assert (done.code, "base.yaml lies outside the project" in done.stderr) == (2, True), done.stderr


def test_an_isolated_project_has_no_ledger_elsewhere(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    (tmp_path / "elsewhere").mkdir()
    (project.folder / ".runner").symlink_to(tmp_path / "elsewhere")
    done = project.run("--isolated")
    assert (done.code, "leads out of the project" in done.stderr) == (2, True), done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_prompts_of_a_run_that_was_not_isolated_are_isolated_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may ship the ledger, too."""
    project = make_project(tmp_path / "p")
    assert project.run().code == 0
    project.write_template("{{ text }}!")
    made: list[PromptSource] = []
    compile_here = PromptSource.compile_here

    def noted(source: PromptSource, columns: Any = None) -> Any:
        made.append(source)
        return compile_here(source, columns)

    monkeypatch.setattr(PromptSource, "compile_here", noted)
    options = ManifestOptions(path=str(project.manifest_path), is_isolated=True)
    environ = dict(os.environ)
    shown = explain(options, ROWS[0]["id"], environ=environ, cwd=str(project.folder))
    assert shown.prompt is not None
    found = plan(RunOptions(manifest=options, environ=environ), reporter=Silent(), most_examples=2)
    assert found.examples
    assert made == [], "no template was looked at in this process"
    explain(replace(options, is_isolated=False), ROWS[0]["id"], environ=environ, cwd=str(project.folder))
    assert made, "what this test watches is used"


def test_a_plan_that_was_made_isolated_is_carried_out_so(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    plan = project.folder / "plan.json"
    made = project.call("plan", str(project.manifest_path), "--isolated", "-o", str(plan))
    assert made.code == 0, made.stderr
    assert project.call("apply", str(plan), "--json").code == 0
    [(document,)] = project.ledger("SELECT document FROM run")
    assert json.loads(document)["manifest"]["isolated"] is True


def test_an_allowed_path_alone_is_a_mistake(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = project.run("--allow-path", str(tmp_path))
    assert (done.code, "--allow-path: does nothing without --isolated" in done.stderr) == (2, True)
