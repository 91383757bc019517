"""A grammar of Jinja2: words, expressions, statements, files, and bombs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.mutation import some_text

NAMES = (
    "a", "b", "text", "xs", "deep", "day", "price", "row", "params", "missing", "x", "y", "ns", "loop",
    "self", "caller", "varargs", "kwargs", "m", "lib", "dict", "range", "cycler", "joiner", "namespace",
    "super", "true"
)  # fmt: skip
SEEN = ("a", "text", "xs", "deep", "row", "params", "params.list", "deep.k")
INNER = (
    "__class__", "__mro__", "__globals__", "__init__", "__subclasses__", "__dict__", "_func", "gi_frame",
    "format", "format_map", "mro", "__self__", "__wrapped__", "environment",
    "_TemplateReference__context", "parent", "f_globals", "__call__", "tb_frame", "cr_frame", "__code__",
    "today", "now", "items", "update", "pop", "clear", "append", "join", "replace", "center", "upper",
    "encode", "translate", "to_bytes", "isoformat", "as_tuple", "eval_ctx", "vars", "blocks",
    "exported_vars", "get_all", "resolve", "call", "name", "next", "current", "index", "cycle", "changed",
    "n", "s", "expandtabs", "zfill", "ljust", "maketrans", "split", "real"
)  # fmt: skip
FILTERS = (
    "upper", "lower", "trim", "attr", "map", "select", "reject", "selectattr", "rejectattr", "groupby",
    "join", "list", "string", "safe", "escape", "e", "forceescape", "tojson", "pprint", "format",
    "replace", "center", "indent", "wordwrap", "wordcount", "truncate", "urlize", "urlencode", "xmlattr",
    "striptags", "title", "capitalize", "batch", "slice", "round", "int", "float", "abs", "sum", "min",
    "max", "sort", "dictsort", "unique", "reverse", "first", "last", "length", "count", "default", "d",
    "items", "filesizeformat", "random", "nosuchfilter"
)  # fmt: skip
TESTS = (
    "defined", "undefined", "none", "string", "number", "mapping", "sequence", "iterable", "callable",
    "in", "eq", "divisibleby", "sameas", "escaped", "filter", "test", "odd", "nosuchtest", "lower",
    "boolean"
)  # fmt: skip
NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "9",
    "1.5",
    "99999",
    "100000",
    "10 ** 9",
    "2 ** 60000",
    "1e308",
    "1_000",
    "0x10",
)
TEXTS = (
    "''", "'a'", "'ab ' * 999", "'{0.__class__}'", "'{0[__class__]}'", "'%s'", "'%(a)s'", "'%9999999d'",
    "'%*d'", "'{:99999999}'", "'{:{w}}'", "'\\x00\\x1b[31m'", "'\\ud800'", "'__class__'",
    "'__cl' ~ 'ass__'", "'\\u2028'", "'{{ a }}'", "'{% raw %}'"
)  # fmt: skip
BLOCKS = ("system", "user", "assistant", "user", "part", "extra", "body")

ODD_TAGS = (
    *("{% do a %}", "{% autoescape true %}x{% endautoescape %}", "{% break %}", "{% set %}", "{%", "{{"),
    *("{% block user %}y{% endblock %}", "{% trans %}x{% endtrans %}", "{% endfor %}", "{% debug %}"),
    *(
        "{% block x scoped required %}{% endblock %}",
        "{{ super() }}",
        "{{ self.part() }}",
        "{{ self.user() }}",
    ),
)
PATHS = (
    *("'lib.j2'", "'part.j2'", "'main.j2'", "'../outside.j2'", "'/etc/passwd'", "'missing.j2'", "a"),
    "['lib.j2', a]",
)
FILE_TAGS = (
    "{% include @ %}",
    "{% include @ ignore missing %}",
    "{% import @ as lib %}{{ lib.m(1) }}",
    "{% from @ import m %}{{ m(1) }}",
    "{% extends @ %}",
    "{% import @ as lib with context %}{{ lib }}",
)
OPTIONS = ("attribute", "start", "width", "d", "indent", "default", "a")
CALLED = ("range", "dict", "cycler", "joiner", "namespace", "m")

SIGNS = (
    *"{%}#ab \n\"'|.()[]-+~*", "{{ ", " }}", "{% ", " %}", "{#", "#}", "if ", "for ", "endif", "in ",
    "block user", "{%- ", " -%}", "raw", "endraw", "\0", "é", "set ", "macro "
)  # fmt: skip


class Writer:
    """Writes templates. Every part has a depth, so texts end."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._part: tuple[Callable[[int], str], ...] = (
            *(self._printed, self._printed, self._printed, self._words),
            *(
                self._if,
                self._for,
                self._for,
                self._set,
                self._set_block,
                self._macro,
                self._call,
                self._filter,
            ),
            *(
                self._with,
                self._with,
                self._namespace,
                self._namespace,
                self._raw,
                self._bomb,
                self._bomb,
                self._rare,
            ),
        )

    def template(self) -> str:
        """A whole file."""
        random = self._random
        if random.random() < 0.4:
            return "".join(self._parts(random.randrange(3)) for _ in range(random.randrange(1, 3)))
        head = self._parts(1) if random.random() < 0.1 else self._namespace(0)
        head = head.replace("{{ ns.n }}", "")
        head += random.choice(("", "", "", "", "{% extends 'base.j2' %}", "{% import 'lib.j2' as lib %}"))
        names = [random.choice(BLOCKS) for _ in range(random.randrange(1, 4))]
        if random.random() < 0.8:
            names = [*dict.fromkeys((*names, "user"))]
        blocks = (f"{{% block {name} %}}{self._parts(random.randrange(3))}{{% endblock %}}" for name in names)
        return head + random.choice(("", "\n", " ")).join(blocks)

    def deep(self) -> str:
        """Nested until something gives."""
        levels = self._random.choice((5, 19, 25, 100, 1_000))
        opening, closing = self._random.choice(
            (
                ("{{ " + "(" * levels + "a", ")" * levels + " }}"),
                ("{% if a %}" * levels, "{% endif %}" * levels),
                ("{% for i in xs %}" * levels, "{% endfor %}" * levels),
                ("{{ " + "[" * levels, "]" * levels + " }}"),
                ("{{ a" + "|upper" * levels, " }}"),
                ("{{ a" + ".b" * levels, " }}"),
                ("{{ " + "not " * levels + "a", " }}"),
                ("{{ " + "-" * levels + "1", " }}"),
                ("{{ a" + " + a" * levels, " }}"),
                ("{{ a" + " ~ text" * levels, " }}"),
                ("{% filter upper %}" * levels, "{% endfilter %}" * levels),
                ("{{ a if b else " * 1 + "(a if b else " * levels + "a", ")" * levels + " }}"),
                ("{% with x = a %}" * levels, "{% endwith %}" * levels),
            )
        )
        return opening + closing

    # ------------------------------------------------------------ statements

    def _parts(self, depth: int) -> str:
        return "".join(self._random.choice(self._part)(depth) for _ in range(self._random.randrange(1, 4)))

    def _inner(self, depth: int) -> str:
        return self._parts(depth - 1) if depth else self._random.choice(("x", "", "{{ a }}", "{{ i }}"))

    def _words(self, _: int) -> str:
        return self._random.choice(
            ("text ", "é\n", "{# c #}", "- ", some_text(self._random).replace("{", "").replace("\ud800", ""))
        )

    def _printed(self, _: int) -> str:
        return "{{ " + self.expression(3) + " }}"

    def _if(self, depth: int) -> str:
        one, other = self._inner(depth), self._inner(depth)
        return f"{{% if {self.expression(2)} %}}{one}{{% else %}}{other}{{% endif %}}"

    def _for(self, depth: int) -> str:
        items = self._random.choice(("xs", "range(3)", "text", "range(99999)", "row", self.expression(1)))
        target = self._random.choice(("i", "x", "i, j", "i"))
        extra = self._random.choice(("", "", " if i", " recursive"))
        again = self._random.choice(("", "", "{{ loop(xs) }}", "{{ loop.cycle(1, 2) }}"))
        return f"{{% for {target} in {items}{extra} %}}{again}{self._inner(depth)}{{% endfor %}}"

    def _set(self, _: int) -> str:
        target = self._random.choice(("x", "y", "x, y", "ns.n", "row.a", "params.n", "a"))
        return f"{{% set {target} = {self.expression(2)} %}}"

    def _set_block(self, depth: int) -> str:
        return (
            f"{{% set {self._random.choice(('x', 'ns.s', 'y | upper'))} %}}{self._inner(depth)}{{% endset %}}"
        )

    def _macro(self, depth: int) -> str:
        again = self._random.choice(("", "", "{{ m(k) }}", "{{ m(k) }}{{ m(k) }}", "{{ caller() }}"))
        body = self._inner(depth) + again
        use = self._random.choice(("{{ m(1) }}", "{{ m() }}", "{{ m }}", ""))
        return f"{{% macro m(k=2) %}}{body}{{% endmacro %}}{use}"

    def _call(self, depth: int) -> str:
        called = self._random.choice(("m(1)", "m(1)", "a()", "lib.m()"))
        return f"{{% call {called} %}}{self._inner(depth)}{{% endcall %}}"

    def _filter(self, depth: int) -> str:
        name = self._random.choice(FILTERS)
        name = name if name not in FILTERS[-2:] else "upper"
        return f"{{% filter {name} %}}{self._inner(depth)}{{% endfilter %}}"

    def _with(self, depth: int) -> str:
        return f"{{% with y = {self.expression(2)} %}}{self._inner(depth)}{{% endwith %}}"

    def _files(self, _: int) -> str:
        name = self._random.choice(PATHS)
        return self._random.choice(FILE_TAGS).replace("@", name)

    def _namespace(self, _: int) -> str:
        return "{% set ns = namespace(n=0, s='a') %}" + self._random.choice(
            (
                "",
                "{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                "{% set ns.n = ns %}{{ ns.n }}",
            )
        )

    def _raw(self, depth: int) -> str:
        return f"{{% raw %}}{self._inner(0)}{{% endraw %}}"

    def _rare(self, depth: int) -> str:
        return self._random.choice((self._files, self._files, self._odd_tag))(depth)

    def _odd_tag(self, _: int) -> str:
        return self._random.choice(ODD_TAGS)

    def _bomb(self, _: int) -> str:
        return self._random.choice(BOMBS)

    # ------------------------------------------------------------ expressions

    def expression(self, depth: int) -> str:
        """An expression."""
        random = self._random
        if not depth or random.random() < 0.3:
            return random.choice(
                (random.choice(NAMES), random.choice(SEEN), random.choice(NUMBERS), random.choice(TEXTS))
            )
        inner = self.expression
        match random.randrange(14):
            case 0 | 1:
                return f"({inner(depth - 1)}).{random.choice(INNER)}"
            case 2:
                place = random.choice((inner(0), "::-1", "0", repr(random.choice(INNER))))
                return f"({inner(depth - 1)})[{place}]"
            case 3 | 4 | 5:
                return f"({inner(depth - 1)})|{self._filter_use(depth - 1)}"
            case 6:
                test = random.choice(TESTS if random.random() < 0.05 else TESTS[:-3])
                return f"({inner(depth - 1)}) is {random.choice(('', 'not '))}{test}"
            case 7 | 8:
                arguments = ", ".join(inner(depth - 1) for _ in range(random.randrange(3)))
                return f"{random.choice((*CALLED, inner(depth - 1)))}({arguments})"
            case 9 | 10:
                sign = random.choice(("+", "*", "**", "%", "~", "/", "//", "-", "==", "<", "in", "and", "or"))
                return f"({inner(depth - 1)}) {sign} ({inner(depth - 1)})"
            case 11:
                return f"[{inner(depth - 1)}, {inner(depth - 1)}]"
            case 12:
                return f"{{'a': {inner(depth - 1)}, {inner(0)}: 1}}"
            case _:
                return f"({inner(depth - 1)} if {inner(0)} else {inner(0)})"

    def _filter_use(self, depth: int) -> str:
        random = self._random
        name = random.choice(FILTERS if random.random() < 0.05 else FILTERS[:-2])
        if random.random() < 0.5:
            return name
        arguments = [self.expression(min(depth, 1)) for _ in range(random.randrange(1, 3))]
        if random.random() < 0.3:
            arguments = [f"{random.choice(OPTIONS)}={arguments[0]}"]
        elif name in ("map", "select", "reject", "selectattr", "rejectattr", "attr", "groupby"):
            arguments[0] = repr(random.choice((*INNER, *FILTERS, *TESTS)))
        return f"{name}({', '.join(arguments)})"


def doubled(rounds: int) -> str:
    """A list that is twice itself, again and again, in `ns.l`."""
    again = "{% set ns.l = [ns.l, ns.l] %}"
    return f"{{% set ns = namespace(l=[1]) %}}{{% for i in range({rounds}) %}}{again}{{% endfor %}}"


DEEP = "{% set ns = namespace(d={}) %}{% for i in range(2000) %}{% set ns.d = {'a': ns.d} %}{% endfor %}"

BOMBS = (
    "{{ 'a' * 10 ** 9 }}",
    "{{ [1] * 10 ** 9 }}",
    "{{ 10 ** 10 ** 8 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ ('{0}' * 9999).format(text) }}",
    "{{ 'a'.center(10 ** 9) }}",
    "{{ text|replace('b', text) }}",
    "{{ text.replace('', text) }}",
    "{{ range(10 ** 9)|list }}",
    "{{ range(99999)|map('string')|join(text) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) recursive %}{{ loop(range(9)) }}{% endfor %}",
    doubled(60) + "{{ ns.l }}",
    doubled(60) + "{% set l = ns.l %}" + doubled(60) + "{{ ns.l == l }}",
    doubled(60) + "{% set l = ns.l %}" + doubled(60) + "{{ [l, ns.l]|sort }}{{ [l].index(ns.l) }}",
    doubled(25) + "{{ ns.l|pprint }}",
    DEEP + "{{ ns.d }}",
    DEEP + "{{ ns.d|tojson }}",
    "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns.me.me|string }}",
    "{{ cycler(1, 2).next.__func__.__globals__ }}",
    "{{ (text|attr('format'))(text) }}",
    "{{ ['{0.__class__}'.format]|map('__call__', text)|list }}",
    "{{ ''.join(['a'] * 99999).join(['b'] * 999) }}",
    "{{ text|wordwrap(1)|indent(9999) }}",
    "{{ xs|sum(start=[]) }}",
    "{{ (2 ** 60000)|string }}",
    "{{ 99999999 ** 9999 }}",
    "{{ range(9999)|sort|unique|list|tojson }}",
    "{{ text|urlize(9, rel=text) }}",
    "{{ (text ~ '(' * 5000)|striptags }}",
    "{{ '<' * 9999|striptags }}",
    "{{ ('<a ' * 3000)|striptags }}",
    "{{ ('http://' * 3000)|urlize }}",
    "{{ ('a@b.' * 3000)|urlize }}",
    "{{ text|truncate(10 ** 9, true, text) }}",
    "{{ 1.5|round(10 ** 9) }}",
    "{{ 1|round(-(10 ** 5)) }}",
    "{{ some|default(text * 9999) }}",
    "{{ {}|xmlattr }}{{ {'a\n': text}|xmlattr }}",
)
