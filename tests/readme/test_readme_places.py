"""What the README names exists: paths, options, pieces of manifests; and it names no machine of ours."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml

import runner
from runner.cli.app import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
HOMES = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir())
SHIPPED = (".ci/", "manifests/", "runner/", "templates/", "tests/")


def words_in_code(text: str) -> list[str]:
    """The inline code of a text, and the words of its fenced blocks."""
    fenced = re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*re.findall(r"`([^`\n]+)`", rest), *" ".join(fenced).split()]


def shipped_paths(text: str) -> list[str]:
    """Paths into folders that are part of the repository."""
    words = (word.strip("\"',;:()") for code in words_in_code(text) for word in code.split())
    return sorted({word for word in words if word.startswith(SHIPPED)})


def test_the_folders_that_are_looked_at_are_there() -> None:
    assert set(SHIPPED) <= set(HOMES)
    assert "manifests/quickstart.yaml" in shipped_paths(README)


@pytest.mark.parametrize("path", shipped_paths(README + CHANGELOG))
def test_every_path_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("text", [README, CHANGELOG], ids=["readme", "changelog"])
def test_every_link_leads_somewhere(text: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            headings = [re.sub(r"[^\w -]", "", line) for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
            assert target[1:] in [heading.lower().replace(" ", "-") for heading in headings]
        else:
            assert re.match(r"https://[\w.-]+\.\w+(/|$)", target) or (ROOT / target).exists(), target


@pytest.mark.parametrize("text", [README, CHANGELOG], ids=["readme", "changelog"])
def test_every_option_that_is_named_exists(text: str) -> None:
    groups = [command for command in COMMANDS if isinstance(command, click.Group)]
    commands = [cli, *COMMANDS, *(below for group in groups for below in group.commands.values())]
    known = {name for command in commands for option in command.params for name in option.opts}
    known |= {"--help", "--quiet"}
    told = re.sub(r"^.*\bpip\b.*$", "", text, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w<!-])--[a-z][a-z-]+", told))
    assert named <= known
    assert "--detach" in named or text is CHANGELOG


@pytest.mark.parametrize("text", [README, CHANGELOG], ids=["readme", "changelog"])
def test_nobodys_machine_is_named(text: str) -> None:
    assert not re.search(r"/home/|/root/|/tmp/|/work/|/Users/", text)
    assert not re.search(r"index-url|pypi|localhost:\d", text, re.IGNORECASE)


def pieces() -> list[str]:
    """The YAML blocks that show a part of a manifest, not a file."""
    found = re.findall(r"(<!-- [^\n]* -->\n)?^```yaml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [block for mark, block in found if not mark]


class WordsLoader(yaml.SafeLoader):
    """Takes `on`, `yes` and their kin for text, as the manifest's own reader does."""


WordsLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def merged(base: dict[str, object], piece: dict[str, object]) -> dict[str, object]:
    """`piece` over `base`, mapping by mapping."""
    result = dict(base)
    for key, value in piece.items():
        held = result.get(key)
        result[key] = merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return result


@pytest.mark.parametrize("piece", pieces())
def test_every_piece_of_a_manifest_fits_into_one(tmp_path: Path, piece: str) -> None:
    base = yaml.safe_load((ROOT / "manifests/quickstart.yaml").read_text())
    base["dataset"]["path"] = str(ROOT / "manifests/data/packages.csv")
    base["prompt"]["template"] = str(ROOT / "templates/describe.j2")
    if "provider" in piece:
        del base["model"]["provider"]
    manifest = tmp_path / "piece.yaml"
    words = yaml.load(piece, WordsLoader)
    manifest.write_text(yaml.safe_dump(merged(base, words)))
    assert runner.load(manifest).name == "quickstart"
