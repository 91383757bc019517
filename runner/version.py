"""The version of this program, for everything that records or prints it."""

__version__ = "0.1.0"
