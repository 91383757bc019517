"""Names that Python would take for one: each gets its own value, or the template is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from tests.contract.prompt_factories import make_prompt, only_text

NAMES = ["ID", "ＩＤ", "IＤ", "caf\u00e9", "cafe\u0301", "µ", "μ", "ﬁ", "fi", "ſ", "s"]
"""Wide letters, one sign or two, signs that stand for letters; each beside what Python reads it as."""
FORMS = [
    "{{{{ {0} }}}}",
    '{{{{ row["{0}"] }}}}',
    "{{% if {0} %}}{{{{ {0} }}}}{{% endif %}}",
    "{{{{ [{0}]|map('upper')|first }}}}",
]
rows = st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=4)
reads = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(FORMS)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(reads=reads, others=rows)
def test_every_name_has_its_own_value_or_the_template_is_refused(
    reads: list[tuple[str, str]], others: list[str]
) -> None:
    """Columns that the template does not read are there too: they are not mistaken for those it reads."""
    row = {name: f"VALUE {NAMES.index(name)}" for name in {*others, *(name for name, _ in reads)}}
    as_names = {name for name, form in reads if "row" not in form}
    is_doubled = len({normalize("NFKC", name) for name in as_names}) < len(as_names)
    text = "|".join(form.format(name) for name, form in reads)
    with tempfile.TemporaryDirectory() as folder:
        if is_doubled:
            with pytest.raises(InputError, match="are one name"):
                make_prompt(Path(folder), text)
            return
        prompt = make_prompt(Path(folder), text)
    assert only_text(prompt.render(row)) == "|".join(row[name] for name, _ in reads)
