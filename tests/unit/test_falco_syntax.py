"""The text of Falco conditions: what is accepted, what is refused, and that nothing else happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules.falco.syntax import (
    MAX_TEXT,
    All,
    BadCondition,
    Check,
    Field,
    Macro,
    Not,
    Some,
    Value,
    parse,
)


def check(name: str, operator: str, *values: str, bare: bool = True) -> Check:
    return Check(Field(name), operator, tuple(Value(value, bare) for value in values))


@pytest.mark.parametrize(("text", "node"), [
    ("a", Macro("a")),
    ("not a and b or c", Some((All((Not(Macro("a")), Macro("b"))), Macro("c")))),
    ("a and (b or c)", All((Macro("a"), Some((Macro("b"), Macro("c")))))),
    ("not not a", Macro("a")),
    ("not(a)", Not(Macro("a"))),
    ("proc.name=nc", check("proc.name", "=", "nc")),
    ("fd.num>=0", check("fd.num", ">=", "0")),
    ("proc.name = and", check("proc.name", "=", "and")),
    ("proc.name in (or, not, in)", check("proc.name", "in", "or", "not", "in")),
    ("proc.name in ()", check("proc.name", "in")),
    ("proc.name in names", check("proc.name", "in", "names")),
    ("proc.pname in (runc:[0:PARENT], x)", check("proc.pname", "in", "runc:[0:PARENT]", "x")),
    ("fd.name startswith /etc/", check("fd.name", "startswith", "/etc/")),
    ("fd.name pmatch (/etc, /var/*)", check("fd.name", "pmatch", "/etc", "/var/*")),
    ('proc.cmdline= "sh -c \\"a\\""', check("proc.cmdline", "=", 'sh -c "a"', bare=False)),
    (r"proc.args regex 'a\\.b'", check("proc.args", "regex", r"a\.b", bare=False)),
    ("not proc.pname exists", Not(check("proc.pname", "exists"))),
    ("proc.aname[2] = x", Check(Field("proc.aname", "2"), "=", (Value("x"),))),
    ("evt.arg['a b'] = x", Check(Field("evt.arg", "a b"), "=", (Value("x"),))),
    ("tolower(basename(proc.exe)) glob x*",
     Check(Field("proc.exe", None, ("basename", "tolower")), "glob", (Value("x*"),))),
    ("proc.name = val(proc.pname)", Check(Field("proc.name"), "=", (Field("proc.pname"),))),
    ("proc.name in val(proc.aname[1])", Check(Field("proc.name"), "in", (Field("proc.aname", "1"),))),
])
def test_text_becomes_its_tree(text: str, node: object) -> None:
    """Operators bind as Falco's do, and keywords are values where a value stands."""
    assert parse(text) == node


@pytest.mark.parametrize("text", [
    "", " \n", "a and", "a b", "or a", "()", "(a", "a)", "proc.name", "proc.name =", "proc.name = a b",
    "proc.name in (a b)", "proc.name in (a,", "proc.name in (a,)", "proc.name = 'x", 'proc.name = "\\q"',
    "proc.name = '\\\"'", "proc.name startswithx", "proc.name like x", "proc.name[", "proc.aname[] = x", ".name = x",
    "tolower(proc.name = x", "val(proc.name) = x", "proc.name ! x", "a andb", "proc.name exists x",
])
def test_broken_text_is_refused_with_a_reason(text: str) -> None:
    """Never accepted in part."""
    with pytest.raises(BadCondition, match=r"condition|escape"):
        parse(text)


def test_refusal_quotes_the_place() -> None:
    """What stands where the reader stumbled."""
    with pytest.raises(BadCondition, match="unexpected 'oops and b'"):
        parse("proc.name = a oops and b")


def test_long_and_deep_texts_are_refused_or_read() -> None:
    """Limits in characters and nesting; parentheses alone nest nothing."""
    with pytest.raises(BadCondition, match="longer"):
        parse("a or " * MAX_TEXT)
    with pytest.raises(BadCondition, match="deeper"):
        parse("not (a or b and " * 100 + "c" + ")" * 100)
    assert parse("(" * 8000 + "a" + ")" * 8000) == Macro("a")
    assert parse("not " * 4000 + "a") == Macro("a")
    wide = parse("a or " * 3000 + "a")
    assert isinstance(wide, Some)
    assert len(wide.items) == 3001


_PIECES = st.sampled_from([
    "and", "or", "not", "(", ")", ",", " ", "\n", "=", "!=", "==", "<", ">=", "in", "intersects", "pmatch", "exists",
    "contains", "glob", "regex", "startswith", "proc.name", "fd.name", "proc.aname[2]", "evt.arg.x", "evt.arg[0]",
    "a", "list_1", "/etc/x", '"a b"', "'", '"', "\\", "[", "]", "val(", "tolower(", "basename(", "0x1f", "-1", "é",
    "\x00", "\udc80", "<NA>", "runc:[1:CHILD]", "**", "%",
])


@given(st.one_of(st.lists(_PIECES, max_size=40).map(" ".join), st.lists(_PIECES, max_size=40).map("".join),
                 st.text(max_size=60)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but BadCondition is ever raised."""
    try:
        parse(text)
    except BadCondition as error:
        assert str(error)


@pytest.mark.parametrize("piece", ["(", "not ", "not(", "a or ", "a and (", '"', "'", "[", "proc.name in (", "val(",
                                   "tolower(", "a.", "a", "\\", "proc.name=", "proc.name = '\\", ",", "0", "\n"])
def test_one_piece_again_and_again_ends(piece: str) -> None:
    """Repetition up to the limit is read or refused without a recursion that overflows."""
    with pytest.raises(BadCondition):
        parse((piece * MAX_TEXT)[:MAX_TEXT - 1] + ")")
