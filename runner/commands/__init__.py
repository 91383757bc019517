"""What the program can do: one function per command.

Each takes what it needs, speaks through a reporter while it works, returns a frozen result and prints
nothing. The rooms below (manifest, dataset, prompt, ledger, provider, results) meet only here.
Every command is safe to repeat.
"""
