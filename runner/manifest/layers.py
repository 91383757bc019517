"""One document from several: the manifest, its parents (`extends`), a profile, and `--set`.

Later layers win: parent, child, profile, `--set`. Mappings merge, everything else replaces. A null over
something takes it out, but not in `prompt.params` and `model.parameters`, where null is a value.
Every value keeps the place and folder of the text in which it was written. `--set` counts as written in
the manifest: its paths start at the manifest's folder.
"""

from __future__ import annotations

import difflib
import stat
from collections.abc import Sequence
from pathlib import Path

from runner.core.model import Position
from runner.manifest.findings import Findings, OptionPosition, shown
from runner.manifest.nodes import Entry, MapNode, Node, ScalarNode, Source
from runner.manifest.paths import absolute, file_trouble, shown_path
from runner.manifest.reading import MAX_FILE_BYTES, read_bytes, read_text

MAX_PARENTS = 10
_FREE = (("prompt", "params"), ("model", "parameters"))
_MAX_SET_PARTS = 16


def read_manifest(path: str, given: str, findings: Findings) -> tuple[MapNode | None, bool]:
    """The manifest merged over its parents, and whether they are all there; None where it can't be read.

    `path` is absolute, `given` the path as the user wrote it. `extends` is gone from the result. What can be
    read of parents is checked on, so that one that is missing does not hide other mistakes.
    """
    chain: list[MapNode] = []
    seen = [path]
    here = _read_file(path, shown_path(given), findings)
    while here is not None:
        chain.append(here.without("extends"))
        parent = here.get("extends")
        if parent is None:
            return _merge_chain(chain), True
        here = _read_parent(parent, seen, findings)
    return (_merge_chain(chain) if chain else None), False


def _merge_chain(chain: Sequence[MapNode]) -> MapNode:
    """Child first in, merged document out."""
    root = chain[-1]
    for layer in reversed(chain[:-1]):
        root = merge(root, layer)
    return root


def _read_parent(node: Node, seen: list[str], findings: Findings) -> MapNode | None:
    """The parent that `extends` names; `seen` holds the absolute paths so far and is added to."""
    value = node.value if isinstance(node, ScalarNode) else None
    if not isinstance(value, str) or not value or "\0" in value or "${" in value:
        findings.add(node.position, "expected the path of one manifest, without ${...}", path="extends")
        return None
    path = absolute(value, node.folder)
    if path in seen:
        names = " -> ".join(shown_path(each) for each in (*seen[seen.index(path) :], path))
        findings.add(node.position, f"manifests extend each other in a circle: {names}", path="extends")
        return None
    if len(seen) > MAX_PARENTS:
        findings.add(node.position, f"more than {MAX_PARENTS} parents", path="extends")
        return None
    trouble = file_trouble(path)
    if trouble:
        findings.add(node.position, trouble[0], path="extends", hint=trouble[1])
        return None
    seen.append(path)
    return _read_file(path, shown_path(path), findings)


def _read_file(path: str, name: str, findings: Findings) -> MapNode | None:
    folder = str(Path(path).parent)
    source = Source(shown=name, folder=folder)
    data = _file_bytes(path, source, findings)
    if data is None:
        return None
    node = read_bytes(data, source, findings)
    if node is None or isinstance(node, MapNode):
        return node
    findings.add(node.position, "a manifest is a mapping of keys to values", hint="begin with 'version: 1'")
    return None


def _file_bytes(path: str, source: Source, findings: Findings) -> bytes | None:
    """The file's bytes, at most one more than allowed. Only regular files: a pipe could block for ever."""
    place = OptionPosition(file=source.shown, line=1, column=1)
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            findings.add(place, "not a file")
            return None
        with Path(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        trouble = file_trouble(path)
        findings.add(place, "there is no such file", hint=trouble[1] if trouble else "")
    except OSError as error:
        findings.add(place, f"can't be read: {error.strerror}")
    return None


def merge(base: MapNode, over: MapNode, path: tuple[str, ...] = ()) -> MapNode:
    """`over` on top of `base`; keys keep the order of `base`, new ones come after."""
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        below = entries.get(key)
        place = (*path, key)
        if below and isinstance(entry.value, MapNode) and isinstance(below.value, MapNode):
            position = _later(below.position, entry.position)
            entries[key] = Entry(position=position, value=merge(below.value, entry.value, place))
        elif below and _is_null(entry.value) and not _is_free(place):
            del entries[key]
        else:
            entries[key] = entry
    height = 1 + max((entry.value.height for entry in entries.values()), default=0)
    position = _later(base.position, over.position)
    return MapNode(entries=entries, position=position, folder=over.folder, height=height)


def _later(below: Position, over: Position) -> Position:
    """Where a merged mapping is: in the later file, but never in an option, which wrote only a part."""
    return below if isinstance(over, OptionPosition) else over


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value is None


def _is_free(path: tuple[str, ...]) -> bool:
    return any(path[: len(free)] == free and len(path) > len(free) for free in _FREE)


def apply_profile(root: MapNode, profile: str | None, findings: Findings) -> MapNode:
    """The document with one profile merged over it; the block `profiles` stays."""
    if profile is None:
        return root
    profiles = root.get("profiles")
    known = list(profiles.entries) if isinstance(profiles, MapNode) else []
    layer = profiles.get(profile) if isinstance(profiles, MapNode) else None
    if layer is None:
        place = OptionPosition(file=f"--profile {shown(profile)}", line=1, column=1)
        findings.add(place, "unknown profile", hint=_known_profiles(profile, known))
        return root
    if not isinstance(layer, MapNode):
        return root  # the schema says it
    return merge(root, layer)


def _known_profiles(profile: str, known: Sequence[str]) -> str:
    if not known:
        return "this manifest has no profiles"
    close = difflib.get_close_matches(profile[:64], known, n=1)
    question = f"did you mean '{shown(close[0])}'? " if close else ""
    return f"{question}it has: {', '.join(shown(name) for name in known[:20])}"


def apply_sets(root: MapNode, set_values: Sequence[str], folder: str, findings: Findings) -> MapNode:
    """The document with every `key.key=value` merged over it, in order."""
    for text in set_values:
        layer = _set_layer(text, folder, findings)
        if layer is not None:
            root = merge(root, layer)
    return root


def _set_layer(text: str, folder: str, findings: Findings) -> MapNode | None:
    """`model.name=X` as a document of its own; None where it can't be read. The value is never shown:
    someone may put a key there."""
    name, equals, value_text = text.partition("=")
    name = name.strip()
    source = Source(shown=f"--set {shown(name)}{'=...' if equals else ''}", folder=folder, is_option=True)
    place = source.at(1, 1)
    parts = name.split(".")
    if not equals or not all(parts) or len(parts) > _MAX_SET_PARTS or not name.isprintable():
        findings.add(place, "not an assignment", hint="write it as key.key=value, such as model.name=X")
        return None
    if parts[0] == "params":
        parts = ["prompt", *parts]
    if parts[0] in ("extends", "profiles"):
        findings.add(place, "can't be set from the command line", path=parts[0])
        return None
    value = _set_value(value_text, source, parts, findings)
    return _nested(parts, value, place, folder) if value is not None else None


def _set_value(text: str, source: Source, parts: Sequence[str], findings: Findings) -> Node | None:
    if not text.strip():
        return ScalarNode(value=None, position=source.at(1, 1), folder=source.folder)
    return read_text(text, source, findings, at=tuple(parts))


def _nested(parts: Sequence[str], value: Node, place: Position, folder: str) -> MapNode:
    node = value
    for part in reversed(parts):
        entries = {part: Entry(position=place, value=node)}
        node = MapNode(entries=entries, position=place, folder=folder, height=node.height + 1)
    assert isinstance(node, MapNode)  # noqa: S101 - `parts` is never empty
    return node
