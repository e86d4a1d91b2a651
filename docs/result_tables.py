"""Tables and sentences that pages show of a result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS_OF_CPU = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
"""By Linux's name of an instruction set, the fastest first."""
LEAST_SECONDS = 0.0001
Result = Mapping[str, Any]


def _interval(
    ends: Sequence[float | None] | None, digits: int, scale: float = 1, sign: str = "", unit: str = ""
) -> str:
    """Return a value with its interval; empty without a value."""
    if ends is None or ends[0] is None:
        return ""
    value, low, high = (None if end is None else end * scale for end in ends)
    around = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:{sign}.{digits}f}{unit}{around}".replace("-", "−")


def formatted(value: Any, digits: int, unit: str) -> str:
    """Return a number, or a value with its interval, as a sentence shows it. unit: as in results.py."""
    scale = {"": 1.0, "%": 100.0, "points": 100.0, "min": 1 / 60}[unit]
    ends = value if isinstance(value, Sequence) else (value, None, None)
    return _interval(ends, digits, scale, unit=" %" if unit == "%" else "")


def _number(value: float | None, digits: int, scale: float = 1, unit: str = "") -> str:
    return "" if value is None else f"{value * scale:.{digits}f}{unit}"


def _score(row: Result, metric: str) -> Sequence[float | None] | None:
    scores: Mapping[str, Any] = row["scores"]
    return scores.get(metric)


def _value(row: Result, metric: str, digits: int, scale: float = 1, unit: str = "") -> str:
    """Return a score without its interval; empty if the row has none."""
    score = _score(row, metric)
    return "" if score is None else _number(score[0], digits, scale, unit)


def _percent(row: Result, metric: str) -> str:
    return _interval(_score(row, metric), 0, 100, unit=" %")


def _lead(row: Result, result: Result) -> str:
    rivals = {each.get("best_prompt") for each in result["rows"].values()}
    if any(result["rows"].get(name) is row for name in rivals):
        return "is the best prompt"
    return _interval(row.get("better_by_percent"), 0, sign="+", unit=" %")


def _better_answers(row: Result, result: Result) -> str:
    count = row.get("better_answers")
    return "" if count is None else f"{count} of {result['rows_read']['test_answers']}"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value >= LEAST_SECONDS else f"below {LEAST_SECONDS}"


@dataclass(frozen=True)
class Column:
    """A column of the table of scores."""

    head: str
    meaning: str
    """Below the table; empty if the heading says it."""
    cell: Callable[[Result, Result], str]
    """From a row and its result."""


COLUMNS = {
    "lead": Column(
        "better than the best prompt by (95 %)",
        "by how many percent people's answers are less unexpected to it (in nats per byte) than to the best use of the "
        "untouched model",
        _lead,
    ),
    "better": Column("better in", "the test answers that it predicts better", _better_answers),
    "nats_per_byte": Column(
        "nats per byte (95 %)",
        "how unexpected people's answers are to it; lower is better",
        lambda row, _: _interval(_score(row, "nats_per_byte"), 3),
    ),
    "loss": Column(
        "loss (95 %)",
        "how unexpected people's answers are to it, in nats per token; lower is better",
        lambda row, _: _interval(_score(row, "loss"), 3),
    ),
    "chrf": Column(
        "chrF", "how similar its own answers are to people's, 0 to 100", lambda row, _: _value(row, "chrf", 1)
    ),
    "rouge_l": Column("ROUGE-L", "words shared in order, 0 to 1", lambda row, _: _value(row, "rouge_l", 3)),
    "cut_off": Column(
        "unfinished",
        "its answers that do not end within the limit",
        lambda row, _: _number(row["cut_off"], 0, 100, " %"),
    ),
    "repeats": Column(
        "repeats",
        "its answers that repeat themselves",
        lambda row, _: _number(row["faults"]["repetition"], 0, 100, " %"),
    ),
    "length": Column("length", "of its answers; 1 is that of people's", lambda row, _: _value(row, "length_ratio", 2)),
    "general": Column(
        "general", "general questions answered right", lambda row, _: _value(row, "general_accuracy", 0, 100, " %")
    ),
    "prompt_tokens": Column("prompt tokens per call", "", lambda row, _: _number(row["prompt_tokens"], 0)),
    "seconds": Column("seconds per call", "", lambda row, _: _seconds(row["seconds_per_call"])),
    "training": Column("training", "", lambda row, _: _minutes(row["training_seconds"])),
}
"""By name. Any other name is a metric that is a share."""
LIKELIHOOD_COLUMNS = ("lead", "better", "chrf", "cut_off", "length", "general", "prompt_tokens", "seconds")
CHECK_COLUMNS = ("cut_off", "general", "prompt_tokens", "seconds")
"""Columns if no likelihood decides, after the metric that does."""


def scores(result: Result, rows: str = "", columns: str = "") -> str:
    """The table of scores. rows, columns: names, separated by commas; by default all rows but the champion's own."""
    by_likelihood = any("better_by_percent" in row for row in result["rows"].values())
    default = LIKELIHOOD_COLUMNS if by_likelihood else (result["metric"], *CHECK_COLUMNS)
    wanted = columns.split(",") if columns else list(default)
    chosen = [COLUMNS.get(name) or _share_of(name, result) for name in wanted]
    compared = [name for name, row in result["rows"].items() if row["kind"] != "champion"]
    shown = rows.split(",") if rows else compared
    cells = [[_name(name, result), *(column.cell(result["rows"][name], result) for column in chosen)] for name in shown]
    meanings = [f"- *{column.head.removesuffix(' (95 %)')}*: {column.meaning}" for column in chosen if column.meaning]
    return "\n".join([_table(["", *(column.head for column in chosen)], cells), "", *meanings])


def _share_of(metric: str, result: Result) -> Column:
    return Column(f"{result['labels'][metric]} (95 %)", "", lambda row, _: _percent(row, metric))


def _name(name: str, result: Result) -> str:
    row = result["rows"][name]
    learned = f", trained on {row['learned_from']}" if row["learned_from"] else ""
    fault = "" if row["usable"] else ", not usable"
    return f"`{name}`: {row['what']}{learned}{fault}"


def own_targets(result: Result, experiments: str = "") -> str:
    """What each training was to improve on its held-out rows."""
    wanted = experiments.split(",") if experiments else list(result["own_targets"])
    cells = [
        [f"`{name}`", target["label"], target["values"], target["change"], target["verdict"]]
        for name in wanted
        for target in result["own_targets"][name]
    ]
    return _table(["experiment", "own target", "before → after", "change (95 %)", ""], cells)


def verdict(result: Result) -> str:
    """The verdict in its own words."""
    return f"> **{result['verdict']['sentence']}** {result['verdict']['basis']}".rstrip()


def run(result: Result) -> str:
    """Where the numbers come from, as a sentence."""
    machine, rows = result["machine"], result["rows_read"]
    kind = next(
        (f" with {name}" for key, name in KINDS_OF_CPU.items() if key in (machine["instruction_sets"] or ())), ""
    )
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    note = f", {result['note']}" if result["note"] else ""
    return (
        f"Measured on {result['date']} with `{result['command']}` on {machine['cores']} cores ({machine['cpu']}"
        f"{kind}, {threads}, {machine['computed_in']}{note}), version {result['version']}, commit "
        f"`{result['commit'][:8]}`: {rows['test_answers']} test answers of {rows['test_conversations']} conversations."
    )


def steps(result: Result) -> str:
    """The seconds of each step, and of all."""
    taken = result["seconds"]
    cells = [[f"`{name}`", _minutes(seconds)] for name, seconds in taken["steps"].items()]
    return _table(["step", "time"], [*cells, ["all steps", _minutes(taken["all_steps"])]])


def answer(result: Result, pick: str = "typical") -> str:
    """A test question, the answers of the untouched model, of its best prompt and of the chosen one, and a person's.
    pick: `typical` (the median gain over the best prompt), `good` (the 90th percentile) or `worst`."""
    chosen = next(each for each in result["answers"] if pick in each["name"])
    before, after = chosen["models"]
    asked = [f"**{turn['role']}:** {turn['text']}" for turn in chosen["turns"]]
    question = asked[0].partition(" ")[2] if len(asked) == 1 else "<br>".join(asked)
    prompt = chosen.get("best_prompt")  # docs/results/rewards.json is older than this key
    cells = [
        ["a customer asks", question],
        [f"`{before}`, untouched", chosen["before"]],
        *([[f"`{prompt}`, its best prompt", chosen["prompted"]]] if prompt not in (None, before, after) else []),
        [f"`{after}`, tuned", chosen["after"]],
        ["a person's answer", chosen["reference"]],
    ]
    return _table(["", chosen["name"]], cells)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|").replace("\n", "<br>")


RENDERERS: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (scores, own_targets, verdict, run, steps, answer)
}
