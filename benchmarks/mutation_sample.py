"""Draw the sample of mutations.py: mutants that change one operator, number or condition in code that decides.

Each possible mutant of an area has a rank, which is a hash of its function and its line before and after; those of the
lowest ranks are drawn. So no list is kept: code that stays, or moves to another module, keeps its mutants, and code
that is new brings as many as its share.
"""

import ast
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "ft_pipeline"
AREAS = {
    "decision": (
        "release/promotion_rules", "release/decision", "release/verdict", "release/preferences", "release/exposure",
        "release/exposure_ledger", "evaluation/recommendation/rules", "evaluation/recommendation/evidence",
        "evaluation/recommendation/observations",
        "decide/promote", "decide/verdict", "decide/advise", "decide/recommend", "decide/desk", "decide/observations",
        "decide/exposure", "decide/exposure_ledger",
    ),
    "leads": (
        "evaluation/comparison/leads", "evaluation/comparison/deciding_metric", "evaluation/comparison/pairing",
        "evaluation/comparison/drops", "evaluation/comparison/screens", "evaluation/comparison/kept_leads",
        "evaluation/comparison/recipe_leads", "evaluation/comparison/slices",
        "decide/claim", "decide/sources/leads", "decide/sources/screens", "decide/sources/kept",
        "decide/sources/recipes", "decide/sources/slices",
    ),
    "splits": (
        "tables/splits", "tables/split_assignment", "tables/held_out", "tables/leaks", "tables/dedup/near_duplicates",
    ),
    "rows": (
        "tables/accounts", "tables/duplicates", "tables/quarantine", "tables/ingest", "tables/process_batch",
        "tables/conversations",
    ),
    "store": (
        "store/artifacts", "store/asset_pointers", "store/journal", "store/ledger", "store/spec", "store/hashing",
        "store/row_hash",
    ),
}  # fmt: skip
"""Area → its modules. Those that a commit lacks are left out: what decided was once in release/ and evaluation/."""
OF_AREA = 25
"""The number of mutants."""
SEED = 40
NOTHING_DECIDES = re.compile(
    r"indent=|ignore_errors|logger|root|folder|\bpath|assert |\*\*[a-z{]|strict=|zero_copy_only|return_|hint", re.I
)
"""Lines that format, name files, state types or say what is returned: their mutants crash, or change nothing."""
_COMPARISONS = {
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A fault: one line of a function, before and after."""

    area: str
    module: str
    """The path of the file in the repository."""
    line: int
    """Its number, from 0."""
    function: str
    """Its name, with the classes and functions around it."""
    before: str
    after: str

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return f"{self.function}: {self.before} → {self.after}"

    @property
    def rank(self) -> str:
        return hashlib.sha256(f"{SEED} {self.name}".encode()).hexdigest()

    def changed(self, source: str) -> str:
        """Return the source with the fault."""
        lines = source.splitlines(keepends=True)
        lines[self.line] = lines[self.line].replace(self.before, self.after)
        return "".join(lines)

    def __str__(self) -> str:
        return f"{self.area}: {self.module}, {self.name}"


def sample(root: Path) -> list[Mutant]:
    """Return the mutants of all areas of a repository: at most one is of the same line."""
    return [mutant for area in AREAS for mutant in _drawn(area, root)]


def _drawn(area: str, root: Path) -> list[Mutant]:
    modules = [f"{PACKAGE}/{name}.py" for name in AREAS[area] if (root / PACKAGE / f"{name}.py").is_file()]
    ranked = sorted((mutant for name in modules for mutant in mutants_of(area, name, root)), key=lambda one: one.rank)
    first_of_line = {(mutant.module, mutant.line): mutant for mutant in reversed(ranked)}
    return sorted(first_of_line.values(), key=lambda one: one.rank)[:OF_AREA]


def mutants_of(area: str, module: str, root: Path) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    source = (root / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    for name, function in functions_in(source):
        nested = {line for child in _functions_below(function) for line in _range(child)}
        deciding = set(_lines_that_decide(function)) - nested
        for node in ast.walk(function):
            for line, begin, end, new in _changes(node, lines):
                text = lines[line]
                if line + 1 in deciding and text.count('"') <= 2 and not NOTHING_DECIDES.search(text):
                    after = f"{text[:begin]}{new}{text[end:]}"
                    yield Mutant(area, module, line, name, text.strip(), after.strip())


def functions_in(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (qualified name, function) of all functions and methods."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    return walk(ast.parse(source), "")


def _functions_below(function: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(function) if isinstance(node, ast.FunctionDef) and node is not function)


def _range(node: ast.stmt | ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or 0) + 1)


def _lines_that_decide(function: ast.FunctionDef) -> Iterator[int]:
    """Yield the lines of a function's statements, without its signature and without those that raise an error."""
    for node in function.body:
        skipped = [child for child in ast.walk(node) if isinstance(child, (ast.Raise, ast.JoinedStr))]
        without = {line for child in skipped for line in _range(child)}
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        yield from () if is_text else (line for line in _range(node) if line not in without)


def _changes(node: ast.AST, lines: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    """Yield (line, begin, end, new text) for what a person might mistake in a node of the syntax."""
    match node:
        case ast.Compare():
            for left, one, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from _between(left, right, _COMPARISONS.get(type(one)), lines)
        case ast.BoolOp():
            words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from _between(left, right, words, lines)
        case ast.BinOp():
            yield from _between(node.left, node.right, _ARITHMETIC.get(type(node.op)), lines)
        case ast.UnaryOp(op=ast.Not()):
            if node.operand.lineno == node.lineno:
                yield from _replaced(node.lineno - 1, node.col_offset, node.operand.col_offset, ("not ", ""), lines)
        case ast.If() | ast.IfExp() | ast.While():
            yield from _negated(node.test, lines)
        case ast.comprehension():
            for condition in node.ifs:
                yield from _negated(condition, lines)
        case ast.Constant(value=bool()):
            yield from _instead(node, str(not node.value), lines)
        case ast.Constant(value=int() | float()):
            yield from _instead(node, repr(node.value + 1), lines)
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            yield from _instead(node.func, _CALLS[name], lines)
        case ast.Break():
            yield from _instead(node, "continue", lines)
        case ast.Continue():
            yield from _instead(node, "break", lines)


def _between(
    left: ast.expr, right: ast.expr, words: tuple[str, str] | None, lines: Sequence[str]
) -> Iterator[tuple[int, int, int, str]]:
    """Yield the change of the operator that stands between two operands in one line."""
    if words and right.lineno == left.end_lineno:
        yield from _replaced(right.lineno - 1, left.end_col_offset or 0, right.col_offset, words, lines)


def _replaced(
    at: int, begin: int, end: int, words: tuple[str, str], lines: Sequence[str]
) -> Iterator[tuple[int, int, int, str]]:
    if lines[at].isascii():  # the columns of the syntax are bytes
        yield at, begin, end, lines[at][begin:end].replace(*words, 1)


def _instead(node: ast.stmt | ast.expr, new: str, lines: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    at = node.lineno - 1
    if node.end_lineno == node.lineno and lines[at].isascii():
        yield at, node.col_offset, node.end_col_offset or 0, new


def _negated(test: ast.expr, lines: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    """Yield the opposite of a condition that is no comparison and no `not`: those have mutants of their own."""
    if isinstance(test, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)):
        for at, begin, end, _ in _instead(test, "", lines):
            yield at, begin, end, f"not {lines[at][begin:end]}"
