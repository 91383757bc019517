"""The gate: what a person is asked before money is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner.commands.gate import pass_gate
from runner.commands.moments import Moment
from runner.core.planning import Estimate
from runner.errors import InterruptedRunError
from tests.contract.cli_factories import make_plan
from tests.contract.manifest_factories import GOOD, load_text
from tests.unit.core_factories import make_provider


class No:
    """Answers no to whatever is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tell(self, moment: Moment) -> None:
        raise AssertionError(moment)

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return False


def test_a_small_sum_that_a_person_is_asked_about_is_not_told_as_nothing(tmp_path: Path) -> None:
    manifest = load_text(tmp_path, f"{GOOD}budget: {{confirm_above: 0.001}}\n")
    estimate = Estimate(input_tokens=1, output_tokens=1, cost=0.0042, currency="USD", basis="")
    reporter = No()
    with pytest.raises(InterruptedRunError):
        pass_gate(
            manifest, make_provider(), replace(make_plan(), estimate=estimate, unsendable=0), (), reporter
        )
    (question,) = reporter.asked
    assert "for about 0.0042 USD" in question
