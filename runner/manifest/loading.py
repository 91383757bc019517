"""From a path to a `Manifest`, or to one error with every mistake.

load
|-- read_manifest       file and parents, strict YAML        (layers, reading)
|-- apply_profile       --profile
|-- apply_sets          --set
|-- interpolate         ${NAME}
|-- check_document      against the schema                   (complaints)
|-- check_meaning       files, addresses, what goes together (checks)
`-- build               the frozen value                     (building)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.core.model import Manifest
from runner.errors import InputError, Mistake
from runner.manifest.building import build
from runner.manifest.checks import check_literal_keys, check_meaning
from runner.manifest.complaints import check_document, check_unused_profiles
from runner.manifest.findings import Findings, shown
from runner.manifest.interpolation import interpolate, variables_in
from runner.manifest.layers import apply_profile, apply_sets, read_manifest
from runner.manifest.nodes import MapNode
from runner.manifest.paths import absolute
from runner.manifest.pruning import built_of_what_stands, without_wrong_parts


def load(
    path: str | Path,
    *,
    set_values: Sequence[str] = (),
    profile: str | None = None,
    environ: Mapping[str, str],
) -> Manifest:
    """Read, merge, interpolate and check a manifest.

    Shape:  `set_values` are `key.key=value` as given to --set (the value is YAML; `params.x` means
            `prompt.params.x`; paths start at the manifest's folder), merged in order over the profile,
            which is merged over the file and its parents.
    Errors: InputError with every mistake that was found: of the files first, of options last.
    Needs:  template and output.schema must exist; the dataset is not looked at.
    """
    found = _checked(str(path), set_values, profile, environ)
    if found.findings:
        raise found.findings.error()
    return build(found.root, found.path, found.answer_schema)


def load_what_stands(
    path: str | Path,
    *,
    set_values: Sequence[str] = (),
    profile: str | None = None,
    environ: Mapping[str, str],
) -> tuple[Manifest | None, list[Mistake]]:
    """For a check that goes on after the first mistakes: the manifest without its wrong parts.

    Never to be run: what is missing is stood in for, and where dataset or template are among the wrong parts
    its paths are none, or the template is empty. None where nothing stands. Errors: InputError where the
    file is not YAML at all.
    """
    found = _checked(str(path), set_values, profile, environ)
    if not found.findings:
        return build(found.root, found.path, found.answer_schema), []
    mistakes = list(found.findings.error().mistakes)
    rest = without_wrong_parts(found.root, found.findings.paths)
    if rest is None:
        return None, mistakes
    again = Findings()
    answer_schema = check_meaning(rest, again)
    return (None if again else built_of_what_stands(rest, found.path, answer_schema)), mistakes


def variables(
    path: str | Path, *, set_values: Sequence[str] = (), profile: str | None = None
) -> dict[str, bool]:
    """The environment variables that a manifest, bent like this, and its parents name as `${NAME}`, in their
    order; True where one has to be set. Unused profiles don't count. Raises InputError where the file is not
    YAML."""
    findings = Findings()
    whole = _absolute(str(path))
    layers, _ = read_manifest(whole, str(path), findings)
    if layers is None:
        raise findings.error()
    merged = apply_profile(layers, profile, findings).without("profiles")
    return variables_in(apply_sets(merged, set_values, str(Path(whole).parent), findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A document after every check; `root` is only as good as `findings` is empty."""

    path: str
    root: MapNode
    answer_schema: Mapping[str, Any] | None
    findings: Findings


def _checked(
    given: str, set_values: Sequence[str], profile: str | None, environ: Mapping[str, str]
) -> _Checked:
    whole = _absolute(given)
    findings = Findings()
    layers, is_whole = read_manifest(whole, given, findings)
    if layers is None:
        raise findings.error()
    check_literal_keys(layers, findings)
    check_unused_profiles(layers, profile, findings)
    merged = apply_profile(layers, profile, findings).without("profiles")
    merged = apply_sets(merged, set_values, str(Path(whole).parent), findings)
    root = interpolate(merged, environ, findings)
    check_literal_keys(root, findings)
    check_document(root, findings, is_whole=is_whole)
    answer_schema = check_meaning(root, findings)
    return _Checked(path=whole, root=root, answer_schema=answer_schema, findings=findings)


def _absolute(given: str) -> str:
    try:
        given.encode()
        if "\0" in given or not given:
            raise InputError([Mistake(where=f"'{shown(given)}'", what="not a path")])
        return absolute(given, "/" if given.startswith("/") else str(Path.cwd()))
    except UnicodeEncodeError as error:
        raise InputError([Mistake(where=shown(given), what="the path is not UTF-8")]) from error
    except OSError as error:
        raise InputError([Mistake(where=shown(given), what="the current folder is gone")]) from error
