"""The sentences of the code that no golden world tells: each is a template, whose holes are written as …"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import ft_pipeline

PACKAGE = Path(ft_pipeline.__file__).parent
TELLERS = (
    "release/*.py",
    "release/report/*.py",
    "decide/*.py",
    "decide/findings/*.py",
    "decide/sources/*.py",
    "evaluation/comparison/*.py",
    "evaluation/opinions/*.py",
)
"""Where sentences about a comparison are made."""
NO_TELLERS = (
    "candidates.py",
    "champion.py",
    "champion_service.py",
    "exposure_ledger.py",
    "gguf_files.py",
    "intact.py",
    "latency.py",
    "manual_promotion.py",
    "model_lookup.py",
    "plots.py",
    "requests.py",
    "contaminated_models.py",
)
"""Files among them that say nothing about a comparison, or to others than the readers of the pages."""
HOLE = "…"
FEWEST_WORDS = 3


def unreached(told: Iterable[str]) -> list[str]:
    """Return the templates that are in none of these texts, sorted."""
    lines = {line.replace("\\", "") for text in told for line in text.split("\n")}
    return sorted(template for template in set(templates()) if not _is_told(template, lines))


def _is_told(template: str, lines: Iterable[str]) -> bool:
    parts = template.split(HOLE)
    pattern, longest = re.compile(".*?".join(map(re.escape, parts))), max(parts, key=len)
    return any(pattern.search(line) for line in lines if longest in line)


def templates() -> Iterator[str]:
    """Yield every string of the tellers that has some words."""
    for place in TELLERS:
        for path in sorted(PACKAGE.glob(place)):
            if path.name not in NO_TELLERS:
                yield from _templates_of(ast.parse(path.read_text(encoding="utf-8")))


def _templates_of(tree: ast.AST) -> Iterator[str]:
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    skipped = {id(part) for node in ast.walk(tree) for part in _not_told(node)}
    for node in ast.walk(tree):
        if id(node) in inner or id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(value.value) if isinstance(value, ast.Constant) else HOLE for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if len(re.findall(r"[a-zA-Z]{2,}", text)) >= FEWEST_WORDS and " " in text.strip():
            yield re.sub(r"{[^}]*}", HOLE, text).strip()


def _not_told(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is no sentence for readers: docstrings, and the messages of errors."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value
    if isinstance(node, ast.Raise):
        yield from ast.walk(node)
