"""One project's life with the real program: submitted, answered, collected, run again.

    with running_standin(folder) as server:
        project = Project.begin(folder, rows, server)
        project.submit()  ->  server.answer()  ->  project.collect()  ->  project.again()

The boundaries between phases are the program's own events (`run --json`), so nothing in it is changed or
called by other means than people use. What an event can't show is told in `README.md`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, Measured, measured, module, runner
from benchmarks.rows import SHORT_BODY_BYTES, Dataset, write_dataset, write_project

STILL_RUNNING = 75
_ANSWER_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Standin:
    """The server of this benchmark while it runs."""

    base_url: str

    def answer(self) -> int:
        """Make the answers of everything that was submitted; how many."""
        request = urllib.request.Request(f"{self.base_url}/answer", data=b"", method="POST")
        with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S) as reply:
            return int(json.loads(reply.read())["answered"])


@contextmanager
def running_standin(folder: Path) -> Iterator[Standin]:
    """A stand-in server with its files in `folder`; it ends with the block, or with this process."""
    process = subprocess.Popen(
        module("standin", str(folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield Standin(base_url=f"http://127.0.0.1:{port}/v1")
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with a manifest, and what the program keeps for it."""

    folder: Path
    dataset: Dataset
    manifest: Path
    server: Standin

    @classmethod
    def begin(
        cls,
        folder: Path,
        rows: int,
        server: Standin,
        *,
        body_bytes: int = SHORT_BODY_BYTES,
        output: str = "results.parquet",
        rows_of_files: int = 0,
    ) -> Project:
        """A new project; its rows are written, nothing is run. Its request files are as large as those for
        `rows_of_files`, if that is more rows."""
        folder.mkdir(parents=True)
        dataset = write_dataset(folder / "tickets.csv", rows, body_bytes=body_bytes)
        manifest = write_project(
            folder, dataset, base_url=server.base_url, output=output, rows_of_files=rows_of_files
        )
        return cls(folder=folder, dataset=dataset, manifest=manifest, server=server)

    def submit(self, *, core: int | None = None) -> Measured:
        """Plan, record, split, upload, create; what is answered later is left to `collect`."""
        return self._run("--detach", core=core, allowed=(STILL_RUNNING,))

    def collect(self, output: str | None = None) -> Measured:
        """Everything until the table is written."""
        return self._run(*(() if output is None else ("--set", f"output.path={output}")))

    def again(self, *words: str) -> Measured:
        """The same command once more."""
        return self._run(*words)

    def touch(self) -> None:
        """The dataset's file gets another time and keeps its bytes."""
        os.utime(self.dataset.path)

    def save_template_again(self) -> None:
        """Other bytes, the same prompts."""
        template = self.folder / "tickets.j2"
        template.write_text(template.read_text(encoding="utf-8") + "{# saved again #}\n", encoding="utf-8")

    def change_rows(self, every: int) -> Dataset:
        """Each so-manieth row, spread over the whole file, gets another body."""
        return write_dataset(
            self.dataset.path, self.dataset.rows, body_bytes=self.dataset.body_bytes, changed_every=every
        )

    def anew(self, folder: Path, server: Standin) -> Project:
        """Another project over the same rows, of which nothing is known yet."""
        folder.mkdir()
        os.link(self.dataset.path, folder / self.dataset.path.name)
        manifest = write_project(folder, self.dataset, base_url=server.base_url, output="results.parquet")
        return Project(folder=folder, dataset=self.dataset, manifest=manifest, server=server)

    def copy(self, folder: Path) -> Project:
        """This project as it stands, in another folder. Files that are never written in place are links."""
        shutil.copytree(self.folder, folder, copy_function=_copy_or_link)
        return Project(
            folder=folder, dataset=self.dataset, manifest=folder / self.manifest.name, server=self.server
        )

    @property
    def ledger_bytes(self) -> int:
        return (self.folder / ".runner" / "ledger.db").stat().st_size

    def _run(self, *words: str, core: int | None = None, allowed: tuple[int, ...] = (0,)) -> Measured:
        command = runner("run", self.manifest.name, "--json", "--yes", *words)
        return measured(command, cwd=self.folder, core=core, allowed=allowed)


def _copy_or_link(source: str, target: str) -> str:
    if Path(source).suffix in (".jsonl", ".parquet") and Path(source).name != "ids.jsonl":
        os.link(source, target)
        return target
    return str(shutil.copy2(source, target))
