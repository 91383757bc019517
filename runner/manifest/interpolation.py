"""`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` in text values, after parsing.

Its one rule: what comes from the environment is text and never structure: no keys, no new YAML. Only
where the schema takes no text but a number or true/false is a value that is exactly one variable read as
one. `:-` and `:?` take an empty variable for an unset one, as a shell does. A variable that looks like a
secret is refused: the resolved document is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from runner.manifest.findings import Findings, dotted, shown
from runner.manifest.nodes import Entry, ListNode, MapNode, Node, Path, ScalarNode, walk
from runner.manifest.scalars import read_plain
from runner.manifest.schema import accepted_types

_TOKEN = re.compile(r"\$\$|\$\{((?:[^}$]|\$(?!\{))*)\}|\$\{")
_BODY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?", re.DOTALL)
_SECRET = re.compile(
    r"(?:(?:^|_)(?:API_?KEY|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|PRIVATE_KEY)|PASSWORD|PASSWD)$", re.IGNORECASE
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
WITHHELD: Mapping[str, str] = MappingProxyType({})
"""The environment for a manifest that must not know it: its variables are not told, whether set or not."""
_FORMS = "write ${NAME}, ${NAME:-default} or ${NAME:?message}; $$ stands for a dollar sign"


class _BadVariableError(Exception):
    """What is wrong with one variable, and a hint."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def interpolate(root: MapNode, environ: Mapping[str, str], findings: Findings) -> MapNode:
    """The document with every variable put in. Mistakes are noted at the value, which then stays as it is."""
    node = _node(root, (), environ, findings)
    return node if isinstance(node, MapNode) else root


def variables_in(root: MapNode) -> dict[str, bool]:
    """The environment variables that a document names, in its order; True: it has no default for it."""
    found: dict[str, bool] = {}
    for _, _, node in walk(root):
        text = node.value if isinstance(node, ScalarNode) else None
        for token in _TOKEN.finditer(text) if isinstance(text, str) else ():
            body = _BODY.fullmatch(token[1]) if token[1] is not None else None
            if body is not None:
                found[body[1]] = found.get(body[1], False) or body[2] != "-"
    return found


def _node(node: Node, path: Path, environ: Mapping[str, str], findings: Findings) -> Node:
    if isinstance(node, MapNode):
        entries = {
            key: Entry(position=entry.position, value=_node(entry.value, (*path, key), environ, findings))
            for key, entry in node.entries.items()
        }
        return replace(node, entries=entries)
    if isinstance(node, ListNode):
        items = (_node(item, (*path, index), environ, findings) for index, item in enumerate(node.items))
        return replace(node, items=tuple(items))
    if isinstance(node.value, str) and "$" in node.value:
        return _scalar(node, node.value, path, environ, findings)
    return node


def _scalar(
    node: ScalarNode, text: str, path: Path, environ: Mapping[str, str], findings: Findings
) -> ScalarNode:
    try:
        value = _TOKEN.sub(lambda match: _substitute(match, environ), text)
    except _BadVariableError as error:
        findings.add(node.position, error.what, path=dotted(path), hint=error.hint)
        return node
    whole = _TOKEN.fullmatch(text)
    if whole and whole[1] is not None:
        return replace(node, value=_typed(value, path))
    return replace(node, value=value)


def _substitute(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    body = _BODY.fullmatch(match[1]) if match[1] is not None else None
    if body is None:
        raise _BadVariableError(f"'{shown(match[0])}' is not a variable", _FORMS)
    name, operator, rest = body[1], body[2], body[3]
    if _SECRET.search(name):
        raise _BadVariableError(
            f"{shown(name)} looks like a secret, and this value would be stored",
            "name the key's variable in model.provider.api_key_env, without ${...}",
        )
    value = environ.get(name)
    if value is not None and _LONE_SURROGATE.search(value):
        raise _BadVariableError(f"environment variable {shown(name)} is not UTF-8")
    lacks = operator is None and value is None
    if environ is WITHHELD and (lacks or operator == "?"):
        raise _BadVariableError(
            f"environment variable {shown(name)} is not told to an isolated manifest",
            f"give the value with --set, or write ${{{shown(name)}:-default}}",
        )
    if lacks:
        raise _BadVariableError(
            f"environment variable {shown(name)} is not set", f"set it, or write ${{{shown(name)}:-default}}"
        )
    if operator == "?" and not value:
        raise _BadVariableError(f"environment variable {shown(name)} is not set", shown(rest))
    return value or rest or ""


def _typed(text: str, path: Path) -> str | int | float | bool:
    """The text as the number or boolean that the schema wants there; else as it is."""
    wanted = accepted_types(path)
    if not wanted or "string" in wanted:
        return text
    value = read_plain(text)
    if isinstance(value, bool):
        return value if "boolean" in wanted else text
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value if wanted & {"integer", "number"} else text
    if isinstance(value, float) and abs(value) < float("inf"):
        return value if "number" in wanted else text
    return text
