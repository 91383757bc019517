"""The manifest room: YAML in, a frozen `runner.core.model.Manifest` out.

Home of PyYAML and jsonschema. Its one rule: either everything in a manifest is right, or the user gets
every mistake at once, each with its place, what is wrong and what is allowed. It never looks into the
dataset or the template, and knows nothing of servers but their names.
"""

from __future__ import annotations

from runner.manifest.answers import answer_checker
from runner.manifest.building import Asking, asking_of
from runner.manifest.interpolation import WITHHELD
from runner.manifest.loading import load, load_what_stands, variables
from runner.manifest.schema import schema, schema_text

__all__ = [
    "WITHHELD",
    "Asking",
    "answer_checker",
    "asking_of",
    "load",
    "load_what_stands",
    "schema",
    "schema_text",
    "variables",
]
