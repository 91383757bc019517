"""The same work as people write it today, each a script of its own: what a table sets the program beside.

They do what such scripts do, no worse and no better, and far less than the program: none survives a kill,
counts its answers or splits by bytes. Each says its phases as JSON lines: `{"event": PHASE, "rows": n}`.
"""
