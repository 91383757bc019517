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
from pathlib import Path

from runner.core.model import Manifest
from runner.errors import InputError, Mistake
from runner.manifest.building import build
from runner.manifest.checks import check_literal_keys, check_meaning
from runner.manifest.complaints import check_document, check_unused_profiles
from runner.manifest.findings import Findings, shown
from runner.manifest.interpolation import interpolate
from runner.manifest.layers import apply_profile, apply_sets, read_manifest
from runner.manifest.paths import absolute


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
    given = str(path)
    whole = _absolute(given)
    findings = Findings()
    layers = read_manifest(whole, given, findings)
    if layers is None:
        raise findings.error()
    check_literal_keys(layers, findings)
    check_unused_profiles(layers, profile, findings)
    merged = apply_profile(layers, profile, findings).without("profiles")
    merged = apply_sets(merged, set_values, str(Path(whole).parent), findings)
    root = interpolate(merged, environ, findings)
    check_literal_keys(root, findings)
    check_document(root, findings)
    answer_schema = check_meaning(root, findings)
    if findings:
        raise findings.error()
    return build(root, whole, answer_schema)


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
