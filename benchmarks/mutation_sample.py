"""Draw the sample of mutations.py: mutants that change one operator, number or condition in code that decides.

    pip install --target build/cosmic-ray --no-deps cosmic-ray==8.7.0 attrs parso stevedore
    PYTHONPATH=build/cosmic-ray python -m benchmarks.mutation_sample

The operators are those of Cosmic Ray. Only this script needs it: the committed sample stays as it is, so that scores
before and after a change are of the same mutants. A new sample needs a reader, who removes mutants that change nothing.
"""

import ast
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

from benchmarks.mutations import ROOT, SAMPLE, Mutant, functions_in

AREAS = {
    "decision": {
        "release/promotion_rules": 10,
        "release/decision": 5,
        "release/verdict": 7,
        "release/exposure": 4,
        "release/exposure_ledger": 3,
        "release/preferences": 2,
        "evaluation/recommendation/rules": 5,
        "evaluation/recommendation/evidence": 4,
        "evaluation/recommendation/observations": 2,
    },
    "leads": {
        "evaluation/comparison/leads": 8,
        "evaluation/comparison/pairing": 4,
        "evaluation/comparison/deciding_metric": 3,
        "evaluation/comparison/drops": 3,
        "evaluation/comparison/screens": 2,
        "evaluation/comparison/kept_leads": 2,
        "evaluation/comparison/recipe_leads": 2,
    },
    "splits": {
        "tables/splits": 2,
        "tables/split_assignment": 6,
        "tables/held_out": 4,
        "tables/leaks": 3,
        "tables/dedup/near_duplicates": 4,
    },
    "rows": {
        "tables/accounts": 2,
        "tables/duplicates": 5,
        "tables/quarantine": 4,
        "tables/ingest": 4,
        "tables/process_batch": 3,
        "tables/conversations": 2,
    },
    "store": {
        "store/artifacts": 6,
        "store/asset_pointers": 2,
        "store/journal": 6,
        "store/ledger": 3,
        "store/spec": 2,
        "store/hashing": 1,
        "store/row_hash": 2,
    },
}
"""Area → module → number of mutants."""
SEED = 40
COARSE = ("AddNot", "ZeroIterationForLoop")
"""Operators whose mutants are the easiest to find. They are drawn where a line has no other mutant."""
OPERATORS = (
    *COARSE,
    "NumberReplacer",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceUnaryOperator_Delete_Not",
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
    ),
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "BitAnd_BitOr", "BitOr_BitAnd")
    ),
)
"""Those whose mutants a person might write."""
NOTHING_DECIDES = re.compile(
    r"indent=|ignore_errors|logger|root|folder|\bpath|assert |\*\*[a-z{]|strict=|zero_copy_only|return_|hint", re.I
)
"""Lines that format, name files, state types or say what is returned: their mutants crash, or change nothing."""
EQUIVALENT = (
    "self._files += 1", "self._bytes = 0", "if len(remembered) < MAX_POSTINGS", "end = min(max(",
    "return self.artifacts / kind", "pq.write_table(pa.table({\"sequence", "| _locate(", "sums = [np.zeros",
    "return memoryview(", "by_code = sorted(count_by_code", "place = group[:, 1]",
)  # fmt: skip
"""Beginnings of lines whose mutants change nothing, or always crash."""


def mutants_of(area: str, module: str, count: int) -> list[Mutant]:
    """Return mutants of a module in an order of chance: one of each function first, then a second one, and so on. At
    most one is of the same line."""
    source = (ROOT / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    places = {line: name for name, node in functions_in(source) for line in _lines_that_decide(node)}
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, occurrence, line in _positions(source):
        text = lines[line - 1].strip()
        decides = text.count('"') <= 2 and not NOTHING_DECIDES.search(text) and not text.startswith(EQUIVALENT)
        if line in places and decides:
            found[line].append((name, occurrence))
    chance = random.Random(f"{SEED} {module}")
    order = sorted(found, key=lambda line: chance.random())
    turns = {line: sum(places[other] == places[line] for other in order[:at]) for at, line in enumerate(order)}
    chosen: list[Mutant] = []
    for line in sorted(order, key=lambda line: turns[line]):
        fine = [entry for entry in found[line] if entry[0] not in COARSE]
        name, occurrence = chance.choice(fine or found[line])
        mutated = mutate_code(source, OperatorProvider()[name](), occurrence).splitlines()
        changed = [at for at, pair in enumerate(zip(lines, mutated, strict=False)) if pair[0] != pair[1]]
        after = re.sub(r"(?<=[^ ] ) (?!#)|(?<=[\[(]) |(?<=[\[(]-) ", "", mutated[line - 1].strip())
        mutant = Mutant(area, module, places[line], lines[line - 1].strip(), after)
        if len(mutated) == len(lines) and changed == [line - 1] and mutant.place(source) is not None:
            chosen.append(mutant)
        if len(chosen) == count:
            break
    return chosen


def _positions(source: str) -> Iterator[tuple[str, int, int]]:
    """Yield (operator, occurrence, line) of every mutant."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in OPERATORS:
        lines = [begin[0] for node in nodes for begin, _ in OperatorProvider()[name]().mutation_positions(node)]
        yield from ((name, occurrence, line) for occurrence, line in enumerate(lines))


def _lines_that_decide(function: ast.FunctionDef) -> Iterator[int]:
    """Yield the lines of a function's statements, without its signature and without those that raise an error."""
    for node in function.body:
        skipped = [child for child in ast.walk(node) if isinstance(child, (ast.Raise, ast.JoinedStr, ast.FunctionDef))]
        without = {line for child in skipped for line in range(child.lineno, (child.end_lineno or 0) + 1)}
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        yield from () if is_text else (n for n in range(node.lineno, (node.end_lineno or 0) + 1) if n not in without)


def main() -> None:
    sample = [
        mutant
        for area, counts in AREAS.items()
        for module, count in counts.items()
        for mutant in mutants_of(area, f"ft_pipeline/{module}.py", count)
    ]
    SAMPLE.write_text("[\n" + ",\n".join(json.dumps(vars(mutant)) for mutant in sample) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
