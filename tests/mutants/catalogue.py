"""All mutants, by the part of the program that they hurt."""

from __future__ import annotations

from tests.mutants.keeping import KEEPING
from tests.mutants.paying import PAYING
from tests.mutants.scheduling import SCHEDULING

MUTANTS = (*PAYING, *KEEPING, *SCHEDULING)
