"""The broken versions of a module that `mutants.py` tests, from its syntax tree.

One place at a time: a bound, a sign, an operator, a constant, a name, a condition, a returned value, a keyword, a
dropped statement. Docstrings, types, decorators and the text of messages stay.
"""

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
            ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}  # fmt: skip
REPLACED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
            ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
            ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And}  # fmt: skip
DROPPED = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)
WITHOUT_RESULT = ("strict", "copy", "maxsize")
"""Keywords that check or save something and change no result."""


class Mutant(NamedTuple):
    """One broken version of a module: its tree, the line, and its statement before and after."""

    tree: ast.Module
    line: int
    before: str
    after: str


def breaks(node: ast.AST) -> Iterator[ast.AST]:
    """The ways to break a node, as what to put in its place."""
    new: Any = copy.deepcopy(node)
    match node:
        case ast.Compare():
            new.ops[0] = COMPARED[type(node.ops[0])]()
            yield new
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in REPLACED:
            new.op = REPLACED[type(node.op)]()
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield new.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
        case ast.Constant(value=str()) if node.value and " " not in node.value:  # names, not sentences
            yield ast.Constant(node.value + "X")
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.IfExp() | ast.If() | ast.While() if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            new.test = ast.UnaryOp(ast.Not(), new.test)
            yield new
    if isinstance(node, ast.Call):
        for n, keyword in enumerate(node.keywords):
            if keyword.arg not in WITHOUT_RESULT:
                yield ast.Call(node.func, node.args, node.keywords[:n] + node.keywords[n + 1 :])
    if isinstance(node, DROPPED) or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)):
        yield ast.Pass()


def places(node: ast.AST, statement: ast.stmt | None = None) -> Iterator[tuple[ast.stmt, ast.AST, str, int | None]]:
    """(statement, parent, field, index) of what may be broken: no docstring, type, decorator or text of a message."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr | ast.Import):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            documentation = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            kept = documentation or types or getattr(child, "arg", None) in WITHOUT_RESULT
            if kept or not isinstance(child, ast.AST):
                continue
            inside = child if isinstance(child, ast.stmt) else statement
            if inside is not None:
                yield inside, node, name, index
            yield from places(child, inside)


def mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of a file, in order of lines."""
    tree = ast.parse(path.read_text())
    for statement, parent, name, index in places(tree):
        held = getattr(parent, name)
        original = held if index is None else held[index]
        before, line = headline(statement), original.lineno if hasattr(original, "lineno") else statement.lineno
        for new in breaks(original):
            put(parent, name, index, new)
            after = headline(statement if original is not statement else new)
            after = f"without {before}" if isinstance(new, ast.Pass) else after
            yield Mutant(ast.fix_missing_locations(copy.deepcopy(tree)), line, before, after)
        put(parent, name, index, original)


def put(parent: ast.AST, name: str, index: int | None, new: ast.AST) -> None:
    """Sets a field of a node, or one place of it."""
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new


def headline(statement: ast.AST) -> str:
    """A statement as one line; of one with a body its head."""
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(statement))).partition("\n")[0]
