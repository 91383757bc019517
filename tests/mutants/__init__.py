"""Hand-made mutants: the real code with one precaution taken away, and the suite that must notice.

A test suite that stays green when a precaution is removed does not test it. Each mutant is one textual
change to one file of `runner` (old text that occurs exactly once, new text), and names the cheapest tests
that fail under it. It is applied to a copy of the project's code in a temporary folder, never to the code
itself, and its tests run there as a process of their own.

*Killed*: pytest ended with exit code 1, so a test failed. *Survived*: all passed; then a test is missing.
*Broken*: anything else (the text is not there any more, nothing was collected, no end in time), which
counts as a failure too. Before the mutants, the same tests must pass on the unchanged copy.

    python -m tests.mutants [--only NAME ...] [--jobs 2]

The protocol's own variants, without the code around it, are in `tests.model`.
"""
