"""How near the program runs to what this machine can do: measured by one command, never a test.

    python -m benchmarks [NAME ...] [--rows N]

Theory. Seconds mean nothing on another machine, and little on the same one an hour later. So every table
sets the program's rate beside what the same cores did a moment before or after with the bare parts of the
work: the bare Jinja2 loop, the bare SQLite insert, the bare disk. Everything measured is a process of its
own (the program as people start it, the bare parts, the other scripts), so that a peak of memory is its own;
the server it talks to is a stand-in on loopback whose answers are made before the clock runs.

    rows        the datasets, templates and manifests
    measure     one process: wall and CPU seconds, peak memory of its tree, its events with their moments
    standin     the server
    limits      the bare parts
    project     one project's life: submitted, answered, collected, run again
    rivals      the same work as people write it today
    tables      what is printed
"""
