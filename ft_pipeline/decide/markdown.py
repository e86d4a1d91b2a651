"""Write a comparison as Markdown tables, for the UI and for readers of the file."""

from collections.abc import Mapping, Sequence

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import base_models, footnotes, shown_metrics, unusable
from ft_pipeline.decide.slice_table import slices_of
from ft_pipeline.decide.words import say
from ft_pipeline.evaluation.comparison.check_records import FieldResults
from ft_pipeline.evaluation.comparison.result_records import BreakEven, QuantizationError, SeedScores, TrainingCost
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve
from ft_pipeline.evaluation.comparison.target_records import OWN_TARGETS
from ft_pipeline.pace import format_duration


def markdown_table(comparison: Comparison) -> str:
    """Return the comparison as Markdown: its rows, best first, with intervals in brackets, and the other results.

    comparison: as people see it (screened_out.py).
    """
    answers = f"{comparison.test_items} answers of {comparison.test_rows} held-out conversations"
    parts = [
        _score_table(comparison),
        f"{answers}; 95 % intervals in brackets. Rules of version {comparison.rules[0]}.",
    ]
    parts += [comparison.decided_by] if comparison.decided_by else []
    parts += footnotes(comparison)
    parts += field_tables(comparison.field_results)
    parts += _break_even_table(comparison.break_even)
    parts += [entry.describe() for entry in comparison.kept_prompts]
    parts += _own_target_table(comparison)
    parts += _seed_table(comparison)
    parts += _learning_curve_table(comparison)
    parts += _quantization_table(comparison.quantization_noise)
    parts += _slice_table(comparison)
    parts += [
        f"Left out: {row.name} was scored in another evaluation ({', '.join(row.differs_in) or 'unknown'} differs). "
        "Score it again."
        for row in comparison.left_out
    ]
    parts += [f"Not compared: {entry.describe()}" for entry in comparison.contaminated]
    parts += [f"Not compared: {sentence}" for sentence in comparison.not_asked]
    parts += [f"Not usable: {sentence}." for sentence in unusable(comparison)]
    checks = [claim for row in comparison.rows for claim in comparison.about(row, "probes", "task")]
    parts += [f"{claim.row}: {say(comparison, claim)}." for claim in checks]
    return "\n\n".join(parts) + "\n"


def _score_table(comparison: Comparison) -> str:
    metrics = shown_metrics(comparison)
    labels = [metric.title for metric in metrics.values()]
    has_prices = any(row.cost_per_call is not None for row in comparison.rows)
    costs = [
        "prompt tokens / call",
        "generated tokens / call",
        "seconds / call",
        *(["cost / 1,000 answers"] if has_prices else []),
    ]
    has_ends = any(row.ends for row in comparison.rows)
    has_bases = len(base_models(comparison)) > 1
    header = ["", *(["base model"] if has_bases else []), *labels, *costs, *(["ends"] if has_ends else [])]
    header += ["trained parameters", "training"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in comparison.rows:
        cells = [
            _escape(row.name),
            *([_escape(row.base_model or "")] if has_bases else []),
            *(_score_cell(row.scores.get(metric)) for metric in metrics),
        ]
        cells += [_number_cell(row.prompt_tokens_per_call, 0), _number_cell(row.generated_tokens_per_call, 0)]
        cells += [_number_cell(row.seconds_per_call, 2), *([_number_cell(row.cost_per_1000, 3)] if has_prices else [])]
        cells += [row.ends or ""] if has_ends else []
        lines.append([*cells, f"{row.trainable_params:,}", _training_cell(row.training)])
    return _table(lines)


def _break_even_table(entries: Sequence[BreakEven]) -> list[str]:
    """Return the table of how many calls pay for training; an empty list if there are no entries."""
    if not entries:
        return []
    header = ["", "against", "prompt tokens saved / call", "seconds saved / call", "training", "calls by time"]
    has_prices = any(entry.calls_by_cost is not None for entry in entries)
    header += ["calls by cost"] if has_prices else []
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for entry in entries:
        cells = [entry.tuned, entry.untouched, _number_cell(entry.saved.prompt_tokens_per_call, 0)]
        cells += [
            _number_cell(entry.saved.seconds_per_call, 2),
            _training_cell(entry.training),
            _calls_cell(entry.calls_by_time),
        ]
        lines.append([*cells, *([_calls_cell(entry.calls_by_cost)] if has_prices else [])])
    title = "Break-even: how many calls pay for the training, compared with the best baseline."
    return [title, _table(lines)]


def field_tables(results: Sequence[FieldResults]) -> list[str]:
    """Return a table for each check of JSON answers: the share of right values by field and row, the field that the
    first row has wrong most often first; an empty list without such a check."""
    parts: list[str] = []
    for metric in dict.fromkeys(result.metric for result in results):
        of_rows = [result for result in results if result.metric == metric]
        fields = list(dict.fromkeys(entry.field for result in of_rows for entry in result.fields))
        lines = [["", *map(_escape, fields)], ["---", *["---:"] * len(fields)]]
        for result in of_rows:
            found = {entry.field: entry.right for entry in result.fields}
            lines.append([_escape(result.row), *(_score_cell(found.get(field)) for field in fields)])
        parts += [f"{metric}: share of the answers in which a field is right, where it counts.", _table(lines)]
    return parts


def _own_target_table(comparison: Comparison) -> list[str]:
    """Return the table of what each training was to improve; an empty list if that was not measured."""
    if not comparison.own_targets:
        return []
    lines = [["", "objective", "own target", "before → after", "change", ""], ["---"] * 6]
    for target in comparison.own_targets:
        cells = (target.experiment, target.objective, target.label, target.values, target.change, target.verdict)
        lines.append([_escape(cell) for cell in cells])
    return [OWN_TARGETS, _table(lines)]


def _seed_table(comparison: Comparison) -> list[str]:
    """Return the table of the spread between training seeds; an empty list if no experiment has several seeds."""
    if not comparison.seeds:
        return []
    metrics = shown_metrics(comparison)
    scores = {row.name: row.scores for row in comparison.rows}
    labels = [metric.label for metric in metrics.values()]
    header = ["", "trainings", *labels, f"{comparison.metric().label}: 95 % interval of the first"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for spread in comparison.seeds:
        cells = [_spread_cell(spread.scores.get(metric)) for metric in metrics]
        score = scores[spread.row].get(comparison.primary_metric)
        lines.append([spread.row, str(spread.trainings), *cells, "" if score is None else _interval_cell(score)])
    title = "Variation between seeds: the mean of all trainings, with the lowest and the highest in brackets."
    return [title, _table(lines)]


def _learning_curve_table(comparison: Comparison) -> list[str]:
    """Return the table of the primary metric by training rows; an empty list if there is no learning curve."""
    if not comparison.learning_curves:
        return []
    metric = comparison.metric()
    lines = [["", "share", "training rows", metric.label], ["---", *["---:"] * 3]]
    for curve in comparison.learning_curves:
        for point in curve.points:
            rows = "" if point.rows is None else f"{point.rows:,}"
            score = point.scores.get(comparison.primary_metric)
            lines.append([curve.row, f"{point.share:.0%}", rows, _score_cell(score)])
    sentences = [describe_learning_curve(curve, metric) for curve in comparison.learning_curves]
    return ["Learning curve: the same training on a share of its rows.", _table(lines), *sentences]


def _quantization_table(errors_by_experiment: Mapping[str, Sequence[QuantizationError]]) -> list[str]:
    """Return the table of quantization errors; an empty list if they were not measured."""
    if not errors_by_experiment:
        return []
    header = ["", "from", "to", "KL, nats per token", "loss from", "loss to", "difference"]
    lines = [header, ["---", "---", "---", *["---:"] * 4]]
    for experiment, errors in errors_by_experiment.items():
        for error in errors:
            numbers = [f"{number:.4f}" for number in (error.kl, error.first_loss, error.second_loss)]
            lines.append([experiment, error.first, error.second, *numbers, f"{error.difference:+.4f}"])
    title = "Quantization noise, on the validation rows (4bit: quantized for this measurement only)."
    return [title, _table(lines)]


def _slice_table(comparison: Comparison) -> list[str]:
    """Return the slices of the best tuned row, or else of the best row; an empty list if there are none."""
    parts = slices_of(comparison)
    if parts is None:
        return []
    header = ["slice", "conversations", *(f"lead over {rival}" for rival in parts.rivals), ""]
    lines = [header, ["---", "---:", *["---:"] * len(parts.rivals), "---"]]
    for name, about, size, leads in parts.table():
        lines.append([_escape(name), f"{size:,}", *leads, _escape(about)])
    title = f"Slices: leads of {parts.row} in parts of the test conversations, with 95 % intervals."
    return [title, *([_table(lines)] if parts.listed else []), *map(_escape, parts.sentences())]


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _calls_cell(calls: int | None) -> str:
    return "never" if calls is None else f"{calls:,}"


def _training_cell(training: TrainingCost | None) -> str:
    return "" if training is None else format_duration(training.seconds)


def _number_cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spread_cell(score: SeedScores | None) -> str:
    if score is None:
        return ""
    digits = score_digits(score.mean)
    return f"{score.mean:.{digits}f} [{score.min:.{digits}f}, {score.max:.{digits}f}]"


def _interval_cell(score: Score) -> str:
    digits = score_digits(score.value)
    return "" if score.low is None else f"[{score.low:.{digits}f}, {score.high:.{digits}f}]"


def _score_cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.value:.{score_digits(score.value)}f} {_interval_cell(score)}"


def score_digits(value: float) -> int:
    """Return the number of decimals for a score of this size, and for its interval."""
    return 1 if abs(value) >= 10 else 3
