"""One-line changes to the code that keeps the promise, made from its syntax: each as somebody might mistype
or mistake it.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path

from tests.walls import packages

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Change:
    path: str
    """Below the root."""
    line: int
    kind: str
    before: str
    """Lines as they are, and as they become."""
    after: str
    function: str = ""
    """In which it is, with its class; or the name of a statement in SQL."""

    @property
    def id(self) -> str:
        """The same as long as these lines are, wherever they stand."""
        told = "\n".join((self.path, self.kind, self.before, self.after))
        return sha256(told.encode()).hexdigest()[:10]

    def applied(self, source: str) -> str:
        lines = source.splitlines(keepends=True)
        first, last = self.line - 1, self.line - 1 + self.before.count("\n")
        assert "".join(lines[first:last]) == self.before
        return "".join((*lines[:first], self.after, *lines[last:]))


def sources() -> list[str]:
    """Of what keeps the promise: the transaction, Kafka, and what decides."""
    chassis = [*ROOT.glob("choreo/chassis/transaction/*.py"), *ROOT.glob("choreo/chassis/kafka/*.py")]
    deciders = [ROOT / service / "decide.py" for service in packages()]
    return sorted(str(path.relative_to(ROOT)) for path in (*chassis, *deciders) if path.exists())


def changes(path: str) -> list[Change]:
    """All that there are."""
    return [change for change in _tries(path) if _is_code(change)]


@cache
def _tries(path: str) -> list[Change]:
    """With those that are no code any more."""
    source = (ROOT / path).read_text()
    tree, lines = ast.parse(source), source.splitlines(keepends=True)
    functions = list(_functions(tree))
    found: dict[str, Change] = {}
    for kind, make in KINDS.items():
        for first, last, after in make(tree, lines):
            before = "".join(lines[first - 1 : last])
            change = Change(path, first, kind, before, after, _innermost(functions, first))
            if after != before:
                found.setdefault(after + str(first), change)
    return list(found.values())


def sample(each: int, seed: int) -> list[Change]:
    """So many of each kind. A change is drawn by its own lines: those elsewhere may change meanwhile."""
    by_kind: dict[str, list[Change]] = {kind: [] for kind in KINDS}
    for path in sources():
        for change in _tries(path):
            by_kind[change.kind].append(change)
    drawn: list[Change] = []
    for of_kind in by_kind.values():
        of_kind.sort(key=partial(lot, seed))
        drawn += islice(filter(_is_code, of_kind), each)
    return sorted(drawn, key=lambda change: (change.path, change.line, change.kind))


def lot(seed: int, change: Change) -> str:
    return sha256(f"{seed} {change.id}".encode()).hexdigest()


def _functions(tree: ast.AST, within: str = "") -> Iterator[tuple[int, int, str]]:
    """First and last line, and name; those inside come after what they are in. So do statements in SQL."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and not within:
            yield node.lineno, node.end_lineno or 0, node.targets[0].id
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{within}.{node.name}" if within else node.name
            yield node.lineno, node.end_lineno or 0, name
            yield from _functions(node, name)


def _innermost(functions: Sequence[tuple[int, int, str]], line: int) -> str:
    return next((name for first, last, name in reversed(functions) if first <= line <= last), "")


def _is_code(change: Change) -> bool:
    try:
        compile(change.applied((ROOT / change.path).read_text()), change.path, "exec")
    except SyntaxError:
        return False
    return True


Made = Iterator[tuple[int, int, str]]
"""The first and the last line, and what stands there instead."""
_Lines = Sequence[str]


def _in_place(node: ast.AST, lines: _Lines, text: str) -> Made:
    """Of what stands on one line."""
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
    if first and first == last:
        raw = lines[first - 1].encode()
        begin, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", 0)
        yield first, first, (raw[:begin] + text.encode() + raw[end:]).decode()


_OTHER_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


def _comparisons(tree: ast.AST, lines: _Lines) -> Made:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            other = ast.Compare(node.left, [_OTHER_COMPARISON[type(node.ops[0])]()], node.comparators)
            yield from _in_place(node, lines, ast.unparse(other))


def _connectives(tree: ast.AST, lines: _Lines) -> Made:
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp):
            other = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
            yield from _in_place(node, lines, ast.unparse(ast.BoolOp(other, node.values)))


def _negations(tree: ast.AST, lines: _Lines) -> Made:
    for node in ast.walk(tree):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield from _in_place(node, lines, f"bool({ast.unparse(node.operand)})")


def _off_by_one(tree: ast.AST, lines: _Lines) -> Made:
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=ast.Constant(value=1)):
                yield from _in_place(node, lines, ast.unparse(left))


def _checks(tree: ast.AST, lines: _Lines) -> Made:
    """What is left at once if something holds, is not left: `if …: return`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(
            node.body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break
        ):
            yield from _in_place(node.test, lines, "False")


def _remembered(tree: ast.AST, lines: _Lines) -> Made:
    """What is remembered is not asked: as if it were not there."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(ops=[ast.In() | ast.NotIn() as op], comparators=[ast.Attribute()]):
                yield from _in_place(node, lines, str(isinstance(op, ast.NotIn)))
            case ast.BoolOp(op=ast.Or(), values=[ast.Attribute(), other]) if _waits(other):
                yield from _in_place(node, lines, ast.unparse(other))
            case ast.If(test=ast.Compare(left=ast.Name(id=name), ops=[ast.IsNot()]) as test) if (
                name in _KNOWN
            ):
                yield from _in_place(test, lines, "False")


_KNOWN = ("before", "known", "seen")


def _waits(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Await) for part in ast.walk(node))


def _before_commit(tree: ast.AST, lines: _Lines) -> Made:
    """What is done once something is committed is done just before: it is told, or acknowledged."""
    for block in _blocks(tree):
        for one, other in pairwise(block):
            commits = [node for node in ast.walk(one) if isinstance(node, ast.Expr) and _is_commit(node)]
            if not commits or not isinstance(other, ast.Expr) or _is_commit(other):
                continue
            at, last = commits[-1].lineno, other.end_lineno or 0
            indent = re.match(" *", lines[at - 1])
            told = "".join(lines[other.lineno - 1 : last]).strip()
            kept = "".join(lines[at - 1 : other.lineno - 1])
            yield at, last, f"{indent.group() if indent else ''}{told}\n{kept}"


def _is_commit(node: ast.Expr) -> bool:
    return ast.unparse(node).endswith(".commit()")


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and not isinstance(node, ast.Module | ast.ClassDef):
                yield block


def _swapped(tree: ast.AST, lines: _Lines, *, awaits: bool) -> Made:
    """Two statements, the one after the other."""
    for block in _blocks(tree):
        for one, other in pairwise(block):
            if not (_calls(one) and _calls(other)) or one.end_lineno != other.lineno - 1:
                continue
            if _names(one, ast.Store) & _names(other, ast.Load):
                continue  # it would not run at all
            if awaits != any(map(_waits, (one, other))):
                continue
            first, middle, last = one.lineno, one.end_lineno or 0, other.end_lineno or 0
            yield first, last, "".join((*lines[middle:last], *lines[first - 1 : middle]))


def _calls(statement: ast.stmt) -> bool:
    """Whether it does something that order may matter to."""
    if not isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign) or _is_log(statement):
        return False
    return any(isinstance(node, ast.Call) and not _is_pure(node.func) for node in ast.walk(statement))


def _is_pure(function: ast.expr) -> bool:
    """As are classes, which only hold what they are given."""
    name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
    return name in _PURE or name[:1].isupper()


_PURE = (
    "join",
    "len",
    "list",
    "dict",
    "set",
    "frozenset",
    "sorted",
    "min",
    "max",
    "sum",
    "str",
    "repr",
    "zip",
)


def _names(statement: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    nodes = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, context)}


def _statements(tree: ast.AST, lines: _Lines) -> Made:
    """Something that is called is not."""
    for block in _blocks(tree):
        for statement in block:
            match statement:
                case ast.Expr(value=ast.Call()) if not _is_log(statement):
                    yield from _in_place(statement, lines, "pass")


def _is_log(statement: ast.stmt) -> bool:
    return ast.unparse(statement).startswith("log.")


def _awaits(tree: ast.AST, lines: _Lines) -> Made:
    """What is awaited for its own sake is not."""
    for block in _blocks(tree):
        for statement in block:
            match statement:
                case ast.Expr(value=ast.Await(value=awaited)):
                    yield from _in_place(statement, lines, f"({ast.unparse(awaited)}).close()")


def _clean_up(tree: ast.AST, lines: _Lines, *, late: bool) -> Made:
    """What is done when something ends, or has gone wrong, is not. `late`: because time ran out."""
    for node in ast.walk(tree):
        is_late = isinstance(node, ast.ExceptHandler) and "Timeout" in ast.unparse(node.type or node)
        if isinstance(node, ast.Try):
            ends = node.finalbody
            is_late = "imeout" in ast.unparse(ast.Module(node.body, []))
        else:
            ends = node.body if isinstance(node, ast.ExceptHandler) else []
        for statement in ends if is_late == late else ():
            if isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign) and not _is_log(statement):
                yield from _in_place(statement, lines, "pass")


def _keys(tree: ast.AST, lines: _Lines, *, locks: bool) -> Made:
    """Another key, or a part of the keys. `locks`: where something is locked by them, or counts as locked."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or locks != bool(_LOCKS.search(lines[node.lineno - 1])):
            continue
        match node:
            case ast.Attribute(attr="keys"):
                yield from _in_place(node, lines, f"frozenset(list({ast.unparse(node)})[:1])")
            case ast.Attribute(value=owner, attr="key", ctx=ast.Load()):
                yield from _in_place(node, lines, f'({ast.unparse(owner)}.key + "x")')
            case ast.Name(id="key", ctx=ast.Load()) if locks:
                yield from _in_place(node, lines, '(key + "x")')


_LOCKS = re.compile(r"lock_keys|keys\.lock|held_back|_stuck|_asking")


def _partitions(tree: ast.AST, lines: _Lines) -> Made:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="partition", ctx=ast.Load()):
                yield from _in_place(node, lines, f"({ast.unparse(node)} + 1)")
            case ast.Name(id="partition", ctx=ast.Load()):
                yield from _in_place(node, lines, "(partition + 1)")


_LOCK_IN_SQL = (
    (re.compile(r" ?FOR (NO KEY )?UPDATE( OF [\w, ]+?)?(?= SKIP|\)|\"|$)"), ""),
    (re.compile(r" SKIP LOCKED"), ""),
)
_IN_SQL = (
    (re.compile(r"ORDER BY position"), "ORDER BY position DESC"),
    (re.compile(r" ON CONFLICT DO NOTHING"), ""),
    (re.compile(r"(WHERE .+) AND .+$"), r"\1"),
    (re.compile(r"= ANY\("), "<> ANY("),
)


def _sql(tree: ast.AST, lines: _Lines, *, patterns: Sequence[tuple[re.Pattern[str], str]]) -> Made:
    """In what Postgres is asked: a lock, an order, a condition."""
    inside = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and "/*" in ast.unparse(node)
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    for number in sorted(inside):
        for pattern, instead in patterns:
            yield number, number, pattern.sub(instead, lines[number - 1].rstrip("\n"), count=1) + "\n"


KINDS: dict[str, Callable[[ast.AST, _Lines], Made]] = {
    "told before the commit": _before_commit,
    "cache check removed": _remembered,
    "wrong key in a lock": partial(_keys, locks=True),
    "lock dropped in SQL": partial(_sql, patterns=_LOCK_IN_SQL),
    "time-out without its clean-up": partial(_clean_up, late=True),
    "comparison": _comparisons,
    "and, or": _connectives,
    "not": _negations,
    "off by one": _off_by_one,
    "check removed": _checks,
    "statements swapped": partial(_swapped, awaits=False),
    "await moved": partial(_swapped, awaits=True),
    "clean-up skipped": partial(_clean_up, late=False),
    "await dropped": _awaits,
    "call dropped": _statements,
    "wrong key": partial(_keys, locks=False),
    "wrong partition": _partitions,
    "in SQL": partial(_sql, patterns=_IN_SQL),
}
"""What two kinds would make of the same lines is of the first."""
