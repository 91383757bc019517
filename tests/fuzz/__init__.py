"""Fuzzing of everything that comes from outside: manifests, datasets, templates, server replies.

The rule that every example is judged by: it ends in a value or in a clear error with a place (`InputError`,
`Cause`, `BadLine`, `Problem`), never in another exception, a hang or memory without bound; nothing is
written outside the example's folder, no process is started, no connection made.

    tests/fuzz/mutation.py     cuts, flips, splices of bytes; changes of JSON values
    tests/fuzz/manifests.py    YAML text, options, profiles, parents, answer schemas
    tests/fuzz/datasets.py     CSV, TSV, JSON Lines, JSON and Parquet bytes
    tests/fuzz/templates.py    a grammar of Jinja2 with escapes and bombs (template_grammar)
    tests/fuzz/replies.py      every wire object (wire_objects), and result files read into a ledger
                               (result_files)
    tests/fuzz/driving.py      one child process: watchdog, limit of memory, guard of files
    tests/fuzz/__main__.py     the command, several children, the line of figures

5,000 examples of each kind belong to the normal test run (`test_fuzz.py`). The long one:

    python -m tests.fuzz --examples 400000 --seed 1 --jobs 2

An example is made from the seed, its kind and its number alone, so one that failed is made again by
`python -m tests.fuzz --kind templates --only 123 --seed 1`.
"""
