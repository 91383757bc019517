"""The kill harness: the program is killed at every named point, and the server's witness judges."""
