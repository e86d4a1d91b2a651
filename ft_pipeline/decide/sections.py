"""What a comparison tells, in sections: each grid and each sentence once, for terminal, Markdown and report."""

from collections.abc import Mapping, Sequence

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.findings.costs import describe_break_even
from ft_pipeline.decide.notes import (
    base_models,
    describe_share,
    footnotes,
    not_compared,
    shown_metrics,
    small_note,
    unusable,
)
from ft_pipeline.decide.sentences import say
from ft_pipeline.decide.slice_table import SlicesOfRow, slices_of
from ft_pipeline.evaluation.comparison.check_records import FieldResults
from ft_pipeline.evaluation.comparison.result_records import QuantizationError, SeedScores, TrainingCost
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve, describe_seed_spread
from ft_pipeline.evaluation.comparison.target_records import OWN_TARGETS
from ft_pipeline.evaluation.metrics.definitions import SHORT_TITLES
from ft_pipeline.pace import format_duration
from ft_pipeline.page import Cell, Grid, Heading, Section
from ft_pipeline.page_markdown import markdown_of

LEAST_SECONDS = 0.005
"""Fewer are 0.00 with two decimals."""


def sections(comparison: Comparison, chosen: Row | None = None) -> dict[str, Section]:
    """Return the sections of a comparison by name, in reading order. comparison: as people see it (screened_out.py).
    chosen: the row whose slices are shown, see slices_of."""
    checks = [claim for row in comparison.rows for claim in comparison.about(row, "probes", "task")]
    said = [f"{claim.row}: {say(comparison, claim)}." for claim in checks]
    return {
        "scores": _scores(comparison),
        "notes": Section(sentences=[*filter(None, [comparison.decided_by]), *footnotes(comparison)]),
        **{f"fields of {entry.title}": entry for entry in field_sections(comparison.field_results)},
        "break_even": _break_even(comparison),
        "kept_prompts": Section(sentences=[entry.describe() for entry in comparison.kept_prompts]),
        "own_targets": _own_targets(comparison),
        "seeds": _seeds(comparison),
        "learning_curve": _learning_curve(comparison),
        "quantization": _quantization(comparison.quantization_noise),
        "slices": _slices(slices_of(comparison, chosen)),
        "left_out": _left_out(comparison),
        "not_compared": _not_compared(comparison),
        "unusable": _unusable(comparison),
        "base_checks": Section(
            sentences=said,
            in_short=[sentence for sentence, claim in zip(said, checks, strict=True) if not claim.holds],
        ),
    }


def comparison_markdown(comparison: Comparison) -> str:
    """Return the text of comparison.md. comparison: as people see it."""
    return markdown_of(sections(comparison).values()) + "\n"


def _scores(comparison: Comparison) -> Section:
    """Return the rows, best first, and how many answers they rest on."""
    answers = f"{comparison.test_items} answers of {comparison.test_rows} held-out conversations"
    small = small_note(comparison)
    return Section(
        grid=score_grid(comparison),
        sentences=[f"{answers}; 95 % intervals in brackets. Rules of version {comparison.rules[0]}."],
        in_short=[f"Small: {small}"] if small else [],
    )


def score_grid(comparison: Comparison) -> Grid:
    """Return what every row scored and costs. The primary metric comes first."""
    rows, metrics = comparison.rows, shown_metrics(comparison)
    best = {
        name: min((row.scores[name].value for row in rows if name in row.scores), key=metric.rank_key, default=None)
        for name, metric in metrics.items()
    }
    columns: list[tuple[Heading, list[Cell | str]]] = [
        (Heading("", "model", is_number=False), [row.name for row in rows])
    ]
    if len(base_models(comparison)) > 1:
        columns.append((Heading("base model"), [row.base_model or "" for row in rows]))
    for name, metric in metrics.items():
        heading = Heading(metric.title, SHORT_TITLES.get(name, name), is_main=name == comparison.primary)
        columns.append((heading, [score_cell(row.scores.get(name), best[name]) for row in rows]))
    columns += _costs(rows)
    return Grid(
        [heading for heading, _ in columns],
        [[values[number] for _, values in columns] for number in range(len(rows))],
    )


def _costs(rows: Sequence[Row]) -> list[tuple[Heading, list[Cell | str]]]:
    """Return the columns of what a call of each row costs, and its training."""
    costs: list[tuple[Heading, list[Cell | str]]] = [
        (Heading("prompt tokens / call", "prompt"), [_number(row.prompt_tokens_per_call, 0) for row in rows]),
        (Heading("generated tokens / call", "generated"), [_number(row.generated_tokens_per_call, 0) for row in rows]),
        (Heading("seconds / call", "s/call"), [_seconds(row.seconds_per_call) for row in rows]),
    ]
    if any(row.cost_per_call is not None for row in rows):
        costs.append((Heading("cost / 1,000 answers", "cost/1,000"), [_number(row.cost_per_1000, 3) for row in rows]))
    if any(row.ends for row in rows):
        costs.append((Heading("ends"), [row.ends or "" for row in rows]))
    costs.append((Heading("trained parameters", "trained"), [f"{row.trainable_params:,}" for row in rows]))
    return [*costs, (Heading("training", short=None), [_training(row.training) for row in rows])]


def _break_even(comparison: Comparison) -> Section:
    """Return how many calls pay for training."""
    entries = comparison.break_even
    has_prices = any(entry.calls_by_cost is not None for entry in entries)
    headings = [Heading("", is_number=False), Heading("against", is_number=False)]
    headings += map(Heading, ("prompt tokens saved / call", "seconds saved / call", "training", "calls by time"))
    headings += [Heading("calls by cost")] if has_prices else []
    rows = [
        [
            entry.tuned,
            entry.untouched,
            _number(entry.saved.prompt_tokens_per_call, 0),
            _number(entry.saved.seconds_per_call, 2),
            _training(entry.training),
            _calls(entry.calls_by_time),
            *([_calls(entry.calls_by_cost)] if has_prices else []),
        ]
        for entry in entries
    ]
    return Section(
        "Break-even: how many calls pay for the training, compared with the best baseline.",
        Grid(headings, rows),
        in_short=[f"Break-even: {describe_break_even(entry)}" for entry in entries[:1]],
    )


def field_sections(results: Sequence[FieldResults]) -> list[Section]:
    """Return a section for each check of JSON answers: the share of right values by field and row, the field that the
    first row has wrong most often first."""
    found = []
    for metric in dict.fromkeys(result.metric for result in results):
        of_rows = [result for result in results if result.metric == metric]
        fields = list(dict.fromkeys(entry.field for result in of_rows for entry in result.fields))
        rows: list[list[Cell | str]] = [
            [result.row, *(score_cell(shares.get(field)) for field in fields)]
            for result in of_rows
            for shares in [{entry.field: entry.right for entry in result.fields}]
        ]
        title = f"{metric}: share of the answers in which a field is right, where it counts."
        grid = Grid([Heading("", is_number=False), *map(Heading, fields)], rows)
        found.append(Section(title, grid, in_short=()))
    return found


def _own_targets(comparison: Comparison) -> Section:
    """Return what each training was to improve."""
    titles = ("", "objective", "own target", "before → after", "change", "")
    rows = [
        [target.experiment, target.objective, target.label, target.values, target.change, target.verdict]
        for target in comparison.own_targets
    ]
    said = [
        f"  · {target.experiment} ({target.objective}) {target.verdict}. {target.describe()}"
        for target in comparison.own_targets
    ]
    grid = Grid([Heading(title, is_number=False) for title in titles], rows)
    return Section(OWN_TARGETS, grid, in_short=[OWN_TARGETS, *said] if said else ())


def _seeds(comparison: Comparison) -> Section:
    """Return the spread between training seeds."""
    metrics, primary = shown_metrics(comparison), comparison.metric()
    scores = {row.name: row.scores for row in comparison.rows}
    labels = ["trainings", *(metric.label for metric in metrics.values())]
    labels.append(f"{primary.label}: 95 % interval of the first")
    rows: list[list[Cell | str]] = []
    for spread in comparison.seeds:
        cells = [_spread(spread.scores.get(metric)) for metric in metrics]
        first = score_cell(scores[spread.row].get(comparison.primary))
        interval = f"[{first.ends[0]}, {first.ends[1]}]" if first.ends else ""
        rows.append([spread.row, str(spread.trainings), *cells, interval])
    return Section(
        "Variation between seeds: the mean of all trainings, with the lowest and the highest in brackets.",
        Grid([Heading("", is_number=False), *map(Heading, labels)], rows),
        in_short=[describe_seed_spread(spread, comparison.primary, primary) for spread in comparison.seeds],
    )


def _learning_curve(comparison: Comparison) -> Section:
    """Return the primary metric by training rows."""
    rows: list[list[Cell | str]] = [
        [
            curve.row,
            f"{point.share:.0%}",
            "" if point.rows is None else f"{point.rows:,}",
            score_cell(point.scores.get(comparison.primary)),
        ]
        for curve in comparison.learning_curves
        for point in curve.points
    ]
    headings = [Heading("", is_number=False), *map(Heading, ("share", "training rows", comparison.metric().label))]
    said = [describe_learning_curve(curve, comparison.metric()) for curve in comparison.learning_curves]
    return Section("Learning curve: the same training on a share of its rows.", Grid(headings, rows), said, said)


def _quantization(errors_by_experiment: Mapping[str, Sequence[QuantizationError]]) -> Section:
    """Return how much each pair of forms of a model differs."""
    headings = [Heading(title, is_number=False) for title in ("", "from", "to")]
    headings += map(Heading, ("KL, nats per token", "loss from", "loss to", "difference"))
    rows = [
        [
            experiment,
            error.first,
            error.second,
            *(f"{number:.4f}" for number in (error.kl, error.first_loss, error.second_loss)),
            f"{error.difference:+.4f}",
        ]
        for experiment, errors in errors_by_experiment.items()
        for error in errors
    ]
    title = "Quantization noise, on the validation rows (4bit: quantized for this measurement only)."
    return Section(title, Grid(headings, rows), in_short=())


def _slices(parts: SlicesOfRow | None) -> Section:
    """Return the leads of a row in parts of the test conversations."""
    if parts is None:
        return Section()
    headings = [Heading("slice", is_number=False), Heading("conversations")]
    headings += [Heading(f"lead over {rival}") for rival in parts.rivals]
    rows = [[name, f"{size:,}", *leads, about] for name, about, size, leads in parts.table()]
    return Section(
        f"Slices: leads of {parts.row} in parts of the test conversations, with 95 % intervals.",
        Grid([*headings, Heading("", is_number=False)], rows),
        parts.sentences(),
        parts.sentences(),
    )


def _left_out(comparison: Comparison) -> Section:
    said = [
        f"Left out: {row.name} was scored in another evaluation ({', '.join(row.differs_in) or 'unknown'} differs). "
        "Score it again."
        for row in comparison.left_out
    ]
    return Section(sentences=said, in_short=())


def _not_compared(comparison: Comparison) -> Section:
    return Section(sentences=[f"Not compared: {sentence}" for sentence in not_compared(comparison)])


def _unusable(comparison: Comparison) -> Section:
    short = [
        f"{row.name} (of its answers, {describe_share(breaches[0])})"
        for row in comparison.rows
        if (breaches := comparison.breaches(row))
    ]
    return Section(
        sentences=[f"Not usable: {sentence}." for sentence in unusable(comparison)],
        in_short=[f"Not usable: {'; '.join(short)}. The report says more."] if short else (),
    )


def score_digits(value: float) -> int:
    """Return the number of decimals for a score of this size, and for its interval."""
    return 1 if abs(value) >= 10 else 3


def score_cell(score: Score | None, best: float | None = None) -> Cell:
    """Return a score with its interval. best: the best value of its column."""
    if score is None:
        return Cell("")
    digits = score_digits(score.value)
    ends = None if score.low is None else (f"{score.low:.{digits}f}", f"{score.high:.{digits}f}")
    return Cell(f"{score.value:.{digits}f}", ends, score.value == best)


def _spread(score: SeedScores | None) -> Cell:
    if score is None:
        return Cell("")
    digits = score_digits(score.mean)
    return Cell(f"{score.mean:.{digits}f}", (f"{score.min:.{digits}f}", f"{score.max:.{digits}f}"))


def _calls(calls: int | None) -> str:
    return "never" if calls is None else f"{calls:,}"


def _training(training: TrainingCost | None) -> str:
    return "" if training is None else format_duration(training.seconds)


def _seconds(value: float | None) -> str:
    """Return the seconds of a call; those of a classifier are not 0.00."""
    return "below 0.01" if value is not None and value < LEAST_SECONDS else _number(value, 2)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
