"""What the schema has against a document, in words for the person who wrote it.

jsonschema finds the violations, `wording` has the texts; here each gets its place: an unknown key its own,
a missing key that of the mapping, a value its own. Each mistake is told once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from runner.core.model import Position
from runner.manifest.findings import Findings, dotted
from runner.manifest.nodes import MapNode, Path, find, plain, positions
from runner.manifest.schema import places_of_keys, resolved, shared_schema
from runner.manifest.wording import Violation, found, wording

_MAX_UNKNOWN_KEYS = 50
_OWNED = {
    "model": "write it as model.name",
    "messages": "the template makes the messages",
    "input": "the template makes the input",
    "prompt": "the template makes the prompt",
    "stream": "answers of a batch come as files",
    "priority": "batch.completion_window decides how soon answers come",
    "service_tier": "batch.completion_window decides how soon answers come",
    "background": "batch.completion_window decides how soon answers come",
}


def _pattern(_: Any, pattern: str, instance: object, schema: object) -> Iterator[ValidationError]:
    """`$` ends the text, as in the regular expressions of JSON Schema; Python's `$` lets a newline follow."""
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield ValidationError(f"{pattern} does not match")


_extend: Any = extend  # untyped in jsonschema
_Validator: Any = _extend(Draft202012Validator, {"pattern": _pattern})


def check_document(root: MapNode, findings: Findings, *, is_whole: bool = True) -> None:
    """Hold the resolved document (without `extends` and `profiles`) against the schema.

    Not `is_whole`: a parent could not be read, which may have had the keys that are missing.
    """
    _Complaints(root, findings).check(shared_schema(), is_whole=is_whole)


def check_unused_profiles(root: MapNode, used: str | None, findings: Findings) -> None:
    """Look for misspelt keys and wrong values in the profiles that this run doesn't use.

    What holds `${` is skipped: its variables may be unset here. So is null, which takes out a value.
    """
    profiles = root.get("profiles")
    if profiles is None:
        return
    if not isinstance(profiles, MapNode):
        place = root.entries["profiles"].position
        findings.add(place, f"expected a mapping, got {found(plain(profiles))}", path="profiles")
        return
    profile_schema = shared_schema()["$defs"]["profile"]
    for name, entry in profiles.entries.items():
        if not isinstance(entry.value, MapNode):
            path = dotted(("profiles", name))
            findings.add(entry.position, f"expected a mapping, got {found(plain(entry.value))}", path=path)
        elif name != used:
            part = {**profile_schema, "$defs": shared_schema()["$defs"]}
            _Complaints(entry.value, findings, ("profiles", name), entry.position).check(
                part, is_partial=True
            )


class _Complaints:
    """Turns the errors of one check into findings. `prefix` is the document's own place in the manifest."""

    def __init__(
        self, root: MapNode, findings: Findings, prefix: Path = (), position: Position | None = None
    ) -> None:
        self._root = root
        self._findings = findings
        self._prefix = prefix
        self._position = position or root.position
        self._positions = positions(root)
        self._suggested: set[Path] = set()

    def check(self, schema: dict[str, Any], *, is_partial: bool = False, is_whole: bool = True) -> None:
        errors = _flat(_Validator(schema).iter_errors(plain(self._root)))
        wrongs = [_violation(error) for error in errors]
        if is_partial:
            wrongs = [wrong for wrong in wrongs if not _is_open(wrong.value)]
        if not is_whole:
            wrongs = [wrong for wrong in wrongs if wrong.rule != "required"]
        # Unknown keys first: one that is a misspelt required key speaks for the missing one.
        for wrong in sorted(wrongs, key=lambda wrong: wrong.rule != "additionalProperties"):
            if not self._findings.has(self._dotted(wrong.path)):
                self._complain(wrong)

    def _complain(self, wrong: Violation) -> None:
        if wrong.rule == "additionalProperties":
            self._unknown_keys(wrong)
        elif wrong.rule == "required":
            self._missing_keys(wrong)
        elif wrong.rule == "not":
            self._owned_key(wrong.path, str(wrong.value))
        else:
            what, hint = wording(wrong)
            self._add(wrong.path, self._place(wrong.path), what, hint)

    def _dotted(self, path: Path) -> str:
        return dotted((*self._prefix, *path))

    def _place(self, path: Path) -> Position:
        """Where a path, or its nearest parent that was written, is."""
        while path and dotted(path) not in self._positions:
            path = path[:-1]
        return self._positions[dotted(path)] if path else self._position

    def _key_place(self, path: Path, key: str) -> Position:
        parent = find(self._root, path)
        entry = parent.entries.get(key) if isinstance(parent, MapNode) else None
        return entry.position if entry else self._place(path)

    def _add(self, path: Path, place: Position, what: str, hint: str) -> None:
        self._findings.add(place, what, path=self._dotted(path), hint=hint)

    def _unknown_keys(self, wrong: Violation) -> None:
        free = [key for key in wrong.known if key not in wrong.value]
        unknown = [key for key in wrong.value if key not in wrong.known]
        for key in unknown[:_MAX_UNKNOWN_KEYS]:
            place = (*wrong.path, key)
            close = _nearest(key, free) or _nearest(key, wrong.known)
            if close:
                self._suggested.add((*wrong.path, close[0]))
                hint = f"did you mean '{close[0]}'?"
            else:
                hint = _elsewhere(place) or f"known keys: {', '.join(wrong.known)}"
            self._add(place, self._key_place(wrong.path, key), "unknown key", hint)

    def _missing_keys(self, wrong: Violation) -> None:
        for key in wrong.wanted:
            place = (*wrong.path, key)
            is_said = place in self._suggested or self._findings.has(self._dotted(place))
            if key not in wrong.value and not is_said:
                self._add(place, self._place(wrong.path), "required key is missing", _example(place))

    def _owned_key(self, path: Path, key: str) -> None:
        self._add((*path, key), self._key_place(path, key), "is not a parameter that can be set", _OWNED[key])


def _flat(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    """Errors with each `anyOf` replaced by those of the alternative that was meant: the one of that type."""
    for error in errors:
        if error.validator != "anyOf" or not error.context:
            yield error
            continue
        groups: dict[int, list[ValidationError]] = {}
        for inner in error.context:
            groups.setdefault(int(inner.relative_schema_path[0]), []).append(inner)
        meant = [
            group for group in groups.values() if not any(_is_of_other_type(inner, error) for inner in group)
        ]
        if len(meant) == 1:
            yield from _flat(meant[0])
        else:
            yield error


def _is_of_other_type(inner: ValidationError, outer: ValidationError) -> bool:
    return inner.validator == "type" and inner.absolute_path == outer.absolute_path


def _is_open(instance: object) -> bool:
    """Whether a value in a profile that isn't used can't be judged yet."""
    return instance is None or (isinstance(instance, str) and "${" in instance)


def _violation(error: ValidationError) -> Violation:
    """jsonschema's error as a value of our own."""
    schemas = [each.schema for each in (error, error.parent) if each is not None]
    parts: list[dict[str, Any]] = [part for part in schemas if isinstance(part, dict)]
    return Violation(
        path=tuple(error.absolute_path),
        rule=str(error.validator),
        wanted=error.validator_value,
        value=error.instance,
        known=tuple(parts[0].get("properties", {})) if parts else (),
        hint=next((part["patternErrorMessage"] for part in parts if "patternErrorMessage" in part), ""),
    )


def _nearest(key: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(key.lower(), known, n=1) if len(key) <= 64 else []


def _elsewhere(path: Path) -> str:
    """A hint for a key that is known in another place."""
    place = places_of_keys().get(str(path[-1]))
    return f"it belongs in {place.rpartition('.')[0]}" if place and place != dotted(path) else ""


def _example(path: Path) -> str:
    """`for example name: Qwen/Qwen3.5-9B`, from the schema's examples."""
    part = shared_schema()
    for step in path:
        part = resolved(part["properties"][str(step)]) if "properties" in part else {}
    examples = part.get("examples")
    return f"for example {path[-1]}: {_flow(examples[0])}" if examples else ""


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return str(value)
