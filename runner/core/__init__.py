"""The pure core: it decides and never does.

No files, clock, network or processes here; values in, values out. The one third-party import is orjson,
in `wire`, because JSON is the wire format and the standard library's parser accepts what it must not
(NaN, lone surrogates, unbounded nesting).
"""
