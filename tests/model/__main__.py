"""`python -m tests.model [NAME]`: the table, or the run in which a weakened protocol pays most."""

from __future__ import annotations

import sys
import time

from tests.model.expectations import AS_BUILT, UNFENCED, WEAKENED


def main(names: list[str]) -> int:
    cases = [case for case in (*AS_BUILT, *UNFENCED, *WEAKENED) if not names or case.name in names]
    if not cases:
        print(f"no such case; known: {', '.join(case.name for case in (*AS_BUILT, *UNFENCED, *WEAKENED))}")
        return 2
    started, worlds, wrong = time.monotonic(), 0, 0
    for case in cases:
        found = case.explore()
        worlds += found.worlds
        wrong += found.most_paid != case.paid or found.stuck is not None
        print(f"{found.most_paid} paid (expected {case.paid}), {found.worlds} worlds: {case.name}")
        for number, step in enumerate(found.trace if names else (), start=1):
            print(f"  {number:2} {step}")
    seconds = time.monotonic() - started
    print(f"cases: {len(cases)}, worlds: {worlds}, wrong: {wrong}, seconds: {seconds:.0f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
