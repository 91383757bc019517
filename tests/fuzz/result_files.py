"""Result files read into a real ledger, download after download: nothing is lost, nothing gets worse.

An example is a list of downloads, each a list of lines; `@0` to `@3` in a line stand for the custom_ids of
the shard that reads it. Judged after each download: what was held is as good as before or better, an
answer stands in its raw file byte for byte, and every line that came is somewhere in the raw file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from runner.commands.collecting import ShardBook
from runner.core.model import Download, Status
from runner.core.settling import is_better
from runner.core.states import Submission
from runner.ledger import Expected, RawFile
from tests.contract.ledger_factories import Project, to_send
from tests.fuzz.mutation import mutated, shaken
from tests.fuzz.wire_objects import BODIES, ERRORS, answer_line, error_line

ROWS = 4
_SHARDS_AT_ONCE = 50


@dataclass(frozen=True)
class FilesExample:
    """Kind (`output` or `error`) and bytes of each download."""

    downloads: tuple[tuple[str, bytes], ...]


def make_files(random: Random) -> FilesExample:
    """Two to four downloads, of which some repeat, shorten or change earlier ones."""
    downloads: list[tuple[str, bytes]] = []
    for _ in range(random.randrange(2, 5)):
        if downloads and random.random() < 0.3:
            kind, data = random.choice(downloads)
            downloads.append((kind, shaken(random, data) if random.random() < 0.5 else data))
            continue
        lines = [_line(random) for _ in range(random.randrange(ROWS + 2))]
        downloads.append((random.choice(("output", "output", "error")), b"".join(lines)))
    return FilesExample(tuple(downloads))


def _line(random: Random) -> bytes:
    custom_id = f"@{random.randrange(ROWS)}" if random.random() < 0.95 else random.choice(("", "@", "other"))
    value = (
        answer_line(custom_id, random.choice(BODIES))
        if random.random() < 0.6
        else error_line(custom_id, random.choice(ERRORS))
    )
    chance = random.random()
    if chance < 0.5:
        custom = value["custom_id"]
        changed = mutated(random, value)
        value = {**changed, "custom_id": custom} if isinstance(changed, dict) else value
    data = json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "replace")
    end = random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b""))
    return (shaken(random, data) if chance > 0.9 else data) + end


class ResultFiles:
    """A ledger with shards of four requests each, used one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._project = Project.open(folder)
        self._project.ledger.place.prepare()
        self._ready: list[Submission] = []
        self._made = 0

    def judge(self, example: FilesExample) -> str:
        """`stored` where something was, else `nothing`."""
        submission = self._next_shard()
        ledger = self._project.ledger
        ids = _ids(ledger.expected(submission.shard_id))
        book = ShardBook(ledger, submission.shard_id)
        answers: dict[str, bytes] = {}
        before = ledger.expected(submission.shard_id)
        for kind, data in example.downloads:
            for place, custom_id in enumerate(ids):
                data = data.replace(b"@%d" % place, custom_id.encode())
            raw = ledger.raw_file(
                submission.shard_id,
                "output" if kind == "output" else "error",
                f"{kind}-{submission.shard_id}",
            )
            self._take_in(book, raw, data)
            held = ledger.expected(submission.shard_id)
            self._check(before, held, raw, data, answers)
            before = held
        self._check_rereading(submission, raw, data)
        return (
            "files-stored" if any(entry.status is not None for entry in before.values()) else "files-nothing"
        )

    def _next_shard(self) -> Submission:
        if not self._ready:
            rows = [
                to_send(number, f"k{self._made + number}", slot=number // ROWS, line=number % ROWS)
                for number in range(ROWS * _SHARDS_AT_ONCE)
            ]
            self._made += len(rows)
            self._ready = self._project.commit(rows)
        return self._project.send(self._ready.pop())

    def _take_in(self, book: ShardBook, raw: RawFile, data: bytes) -> None:
        part = self._folder / "download.part"
        part.write_bytes(data)
        download = Download(
            path=str(part),
            size_bytes=len(data),
            lines=data.count(b"\n"),
            skip=0,
            is_whole=True,
            incomplete=None,
            last_line=None,
        )
        book.take_in(download, raw, self._raw_folder)

    @property
    def _raw_folder(self) -> Path:
        return self._project.ledger.place.folder / "raw"

    def _check(
        self,
        before: dict[str, Expected],
        held: dict[str, Expected],
        raw: RawFile,
        data: bytes,
        answers: dict[str, bytes],
    ) -> None:
        kept = (self._raw_folder / Path(raw.path).name).read_bytes()
        for line in data.split(b"\n"):
            line = line.removesuffix(b"\r")
            assert not line.strip() or line in kept or self._is_kept_elsewhere(raw, line), line
        for custom_id, entry in held.items():
            was = before[custom_id].status
            assert was is None or entry.status is not None, "lost"
            assert was is None or not is_better(was, entry.status), f"{was} became {entry.status}"
            if entry.file_id == raw.id and entry.offset is not None and entry.length is not None:
                found = kept[entry.offset : entry.offset + entry.length]
                assert custom_id.encode() in found or b"\\u" in found, (custom_id, found)
                if entry.status is Status.SUCCEEDED:
                    assert answers.setdefault(custom_id, found) == found, "an answer was exchanged"

    def _is_kept_elsewhere(self, raw: RawFile, line: bytes) -> bool:
        """Lines of no request are kept once for each shard, in whichever file they came first."""
        shard = raw.path.rpartition("-output" if "-output" in raw.path else "-error")[0].rpartition("-")[2]
        files = self._raw_folder.glob(f"*-{shard}-*")
        return any(line in file.read_bytes() for file in files)

    def _check_rereading(self, submission: Submission, raw: RawFile, data: bytes) -> None:
        ledger = self._project.ledger
        held = ledger.expected(submission.shard_id)
        path = self._raw_folder / Path(raw.path).name
        kept = path.read_bytes()
        book = ShardBook(ledger, submission.shard_id)
        self._take_in(book, raw, data)
        assert ledger.expected(submission.shard_id) == held
        size = path.stat().st_size
        self._take_in(book, raw, data)
        assert path.stat().st_size == size, "reading again added lines"
        assert path.read_bytes().startswith(kept)


def _ids(expected: dict[str, Expected]) -> list[str]:
    return sorted(expected, key=lambda custom_id: expected[custom_id].line)
