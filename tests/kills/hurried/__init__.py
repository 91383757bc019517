"""The program with short waits: see `__main__`."""
